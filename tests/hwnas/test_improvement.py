"""Expected hypervolume improvement with known costs, held against sampled errors and against hypervolumes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import pareto
from hwnas.improvement import best_together, improvement, shortfall


def random_front(rng, members, costs):
    return rng.uniform(0.05, 1.1, (members, 1 + costs))


def gains(front, costs, errors):
    """Hypervolume that one candidate adds, for each of some errors."""
    corner = np.ones(1 + len(costs))
    before = pareto.hypervolume(front, corner) if len(front) else 0.0
    return np.array([pareto.hypervolume([*front, [error, *costs]], corner) - before for error in errors])


def test_shortfall_is_the_expectation():
    errors = np.exp(np.random.default_rng(0).normal(-2.0, 0.5, 400_000))
    for level in (0.02, 0.1, 0.2, 0.5):
        expected = np.maximum(level - errors, 0).mean()
        assert shortfall(np.array(level), np.array(-2.0), np.array(0.5)) == pytest.approx(expected, abs=2e-4)


@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_a_certain_error_gains_its_hypervolume(members, costs, seed):
    rng = np.random.default_rng(seed)
    front, candidates = random_front(rng, members, costs), rng.uniform(0, 1.1, (5, costs))
    errors = rng.uniform(0.05, 1.1, 5)
    found = improvement(front, candidates, np.log(errors), np.full(5, 1e-9))
    expected = [gains(front, one, [error])[0] for one, error in zip(candidates, errors, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("costs", [1, 2, 3, 4])
def test_an_uncertain_error_gains_the_mean(costs):
    rng = np.random.default_rng(costs)
    front, candidates = random_front(rng, 8, costs), rng.uniform(0, 0.6, (3, costs))
    for candidate in candidates:
        (found,) = improvement(front, candidate[None], np.array([-1.0]), np.array([0.4]))
        sampled = gains(front, candidate, np.exp(rng.normal(-1.0, 0.4, 4000)))
        assert found == pytest.approx(sampled.mean(), abs=4 * sampled.std() / 4000**0.5)


def test_nothing_is_gained_beyond_the_box_or_behind_the_front():
    front = np.array([[0.2, 0.3]])
    found = improvement(front, np.array([[1.2], [0.5], [0.1]]), np.log([0.1, 0.5, 0.5]), np.full(3, 1e-9))
    assert found == pytest.approx([0, 0, 0.5 * 0.2])


def test_doubt_is_worth_something():
    front = np.array([[0.2, 0.3]])
    sure, unsure = improvement(front, np.array([[0.5], [0.5]]), np.log([0.25, 0.25]), np.array([0.01, 0.5]))
    assert sure < 1e-6 < 1e-3 < unsure


@given(st.integers(1, 3), st.integers(0, 10**6))
def test_together_is_greedy_with_the_chosen_believed(costs, seed):
    rng = np.random.default_rng(seed)
    front, candidates = random_front(rng, 5, costs), rng.uniform(0, 1, (12, costs))
    log_error, spread = rng.normal(-1.5, 0.5, 12), rng.uniform(0.05, 0.6, 12)
    chosen, grown = [], front
    for _ in range(4):
        found = improvement(grown, candidates, log_error, spread)
        found[chosen] = -1
        best = int(found.argmax())
        chosen.append(best)
        grown = np.concatenate([grown, [[np.exp(log_error[best]), *candidates[best]]]])
    assert best_together(front, candidates, log_error, spread, 4) == chosen


def test_together_ends_with_the_candidates():
    empty = np.empty((0, 2))
    one = np.array([0.1])
    assert best_together(empty, one[:, None], np.log(one), one, 3) == [0]
    assert best_together(empty, np.empty((0, 1)), np.empty(0), np.empty(0), 3) == []
    assert best_together(empty, one[:, None], np.log(one), one, 0) == []
