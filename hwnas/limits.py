"""Can the limits be kept at all? Said before anything is trained."""

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any

from hwnas.costs import Cost, Costs
from hwnas.spec import format_quantity
from spaces.errors import ArchError, LimitError
from spaces.space import Space

#: So many networks are looked around from without finding a better one before the best is believed to be the best.
PATIENCE = 12


def starts_within(space: Space[Any], costs: Costs) -> list[Any]:
    """What a search begins with: the space's own starts that keep all limits, or one network that does.

    Raises:
        LimitError: None was found; the message gives the smallest values that can be had.
    """
    starts = space.starts()
    found = costs.of([space.decode(genotype) for genotype in starts])
    kept = [genotype for genotype, cost in zip(starts, found, strict=True) if costs.allows(cost)]
    return kept or [_feasible(space, costs)]


def _feasible(space: Space[Any], costs: Costs) -> Any:
    """A network of the space that keeps all limits.

    Raises:
        LimitError: None was found; the message gives the smallest values that can be had.
    """
    best = _least(space, costs, costs.excess, enough=1.0)
    cost = _cost(space, costs, best)
    if costs.allows(cost):
        return best
    broken = [name for name, limit in costs.limits.items() if cost[name].high > limit]
    wanted = " and ".join(f"{name} <= {format_quantity(name, costs.limits[name])}" for name in costs.limits)
    least = [(name, _smallest(space, costs, name)) for name in broken]
    had = ", ".join(f"{name} {format_quantity(name, float(f'{value:.4g}'))}" for name, value in least)
    raise LimitError(
        f"no network of this space was found to keep {wanted}; the smallest that can be had, each by itself: {had}. "
        "Raise the limits, or allow smaller networks (space: min_width, stages, stem_stride; data: image_size)"
    )


def _smallest(space: Space[Any], costs: Costs, name: str) -> float:
    def value(cost: Cost) -> float:
        return cost[name].high

    return value(_cost(space, costs, _least(space, costs, value)))


def _least(space: Space[Any], costs: Costs, goal: Callable[[Cost], float], enough: float = -math.inf) -> Any:
    """The network with the smallest goal, by best-first search over the space's moves from the best of its starts.

    Of two with the same goal the one that is smaller in all goes first: it leads off a plateau.
    """
    seen: set[str] = set()
    waiting: list[tuple[float, float, str, Any]] = []

    def look_at(genotypes: list[Any]) -> None:
        new = {space.decode(genotype): genotype for genotype in genotypes if space.decode(genotype).hash not in seen}
        for (arch, genotype), cost in zip(new.items(), costs.of(list(new)), strict=True):
            size = sum(math.log(max(estimate.high, 1e-9)) for estimate in cost.values())
            heapq.heappush(waiting, (goal(cost), size, arch.hash, genotype))
            seen.add(arch.hash)

    look_at(space.starts())
    best, idle = waiting[0], 0
    while waiting and best[0] > enough and idle < PATIENCE:
        nearest = heapq.heappop(waiting)
        idle = 0 if nearest < best else idle + 1
        best = min(best, nearest)
        look_at(list(_neighbours(space, nearest[-1])))
    return min([best, *waiting[:1]])[-1]


def _neighbours(space: Space[Any], genotype: Any) -> Iterator[Any]:
    for move in space.moves(genotype):
        try:
            child = space.apply(genotype, move).genotype
        except ArchError:
            continue
        if space.refusal(child) is None:
            yield child


def _cost(space: Space[Any], costs: Costs, genotype: Any) -> Cost:
    return costs.of([space.decode(genotype)])[0]
