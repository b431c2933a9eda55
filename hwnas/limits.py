"""Can the limits be kept at all? Said before anything is trained."""

from collections.abc import Callable
from typing import Any

from hwnas.costs import Cost, Costs
from spaces.errors import ArchError, LimitError
from spaces.space import Space

#: Steps down from a start; each tries every move.
MOST_STEPS = 40


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
    """A network of the space that keeps all limits, found by always taking the move that helps most.

    Raises:
        LimitError: None was found; the message gives the smallest values that can be had.
    """
    start = min(space.starts(), key=lambda genotype: costs.excess(_cost(space, costs, genotype)))
    best = _descend(space, costs, start, costs.excess)
    cost = _cost(space, costs, best)
    if costs.allows(cost):
        return best
    broken = []
    for objective in costs.objectives:
        name, unit = objective.name, objective.unit
        if name in costs.limits and cost[name].high > costs.limits[name]:
            alone = _descend(space, costs, best, lambda cost, name=name: cost[name].high)  # type: ignore[misc]
            smallest = _cost(space, costs, alone)[name].high
            broken.append(f"{name} <= {costs.limits[name]:g}{unit} (the smallest found is {smallest:.4g}{unit})")
    raise LimitError(f"no network of this space was found to keep {' and '.join(broken)}; raise the limit")


def _cost(space: Space[Any], costs: Costs, genotype: Any) -> Cost:
    return costs.of([space.decode(genotype)])[0]


def _descend(space: Space[Any], costs: Costs, genotype: Any, goal: Callable[[Cost], float]) -> Any:
    """Greedy descent over the space's moves until none lowers the goal."""
    value = goal(_cost(space, costs, genotype))
    for _ in range(MOST_STEPS):
        children = []
        for move in space.moves(genotype):
            try:
                child = space.apply(genotype, move).genotype
            except ArchError:
                continue
            if space.refusal(child) is None:
                children.append(child)
        values = [goal(cost) for cost in costs.of([space.decode(child) for child in children])]
        if not values or min(values) >= value:
            return genotype
        value = min(values)
        genotype = children[values.index(value)]
    return genotype
