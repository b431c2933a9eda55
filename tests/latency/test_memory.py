import pytest

from latency.memory import Memory

MB = 2**20


def test_what_was_measured_further_away_pays_less():
    memory = Memory((1, 4, 128), (0.0, 0.5, 1.0))
    assert memory.beyond(4 * MB, measured=MB) == 0.5
    assert memory.beyond(1000 * MB, measured=4 * MB) == 1.0
    assert memory.beyond(MB, measured=4 * MB) == 0
    assert memory.beyond(1000 * MB, measured=500 * MB) == 0  # it was measured from main memory


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
