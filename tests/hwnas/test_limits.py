import re

import pytest

from hwnas.costs import Costs
from hwnas.limits import starts_within
from objectives import cost
from objectives.base import Estimate, Objective
from spaces.errors import LimitError
from spaces.plain import PlainSpace
from tests.hwnas.toys import FOUR_NETWORKS, SPACE, costs

PARAMS = sorted(cost.params(arch) for arch in SPACE.starts())


def test_without_limits_a_search_begins_with_all_starts():
    assert starts_within(SPACE, costs()) == SPACE.starts()


def test_starts_beyond_a_limit_are_left_out():
    kept = starts_within(SPACE, costs({"params": PARAMS[2]}))
    assert sorted(cost.params(arch) for arch in kept) == PARAMS[:3]


@pytest.mark.parametrize("tightness", [0.95, 0.5, 0.3])
def test_a_tight_limit_gives_one_network_just_within_it(tightness):
    limit = tightness * PARAMS[0]
    (start,) = starts_within(SPACE, costs({"params": limit}))
    assert 0.5 * limit < cost.params(start) <= limit
    assert SPACE.refusal(start) is None


def test_two_tight_limits():
    limits = {"params": 0.7 * PARAMS[0], "macs": 0.5 * cost.macs(SPACE.starts()[0])}
    (start,) = starts_within(SPACE, costs(limits))
    assert cost.params(start) <= limits["params"]
    assert cost.macs(start) <= limits["macs"]


def test_a_limit_that_nothing_keeps_is_refused_with_the_smallest_value():
    smallest = 8 + 16 + 2 * (8 + 1)  # of `FOUR_NETWORKS`: eight filters of 1 x 1, their norm, two classes
    with pytest.raises(LimitError) as refused:
        starts_within(FOUR_NETWORKS, costs({"params": 10.0}, space=FOUR_NETWORKS))
    assert str(refused.value) == (
        f"no network of this space was found to keep params <= 10; the smallest found: params {smallest}. "
        "Raise the limit, or allow smaller networks by space.min_width, space.stem_stride or data.image_size"
    )
    (start,) = starts_within(FOUR_NETWORKS, costs({"params": smallest}, space=FOUR_NETWORKS))
    assert cost.params(start) == smallest


def test_of_several_limits_those_that_are_broken_are_named():
    with pytest.raises(LimitError, match=re.escape("params <= 10, macs <= 1G; the smallest found (each by itself)")):
        starts_within(FOUR_NETWORKS, costs({"params": 10.0, "macs": 1e9}, space=FOUR_NETWORKS))
    with pytest.raises(LimitError, match=r"each by itself\): params 42, macs [\d.]+k?\. Raise"):
        starts_within(FOUR_NETWORKS, costs({"params": 10.0, "macs": 10.0}, space=FOUR_NETWORKS))


def test_the_upper_end_of_an_estimate_counts():
    def estimate(archs):
        return [Estimate(params := cost.params(arch) / 1e3, 0.5 * params, 2 * params) for arch in archs]

    latency = Objective("latency", estimate)
    limit = PARAMS[0] / 1e3  # what the smallest start has as its value
    (start,) = starts_within(SPACE, Costs(SPACE, [latency], {"latency": limit}))
    assert 2 * cost.params(start) / 1e3 <= limit
    with pytest.raises(LimitError, match=r"latency <= 1us; the smallest found: latency \d+us"):
        starts_within(SPACE, Costs(SPACE, [latency], {"latency": 0.001}))


def test_a_plateau_is_crossed():
    class Wide(PlainSpace):
        """Begins with four maps of 32 channels: peak memory is that of three pairs, and no move narrows them all."""

        def starts(self):
            return [self.plain([32], [4])]

    space = Wide((1, 8, 8), 3, stages=1, max_width=32, separable=False, skips=False, max_depth=4)
    (start,) = space.starts()
    pair = cost.peak_memory(start)
    narrowed = [space.apply(start, move).genotype for move in space.moves(start)]
    assert min(map(cost.peak_memory, narrowed)) == pair
    (found,) = starts_within(space, Costs(space, [cost.PEAK_MEMORY, cost.PARAMS], {"peak_memory": pair / 2}))
    assert cost.peak_memory(found) <= pair / 2
