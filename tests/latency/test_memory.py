import pytest

from latency.memory import Memory

MB = 2**20


def test_what_distance_adds():
    memory = Memory((1, 2, 8, 128), (0.0, 0.3, 0.6, 1.0))
    assert memory.extra(MB / 2, 10.0, 30.0) == 0
    assert memory.extra(2 * MB, 10.0, 30.0) == pytest.approx(5)
    assert memory.extra(8 * MB, 10.0, 30.0) == pytest.approx(10)
    assert memory.extra(32 * MB, 10.0, 30.0) == pytest.approx(20)
    assert memory.extra(1000 * MB, 10.0, 30.0) == pytest.approx(30)


@pytest.mark.parametrize("share", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 1.0)])
def test_devices_with_one_cache_or_none(share):
    memory = Memory((1, 8, 128), share)
    for mb, wanted in zip((1, 8, 128), share, strict=True):
        assert memory.extra(mb * MB, 30.0, 30.0) == 30 * wanted


def test_shares_rise_whatever_noise_says():
    memory = Memory.measured([1, 2, 4, 8], [[10, 12, 11, 20]])
    assert memory.share == (0.0, 0.2, 0.2, 1.0)


def test_memory_that_makes_no_difference():
    assert Memory.measured([1, 2], [[10, 10], [3, 2]]).share == (0.0, 0.0)


@pytest.mark.parametrize(
    ("mb", "share"), [((1,), (0,)), ((2, 1), (0, 1)), ((0, 1), (0, 1)), ((1, 2), (0, 1.5)), ((1, 2), (0, 0.5, 1))]
)
def test_nonsense_is_refused(mb, share):
    with pytest.raises(ValueError, match="memory"):
        Memory(mb, share)
