"""Each function against its definition, written out the slow way."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwnas.pareto import contributions, hypervolume, nondominated, reference_point, subset


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


def brute_nondominated(points):
    return [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]


def brute_hypervolume(points, reference):
    """Cut space at every coordinate into cells and add up those that some point dominates."""
    m = len(reference)
    cuts = [np.unique(np.append(points[:, j][points[:, j] < reference[j]], reference[j])) for j in range(m)]
    total = 0.0
    for cell in itertools.product(*[range(len(c) - 1) for c in cuts]):
        low = np.array([cuts[j][c] for j, c in enumerate(cell)])
        high = np.array([cuts[j][c + 1] for j, c in enumerate(cell)])
        if (points <= low).all(axis=1).any():
            total += float(np.prod(high - low))
    return total


# Few distinct values: ties, duplicates and points on and beyond the reference are the rule, not the exception.
coarse = st.integers(-1, 5).map(float)
fine = st.floats(-1e6, 1e6, allow_subnormal=False)


few, one_to_five = st.integers(0, 12), st.integers(1, 5)


def points_of(values, objectives=one_to_five, count=few):
    return st.tuples(count, objectives).flatmap(lambda shape: arrays(np.float64, shape, elements=values))


@given(points_of(coarse) | points_of(fine))
def test_nondominated_is_its_definition(points):
    assert nondominated(points).tolist() == brute_nondominated(points)


@given(points_of(coarse, count=st.integers(60, 120), objectives=st.integers(4, 5)))
@settings(max_examples=15)
def test_nondominated_is_its_definition_beyond_the_sizes_of_the_naive_algorithm(points):
    assert nondominated(points).tolist() == brute_nondominated(points)


@given(points_of(coarse, objectives=st.integers(1, 4), count=st.integers(0, 7)))
def test_hypervolume_is_the_dominated_cells(points):
    reference = np.full(points.shape[1], 4.0)
    assert hypervolume(points, reference) == pytest.approx(brute_hypervolume(points, reference))


@given(points_of(coarse, objectives=st.integers(1, 5), count=st.integers(0, 10)))
def test_contribution_is_what_is_lost(points):
    reference = np.full(points.shape[1], 4.0)
    front = nondominated(points)
    whole = hypervolume(points, reference)
    expected = np.zeros(len(points))
    for row in front:
        expected[row] = whole - hypervolume(points[front[front != row]], reference)
    assert contributions(points, reference) == pytest.approx(expected)


def test_dominated_rows_hide_nothing():
    # (2, 2) lies behind (1, 1): it must not take away from what (1, 1) contributes.
    assert contributions([[1, 1], [2, 2]], [3, 3]).tolist() == [4, 0]


def test_points_on_or_beyond_the_reference_add_nothing():
    assert hypervolume([[1, 1], [0, 3], [5, 0]], [3, 3]) == 4
    assert contributions([[1, 1], [0, 3], [5, 0]], [3, 3]).tolist() == [4, 0, 0]


@given(points_of(coarse | fine, objectives=st.integers(1, 4)), st.integers(0, 14), st.data())
@settings(max_examples=200)
def test_subset_keeps_its_four_rules(points, k, data):
    rows = range(len(points))
    keep = data.draw(st.lists(st.sampled_from(rows), max_size=k, unique=True)) if len(points) else []
    reference = np.full(points.shape[1], 4.0)

    chosen = subset(points, k, reference, keep=keep)

    assert len(chosen) == min(k, len(points))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert set(keep) <= set(chosen.tolist())
    free = [row for row in chosen if row not in keep]
    taken, kept = {tuple(points[row]) for row in chosen}, {tuple(points[row]) for row in keep}
    distinct = {tuple(p) for p in points}
    repeats = len(free) - len({tuple(points[row]) for row in free} - kept)
    assert repeats == 0 or taken == distinct, "a duplicate was taken while something new was left"
    front = {tuple(points[row]) for row in nondominated(points)}
    assert front <= taken or all(tuple(points[row]) in front for row in free), "dominated came before non-dominated"
    if len(keep) + points.shape[1] <= k:
        for objective in range(points.shape[1]) if len(points) else ():
            assert points[chosen, objective].min() == points[:, objective].min()


def test_subset_is_within_the_greedy_bound_of_the_best():
    rng = np.random.default_rng(2)
    reference = np.array([1.1, 1.1])
    for _ in range(20):
        points = rng.random((9, 2))
        points = points[nondominated(points)]
        for k in range(1, len(points)):
            subsets = map(list, itertools.combinations(range(len(points)), k))
            best = max(hypervolume(points[rows], reference) for rows in subsets)
            # Two places may go to the extremes whatever they add; the others are greedy.
            greedy = 1 - (1 - 1 / k) ** (k if k < 2 else k - 2)
            assert hypervolume(points[subset(points, k, reference)], reference) >= greedy * best - 1e-12


def test_lazy_greedy_is_plain_greedy():
    rng = np.random.default_rng(0)
    directions = np.abs(rng.normal(size=(60, 3)))
    points = 1 - directions / np.linalg.norm(directions, axis=1, keepdims=True)
    reference = reference_point(points)
    chosen = sorted(points.argmin(axis=0))
    while len(chosen) < 12:
        gains = [-1.0 if r in chosen else hypervolume(points[[*chosen, r]], reference) for r in range(len(points))]
        chosen.append(int(np.argmax(gains)))
    assert subset(points, 12, reference).tolist() == sorted(chosen)


def test_subset_below_the_number_of_extremes_takes_what_dominates_most():
    assert subset([[0, 9], [9, 0], [3, 3]], 1, [10, 10]).tolist() == [2]


def test_subset_of_equal_networks_takes_the_first_and_then_the_rest():
    assert subset([[1, 2]] * 4, 1, [3, 3]).tolist() == [0]
    assert subset([[1, 2]] * 4, 3, [3, 3]).tolist() == [0, 1, 2]


def test_minus_zero_is_zero():
    assert subset([[0.0, 1], [-0.0, 1], [5, 5]], 2, [9, 9], keep=[1]).tolist() == [1, 2]


def test_subset_refuses_impossible_requests():
    with pytest.raises(ValueError, match=r"k is 1; it must be at least 2"):
        subset([[1, 2], [2, 1]], 1, [3, 3], keep=[0, 1])
    with pytest.raises(ValueError, match=r"k is -1"):
        subset([[1, 2]], -1, [3, 3])
    with pytest.raises(ValueError, match=r"keep names rows \[5\], but there are rows 0 to 1"):
        subset([[1, 2], [2, 1]], 2, [3, 3], keep=[5])


@given(points_of(coarse | fine, count=st.integers(1, 12)))
def test_every_front_point_is_inside_the_reference_point(points):
    front = points[nondominated(points)]
    assert (front < reference_point(points)).all()


def test_reference_point_of_a_single_point():
    assert reference_point([[2.0, 0.0, -5.0]]).tolist() == pytest.approx([2.2, 1.0, -4.5])


def test_reference_point_ignores_dominated_outliers():
    assert reference_point([[10, 1], [11, 0], [1000, 1000]]).tolist() == pytest.approx([11.1, 1.1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "function",
    [
        nondominated,
        reference_point,
        lambda v: hypervolume(v, [9, 9]),
        lambda v: contributions(v, [9, 9]),
        lambda v: subset(v, 1, [9, 9]),
    ],
)
def test_nan_and_infinity_are_refused_by_row(function, bad):
    with pytest.raises(ValueError, match=r"row 1 is \[2\.0, (nan|-?inf)\]; every objective value must be finite"):
        function([[1, 1], [2, bad]])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(points, objectives\)"):
        nondominated([1, 2])
    with pytest.raises(ValueError, match=r"reference has shape \(3,\); expected \(2,\)"):
        hypervolume([[1, 2]], [1, 2, 3])
    with pytest.raises(ValueError, match=r"reference is \[nan, 1.0\]"):
        hypervolume([[1, 2]], [np.nan, 1])
    with pytest.raises(ValueError, match="no rows"):
        reference_point(np.empty((0, 2)))


def test_no_points():
    nothing = np.empty((0, 3))
    assert nondominated(nothing).tolist() == []
    assert hypervolume(nothing, [1, 1, 1]) == 0
    assert contributions(nothing, [1, 1, 1]).tolist() == []
    assert subset(nothing, 5, [1, 1, 1]).tolist() == []


def test_423_000_points_in_four_objectives():
    # As many as a long tabular study holds. No claim on time here, beyond that the test ends: O(n^2) takes an hour.
    rng = np.random.default_rng(1)
    points = rng.random((423_000, 4))
    front = nondominated(points)
    best = points[front]
    for row in rng.choice(len(points), 200, replace=False):
        beaten = ((best <= points[row]).all(axis=1) & (best < points[row]).any(axis=1)).any()
        assert beaten != (row in front)
