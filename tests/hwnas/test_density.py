import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from hwnas.density import FEWEST, effective_size, rarity

FORMS = pytest.mark.parametrize("paper", [False, True], ids=["robust", "paper"])


def points(count, objectives=2, seed=0):
    """Costs that span some decades."""
    return 10 ** np.random.default_rng(seed).normal(4, 0.5, (count, objectives))


@FORMS
@given(st.integers(0, 30), st.integers(0, 10), st.integers(1, 4), st.integers(0, 10**6))
def test_probabilities(paper, known, asked, objectives, seed):
    found = rarity(points(known, objectives, seed), points(asked, objectives, seed + 1), paper=paper)
    assert found.shape == (asked,)
    assert (found > 0).all()
    assert asked == 0 or found.sum() == pytest.approx(1)


@FORMS
def test_rare_networks_are_drawn_more_often_than_crowded_ones(paper):
    crowd, lonely = np.array([[1e4, 1e6]]), np.array([[3e5, 4e7]])
    population = np.concatenate([crowd * (1 + 0.02 * points(20) / 1e4), points(10, seed=1)])
    common, rare = rarity(population, np.concatenate([crowd, lonely]), paper=paper)
    assert rare > 3 * common


def test_the_paper_takes_the_reciprocal_of_the_density():
    population, candidates = points(40, 3), points(7, 3, seed=1)
    weights = 1 / gaussian_kde(population.T)(candidates.T)
    assert rarity(population, candidates, paper=True) == pytest.approx(weights / weights.sum())


def test_an_outlier_gets_all_in_the_form_of_the_paper_but_not_in_ours():
    population = np.concatenate([1e4 * (1 + 0.1 * np.random.default_rng(0).normal(size=(30, 2))), [[1e6, 1e6]]])
    candidates = np.concatenate([population[:5], [[3e7, 2e7]]])
    assert rarity(population, candidates, paper=True)[-1] > 0.999
    assert rarity(population, candidates)[-1] < 0.6
    assert effective_size(rarity(population, candidates)) > 2


def test_densities_too_small_for_a_float_can_still_be_drawn_from():
    population = 1e4 * (1 + 0.01 * np.random.default_rng(0).normal(size=(30, 2)))
    candidates = np.array([[1e4, 1e4], [1e6, 1e6], [2e6, 1e6], [1e6, 2e6], [3e6, 1e6], [1e6, 3e6]])
    found = rarity(population, candidates, paper=True)
    assert np.isfinite(found).all()
    drawn = np.random.default_rng(0).choice(len(found), size=len(found), replace=False, p=found)
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]


def test_units_do_not_matter():
    population, candidates = points(20), points(6, seed=1)
    assert rarity(1000 * population, 1000 * candidates) == pytest.approx(rarity(population, candidates))


@FORMS
def test_objectives_that_say_the_same_or_nothing_are_left_out(paper):
    population, candidates = points(20, 1), points(6, 1, seed=1)
    alone = rarity(population, candidates, paper=paper)
    doubled = rarity(np.hstack([population, 7 * population]), np.hstack([candidates, 7 * candidates]), paper=paper)
    with_constant = rarity(
        np.hstack([population, np.full((20, 1), 3.0)]), np.hstack([candidates, np.full((6, 1), 5.0)]), paper=paper
    )
    assert doubled == pytest.approx(alone)
    assert with_constant == pytest.approx(alone)


@FORMS
def test_no_density_without_enough_different_points(paper):
    candidates = points(4, seed=1)
    assert rarity(points(FEWEST - 1), candidates, paper=paper).tolist() == [0.25] * 4
    assert rarity(np.full((9, 2), 5.0), candidates, paper=paper).tolist() == [0.25] * 4


@FORMS
def test_more_objectives_than_points(paper):
    assert rarity(points(FEWEST, objectives=7), points(4, objectives=7), paper=paper).sum() == pytest.approx(1)


def test_effective_size():
    assert effective_size(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective_size(np.array([1.0, 0.0, 0.0])) == 1
