"""Expected hypervolume improvement where only the error is uncertain: the costs of a candidate are known."""

import heapq

import numpy as np
from scipy.special import ndtr

from hwnas import pareto
from hwnas.pareto import Points


def shortfall(level: Points, log_error: Points, spread: Points) -> Points:
    """How far an error is expected to stay below a level, ``E[max(level - error, 0)]``.

    The logarithm of the error is normal, so that this is what a put option is worth (Black and Scholes, 1973).

    Args:
        level: Above 0, broadcast with the others.
        log_error: Mean of the logarithm.
        spread: Its standard deviation, above 0.

    >>> float(shortfall(np.array(0.5), np.log(0.2), np.array(1e-9)).round(6))
    0.3
    """
    distance = (np.log(level) - log_error) / spread
    below: Points = level * ndtr(distance) - np.exp(log_error + spread**2 / 2) * ndtr(distance - spread)
    return below


def improvement(front: Points, costs: Points, log_error: Points, spread: Points) -> Points:
    """Hypervolume that each candidate is expected to add to a front (Emmerich, 2005), in the unit box.

    At costs x the front has the error E(x), the lowest of all its members that cost no more in anything (1 where there
    is none). A candidate of error e at costs c gains ``E(x) - e`` wherever x is no cheaper than c and that is positive.
    So the expectation is the integral of :func:`shortfall` at the level E(x) over these x: a sum over the
    errors of the front, each times the volume where it is E(x). That volume is exact, with any number of costs.

    Args:
        front: Errors (first column) and costs of known networks, (k, 1 + costs), reference point 1.
        costs: Of the candidates, (n, costs).
        log_error: Expected logarithm of the error of each, (n,).
        spread: Its standard deviation, (n,).

    Returns:
        (n,) expected gains.
    """
    inside = front[(front < 1).all(axis=1)]
    inside = inside[np.argsort(inside[:, 0], kind="stable")]
    levels = np.append(np.maximum(inside[:, 0], 1e-12), 1.0)
    worth = shortfall(levels, log_error[:, None], spread[:, None])
    gains: Points = (_volumes(inside[:, 1:], costs) * worth).sum(axis=1)
    return gains


def _volumes(front: Points, costs: Points) -> Points:
    """Volume where the error of the front is that of each member, in order, and where there is none, (n, k + 1)."""
    room = np.prod(np.maximum(1 - costs, 0), axis=1)
    if costs.shape[1] == 1:
        covered = 1 - np.maximum(np.minimum.accumulate(front[:, 0])[None], costs)
        covered = np.maximum(covered, 0)
    else:
        covered = np.stack([_covered(front, candidate) for candidate in costs])
    return np.diff(covered, axis=1, prepend=0, append=room[:, None])


def _covered(front: Points, costs: Points) -> Points:
    """Volume beyond some costs that the first 1, 2, ... members dominate, (k,)."""
    volume, kept = 0.0, np.empty((0, len(costs)))
    covered = np.zeros(len(front))
    for i, member in enumerate(np.maximum(front, costs)):
        if (member < 1).all() and not (kept <= member).all(axis=1).any():
            kept = np.concatenate([kept[~(member <= kept).all(axis=1)], member[None]])
            volume = pareto.hypervolume(kept, np.ones(len(costs)))
        covered[i] = volume
    return covered


def best_together(front: Points, costs: Points, log_error: Points, spread: Points, count: int) -> list[int]:
    """Candidates that are expected to add most, chosen one after the other.

    Each that is chosen counts from then on as if its error were known to be the median ("Kriging believer", Ginsbourger
    et al., 2010). Gains only shrink on the way, so a stale one is an upper bound (Minoux, 1978).

    Args:
        front: See :func:`improvement`; so are the next three.
        costs: Of the candidates.
        log_error: Of the candidates.
        spread: Of the candidates.
        count: How many.
    """
    gains = improvement(front, costs, log_error, spread) if len(costs) else np.empty(0)
    heap = [(-gain, i, 0) for i, gain in enumerate(gains.tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, i, known = heapq.heappop(heap)
        if known < len(chosen):
            (gain,) = improvement(front, costs[[i]], log_error[[i]], spread[[i]])
            heapq.heappush(heap, (-float(gain), i, len(chosen)))
        else:
            chosen.append(i)
            front = np.concatenate([front, [[np.exp(log_error[i]), *costs[i]]]])
    return chosen
