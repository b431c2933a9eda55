"""Pareto fronts and hypervolume, in one place for the search, the report and the benchmarks.

Points are rows of objective values, shape `(points, objectives)`, and every objective is minimised. The algorithms are
moocore's (the library under pymoo's indicators too); this file fixes what it leaves open: what happens to NaN, to
duplicates, to points beyond the reference, and which reference is used. Hypervolume depends on scale: take logarithms
of costs that span orders of magnitude first.
"""

import heapq
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Index = NDArray[np.intp]


def nondominated(values: ArrayLike) -> Index:
    """Rows of `values` that no other row dominates, in ascending order.

    A row dominates another when it is nowhere worse and somewhere better. Equal rows do not dominate each other: the
    duplicates of a non-dominated row are all non-dominated. 423,000 rows of four objectives take a fraction of a
    second.

    Args:
        values: objective values, shape `(points, objectives)`, minimised.

    Raises:
        ValueError: `values` has another shape, or holds NaN or infinity; the message names the row.

    >>> nondominated([[1, 3], [2, 2], [3, 3], [2, 2], [3, 1]])
    array([0, 1, 3, 4])
    """
    points = _points(values)
    if len(points) == 0:
        return np.empty(0, dtype=np.intp)
    if points.shape[1] == 1:  # moocore wants at least two objectives
        return np.flatnonzero(points[:, 0] == points.min())
    return np.flatnonzero(moocore.is_nondominated(points, keep_weakly=True))


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what the rows of `values` dominate, up to the point `reference` (Zitzler & Thiele, 1999).

    Rows that are not better than the reference in every objective add nothing. No rows: 0.

    Args:
        values: objective values, shape `(points, objectives)`, minimised.
        reference: the worst corner, one value for each objective.

    Raises:
        ValueError: a shape does not fit, or a value is NaN or infinite.

    >>> hypervolume([[1, 2], [2, 1]], reference=[3, 3])
    3.0
    """
    points = _points(values)
    corner = _corner(reference, points.shape[1], "reference")
    inside = points[(points < corner).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - inside.min())
    return float(moocore.hypervolume(inside, ref=corner))


def contributions(values: ArrayLike, reference: ArrayLike) -> Points:
    """Hypervolume that would be lost with each row of `values`, shape `(points,)`.

    Measured within the non-dominated rows: a dominated row contributes nothing and hides nothing. Nor does a row
    that has a duplicate contribute: without it, nothing would be lost.

    Args:
        values: objective values, shape `(points, objectives)`, minimised.
        reference: the worst corner, one value for each objective.

    Raises:
        ValueError: a shape does not fit, or a value is NaN or infinite.

    >>> contributions([[1, 2], [2, 1], [2, 2]], reference=[3, 3])
    array([1., 1., 0.])
    """
    points = _points(values)
    corner = _corner(reference, points.shape[1], "reference")
    lost = np.zeros(len(points))
    front = nondominated(points)
    _, first, counts = np.unique(points[front], axis=0, return_index=True, return_counts=True)
    distinct = front[first]
    inside = (points[distinct] < corner).all(axis=1)
    distinct, alone = distinct[inside], counts[inside] == 1
    if len(distinct) == 0:
        return lost
    if points.shape[1] == 1:
        shares = corner[0] - points[distinct, 0]
    else:
        shares = moocore.hv_contributions(points[distinct], ref=corner)
    lost[distinct[alone]] = shares[alone]
    return lost


def reference_point(values: ArrayLike) -> Points:
    """The reference this project uses where none is prescribed: 10 % of the front's extent beyond its nadir.

    The nadir is the worst value of each objective over the *non-dominated* rows. The margin lets extreme points count
    (with r = nadir they would add nothing; Ishibuchi et al., "How to specify a reference point in hypervolume
    calculation", 2018). Where the front has no extent the margin is 10 % of the value, or 1 at zero. Hypervolumes are
    comparable only under one reference: compute it once and keep it.

    Args:
        values: objective values, shape `(points, objectives)`, at least one row.

    Raises:
        ValueError: `values` is empty or of another shape, or holds NaN or infinity.

    >>> reference_point([[0, 20], [1, 10], [5, 50]])
    array([ 1.1, 21. ])
    """
    points = _points(values)
    if len(points) == 0:
        raise ValueError("no rows, so no front to take a reference point from")
    front = points[nondominated(points)]
    nadir = front.max(axis=0)
    margin = 0.1 * (nadir - front.min(axis=0))
    margin = np.where(margin > 0, margin, 0.1 * np.abs(nadir))
    reference: Points = nadir + np.where(margin > 0, margin, 1.0)
    return reference


def subset(
    values: ArrayLike, k: int, reference: ArrayLike, keep: Sequence[int] = (), *, extremes: bool = True
) -> Index:
    """At most `k` rows that together dominate as much as they can, in ascending order.

    Greedy hypervolume subset selection: each step takes the row that adds most, which is within 1 - 1/e of the best
    subset since hypervolume is submodular (Guerreiro, Fonseca & Paquete, 2016), and near it in practice.

    1. Rows in `keep` are always in.
    2. With `extremes`, so is one row with the best value of each objective, if there is room for all of these.
    3. Non-dominated rows come before dominated ones, front by front.
    4. Duplicates of a chosen row are taken only when nothing else is left; with fewer than `k` rows, all are.

    Args:
        values: objective values, shape `(points, objectives)`, minimised.
        k: how many rows.
        reference: the worst corner, one value for each objective.
        keep: rows that must be among the chosen.
        extremes: whether rule 2 holds. What is best in one objective may add next to nothing to the volume.

    Raises:
        ValueError: a shape does not fit, a value is NaN or infinite, `k` is negative or less than the rows in `keep`,
            or `keep` names a row that `values` does not have.

    >>> subset([[0, 9], [1, 5], [5, 1], [9, 0], [1, 5]], k=3, reference=[10, 10])
    array([0, 1, 3])
    """
    points = _points(values)
    corner = _corner(reference, points.shape[1], "reference")
    chosen = list(dict.fromkeys(int(row) for row in keep))
    if any(not 0 <= row < len(points) for row in chosen):
        raise ValueError(f"keep names rows {chosen}, but there are rows 0 to {len(points) - 1}")
    if k < len(chosen):
        raise ValueError(f"k is {k}; it must be at least {len(chosen)}, the number of rows to keep")

    kept = {points[row].tobytes() for row in chosen}
    rest = np.sort(np.unique(points, axis=0, return_index=True)[1])
    while len(chosen) < k and len(rest) > 0:
        front = rest[nondominated(points[rest])]
        fresh = [int(row) for row in front if points[row].tobytes() not in kept]
        if extremes and len(chosen) + len(fresh) > k:
            missing = _missing_extremes(points, chosen, fresh, corner)
            chosen += missing if len(chosen) + len(missing) <= k else []
        chosen = _fill(points, chosen, [row for row in fresh if row not in chosen], k, corner)
        rest = np.setdiff1d(rest, front)
    spare = [row for row in range(len(points)) if row not in chosen]
    return np.sort(np.array(chosen + spare[: k - len(chosen)], dtype=np.intp))


def _fill(points: Points, chosen: list[int], front: list[int], k: int, corner: Points) -> list[int]:
    """`chosen` and the best of `front`, at most `k` together."""
    if len(chosen) + len(front) <= k:
        return chosen + front

    def gain(row: int) -> float:
        return hypervolume(points[[*chosen, row]], corner) - volume

    volume = hypervolume(points[chosen], corner) if chosen else 0.0
    # Lazy greedy (Minoux, 1978): gains only shrink as rows are added, so a stale gain is an upper bound, and the row
    # whose fresh gain still tops the heap is the best. Ties go to the lowest row.
    heap = [(-gain(row), row, len(chosen)) for row in front]
    heapq.heapify(heap)
    while len(chosen) < k and heap:
        bound, row, size = heapq.heappop(heap)
        if size < len(chosen):
            heapq.heappush(heap, (-gain(row), row, len(chosen)))
        else:
            volume -= bound
            chosen = [*chosen, row]
    return chosen


def _missing_extremes(points: Points, chosen: list[int], front: list[int], corner: Points) -> list[int]:
    """For each objective the row that is best in it, unless a chosen row is as good; of ties, what dominates most."""
    extremes: list[int] = []
    for objective in range(points.shape[1]):
        best = points[front, objective].min()
        if all(points[row, objective] > best for row in chosen + extremes):
            tied = [row for row in front if points[row, objective] == best]
            extremes.append(max(tied, key=lambda row: hypervolume(points[[row]], corner)))
    return extremes


def _points(values: ArrayLike) -> Points:
    points = np.asarray(values, dtype=np.float64) + 0.0  # -0.0 becomes 0.0: equal values have equal bytes
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"objective values of shape {points.shape}; expected (points, objectives)")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"row {row} is {points[row].tolist()}; every objective value must be finite")
    return points


def _corner(corner: ArrayLike, objectives: int, name: str) -> Points:
    point = np.asarray(corner, dtype=np.float64)
    if point.shape != (objectives,):
        raise ValueError(f"{name} has shape {point.shape}; expected ({objectives},), one value for each objective")
    if not np.isfinite(point).all():
        raise ValueError(f"{name} is {point.tolist()}; every value must be finite")
    return point
