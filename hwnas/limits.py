"""Can the limits be kept at all? Said before anything is trained."""

import math
from collections.abc import Callable
from typing import Any

from hwnas.costs import Cost, Costs
from hwnas.quantities import format_limits, format_quantity
from spaces.errors import LimitError
from spaces.space import Space

#: Steps down from a start; each tries every move.
MOST_STEPS = 100


def starts_within(space: Space[Any], costs: Costs) -> list[Any]:
    """What a search begins with: the space's own starts that keep all limits, or one network that does.

    Raises:
        LimitError: None was found; the message gives the smallest values that can be had.
    """
    starts = space.starts()
    found = costs.of(starts)
    kept = [genotype for genotype, cost in zip(starts, found, strict=True) if costs.allows(cost)]
    return kept or [_feasible(space, costs)]


def _feasible(space: Space[Any], costs: Costs) -> Any:
    """A network of the space that keeps all limits, near to them: the first on a way down.

    Raises:
        LimitError: None was found; the message gives the smallest values that can be had.
    """
    best = _descend(space, costs, costs.excess, enough=1.0)
    (cost,) = costs.of([best])
    if costs.allows(cost):
        return best
    limits = format_limits(costs.limits)
    broken = [name for name, limit in costs.limits.items() if cost[name].high > limit]
    smallest = ", ".join(f"{name} {_smallest(space, costs, name)}" for name in broken)
    alone = " (each by itself)" if len(costs.limits) > 1 else ""
    raise LimitError(
        f"no network of this space was found to keep {limits}; the smallest found{alone}: {smallest}. "
        f"Raise the limit, or allow smaller networks by {space.shrinks_by} or data.image_size"
    )


def _smallest(space: Space[Any], costs: Costs, name: str) -> str:
    """The smallest value of an objective that a way down leads to."""
    (best,) = costs.of([_descend(space, costs, lambda cost: cost[name].high)])
    return format_quantity(name, float(f"{best[name].high:.4g}"))


def _descend(space: Space[Any], costs: Costs, goal: Callable[[Cost], float], enough: float = -math.inf) -> Any:
    """Greedy descent over the space's moves, from the best of its starts, until none lowers the goal.

    1. Of two networks with the same goal the one that is smaller altogether is better: it leads off a plateau.
    2. Of those that are small enough the largest is taken, and the descent ends.
    """

    def rank(cost: Cost) -> tuple[float, float]:
        return goal(cost), math.prod(estimate.high for estimate in cost.values())

    best, around = (math.inf, math.inf), space.starts()
    genotype = around[0]
    for _ in range(MOST_STEPS):
        ranks = [rank(cost) for cost in costs.of(around)]
        if not ranks or min(ranks) >= best:
            break
        best = max((rank for rank in ranks if rank[0] <= enough), default=min(ranks))
        genotype = around[ranks.index(best)]
        if best[0] <= enough:
            break
        around = [child for _, child in space.within(genotype, space.moves(genotype))]
    return genotype
