"""`Costs`: the cheap objectives of networks, each computed once, and the limits they have to keep."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objectives.base import Estimate, Objective
from spaces.space import Space

Cost = Mapping[str, Estimate]


class Costs:
    """Cheap objectives of the networks of a space, by their identity.

    Args:
        space: What genotypes belong to.
        objectives: The cheap ones among a study's objectives.
        limits: Upper bounds by name of one of them; they hold for the upper end of an estimate.
        snapshot: Gives the hash of the latency table in use, for the record.
    """

    def __init__(
        self,
        space: Space[Any],
        objectives: Sequence[Objective],
        limits: Mapping[str, float] | None = None,
        snapshot: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.limits = dict(limits or {})
        self.snapshot = snapshot
        self._known: dict[str, Cost] = {}

    @property
    def names(self) -> list[str]:
        """Of the cheap objectives."""
        return [objective.name for objective in self.objectives]

    def of(self, genotypes: Sequence[Any]) -> list[Cost]:
        """The cost of each network; those not seen before are estimated together."""
        keys = [self.space.hash(genotype) for genotype in genotypes]
        new = {key: genotype for key, genotype in zip(keys, genotypes, strict=True) if key not in self._known}
        self._known |= zip(new, self._estimated(list(new.values())), strict=True)
        return [self._known[key] for key in keys]

    def _estimated(self, genotypes: Sequence[Any]) -> list[Cost]:
        archs = [self.space.decode(genotype) for genotype in genotypes]
        columns = [(o.name, o.estimate(archs)) for o in self.objectives if archs]
        return [{name: column[row] for name, column in columns} for row in range(len(archs))]

    def excess(self, cost: Cost) -> float:
        """How far the worst limit is exceeded: at most 1 where all are kept, 0 without limits."""
        return max((cost[name].high / limit for name, limit in self.limits.items()), default=0.0)

    def allows(self, cost: Cost) -> bool:
        """Whether every limit is kept, by the upper end of the estimate."""
        return self.excess(cost) <= 1
