import pytest

from hwnas.costs import Costs
from objectives import cost
from objectives.base import Estimate, Objective
from tests.hwnas.toys import SPACE


def recording(log):
    def estimate(archs):
        log.append([arch.hash for arch in archs])
        return [Estimate(1.0, 0.5, 2.0) for _ in archs]

    return Objective("latency", estimate)


def test_each_network_is_estimated_once_and_those_that_are_new_together():
    log = []
    costs = Costs(SPACE, [cost.PARAMS, recording(log)])
    first, second, third = SPACE.starts()[:3]
    found = costs.of([first, second, first])
    assert [set(one) for one in found] == [{"params", "latency"}] * 3
    assert found[0] == found[2]
    assert found[1]["params"] == Estimate.exact(cost.params(second))
    costs.of([third, second])
    costs.of([second])
    assert log == [[first.hash, second.hash], [third.hash]]
    assert costs.of([]) == []


def test_limits_hold_for_the_upper_end():
    (found,) = Costs(SPACE, [cost.PARAMS, recording([])]).of(SPACE.starts()[:1])
    params = found["params"].value
    for limits, excess in [
        ({"latency": 2.0}, 1.0),
        ({"latency": 1.9}, 2 / 1.9),
        ({"latency": 4.0, "params": params / 3}, 3),
        ({}, 0),
    ]:
        costs = Costs(SPACE, [cost.PARAMS, recording([])], limits)
        assert costs.excess(found) == pytest.approx(excess)
        assert costs.allows(found) == (excess <= 1)
