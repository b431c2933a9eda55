import math

import pytest

from latency.memory import MIDDLE_BYTES, Memory

MB = 2**20


def test_what_distance_adds():
    memory = Memory((1, 2, 8, 128), (0.0, 0.3, 0.6, 1.0))
    for mb, wanted in {0.5: 0, 2: 5, 8: 10, 32: 20, 1000: 30}.items():
        assert memory.extra(mb * MB, 5.0, 10.0, 30.0) == pytest.approx(wanted)


def test_what_others_move_drives_weights_from_the_last_cache_only():
    memory = Memory((1, 2, 8, 128), (0.0, 0.3, 0.6, 1.0), traffic=13_000.0)
    for mb, wanted in {0.5: 0, 2: 15, 8: 30, 1000: 30}.items():
        assert memory.extra(mb * MB, 10.0, 10.0, 30.0) == pytest.approx(wanted)


@pytest.mark.parametrize("share", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 1.0)])
def test_devices_with_one_cache_or_none(share):
    memory = Memory((1, 8, 128), share)
    for mb, wanted in zip((1, 8, 128), share, strict=True):
        assert memory.extra(mb * MB, 1.0, 30.0, 30.0) == 30 * wanted


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


@pytest.mark.parametrize("traffic", [0.0, 300.0, 4000.0])
def test_what_others_move_is_found_by_pauses(traffic):
    memory = Memory((0.5, 2.0, 8.0, 32.0, 128.0), (0.0, 0.2, 0.3, 0.4, 1.0), traffic)

    def seconds(nbytes, ms):
        return 1e-5 + memory.extra(nbytes, ms, 3e-6, 1e-5)

    pauses = (0.0, 3.0, 10.0, 30.0)
    near, paused = [seconds(mb * MB, 0.0) for mb in memory.mb], [seconds(MIDDLE_BYTES, ms) for ms in pauses]
    found = Memory.measured(memory.mb, [near, near], pauses, [paused, paused])
    assert found.share == memory.share
    assert found.traffic == pytest.approx(traffic, rel=0.03)


@pytest.mark.parametrize("traffic", [-1.0, math.nan, math.inf])
def test_traffic_that_cannot_be_is_refused(traffic):
    with pytest.raises(ValueError, match="traffic"):
        Memory((1, 8), (0, 1), traffic)
