from dataclasses import dataclass

import pytest

from hwnas.budget import Budget


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self):
        return self.now


def test_wall_time_with_a_part_kept_for_the_end():
    clock = Clock()
    budget = Budget(100.0, None, 0.3, clock=clock)
    assert (budget.elapsed, budget.left, budget.search_seconds) == (0, 100, pytest.approx(70))
    clock.now += 69
    assert not budget.search_is_over(10**6)
    clock.now += 2
    assert budget.search_is_over(0)
    assert (budget.elapsed, budget.left) == (71, 29)
    clock.now += 50
    assert budget.left == -21


def test_what_was_used_before_counts():
    clock = Clock()
    budget = Budget(100.0, None, 0.3, used=60.0, clock=clock)
    clock.now += 11
    assert budget.search_is_over(0)
    assert (budget.elapsed, budget.left) == (71, 29)


def test_trainings():
    clock = Clock()
    budget = Budget(None, 5, 0.3, clock=clock)
    clock.now += 1e6
    assert (budget.left, budget.search_seconds) == (None, None)
    assert [budget.search_is_over(trainings) for trainings in (4, 5, 6)] == [False, True, True]


def test_whichever_bound_comes_first():
    clock = Clock()
    budget = Budget(100.0, 5, 0.3, clock=clock)
    assert budget.search_is_over(5)
    assert not budget.search_is_over(4)
    clock.now += 80
    assert budget.search_is_over(4)
