"""`Costs`: the cheap objectives of networks, each computed once, and the limits they have to keep."""

from collections.abc import Callable, Mapping, Sequence

from objectives.base import Estimate, Objective
from spaces.arch import Arch

Cost = Mapping[str, Estimate]


class Costs:
    """Cheap objectives by canonical hash.

    Args:
        objectives: The cheap ones among a study's objectives.
        limits: Upper bounds by name of one of them; they hold for the upper end of an estimate.
        snapshot: Gives the hash of the latency table in use, for the record.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        limits: Mapping[str, float] | None = None,
        snapshot: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.objectives = tuple(objectives)
        self.limits = dict(limits or {})
        self.snapshot = snapshot
        self._known: dict[str, Cost] = {}

    def of(self, archs: Sequence[Arch]) -> list[Cost]:
        """The cost of each network; those not seen before are estimated together."""
        unknown = list({arch.hash: arch for arch in archs if arch.hash not in self._known}.values())
        columns = [(o.name, o.estimate(unknown)) for o in self.objectives if unknown]
        for row, arch in enumerate(unknown):
            self._known[arch.hash] = {name: column[row] for name, column in columns}
        return [self._known[arch.hash] for arch in archs]

    def excess(self, cost: Cost) -> float:
        """How far the worst limit is exceeded: at most 1 where all are kept, 0 without limits."""
        return max((cost[name].high / limit for name, limit in self.limits.items()), default=0.0)

    def allows(self, cost: Cost) -> bool:
        """Whether every limit is kept, by the upper end of the estimate."""
        return self.excess(cost) <= 1
