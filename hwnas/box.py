"""`Box`: the corner points between which a study measures its hypervolume, fixed before the first training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from hwnas import pareto
from hwnas.costs import Cost

#: How many decades the box reaches below the cheapest start, and above the dearest or the limit. The dearest network of
#: a front dominates nothing in costs but what is above it: at a limit where the box ended, the most accurate network
#: within the limit, which users want most, would be worth nothing.
DECADES = 1.0


@dataclass(frozen=True)
class Box:
    """Costs count as log10, the error as it is; the volume is the part of the box that a front dominates.

    Attributes:
        objectives: Names, in the order of the columns.
        ideal: Best corner, in units of the objectives.
        reference: Worst corner; what lies beyond it counts for nothing.
        logarithmic: Whether costs count as logarithms, and not as they are.
    """

    objectives: tuple[str, ...]
    ideal: tuple[float, ...]
    reference: tuple[float, ...]
    logarithmic: bool = True

    @classmethod
    def around(
        cls, starts: Sequence[Cost], objectives: Sequence[str], limits: Mapping[str, float], guessing: float
    ) -> Self:
        """The box of a study.

        Args:
            starts: Costs of the networks a search begins with.
            objectives: Names of all objectives, the error among them.
            limits: Of costs, by name; where there is one the box ends beyond that, instead of beyond the dearest start.
            guessing: Error of naming the same class for every image, the worst corner of the error; the best is 0.
        """
        corners = {"error": (0.0, guessing)}
        for name in objectives:
            if name != "error":
                values = [cost[name].value for cost in starts]
                corners[name] = (min(values) / 10**DECADES, limits.get(name, max(values)) * 10**DECADES)
        ideal, reference = zip(*(corners[name] for name in objectives), strict=True)
        return cls(tuple(objectives), ideal, reference)

    def volume(self, values: pareto.Points) -> float:
        """Share of the box, 0..1, that rows of objective values dominate.

        >>> box = Box(("error", "params"), (0.0, 1e3), (1.0, 1e5))
        >>> round(box.volume(np.array([[0.5, 1e4]])), 6)
        0.25
        """
        if len(values) == 0:
            return 0.0
        return pareto.hypervolume(self.unit(values), np.ones(len(self.objectives)))

    def unit(self, values: Any) -> pareto.Points:
        """Rows of objective values in terms of the box: 0 is its best corner (or better), 1 its worst."""
        low, high = self._scaled([self.ideal])[0], self._scaled([self.reference])[0]
        unit: pareto.Points = np.maximum((self._scaled(values) - low) / (high - low), 0)
        return unit

    def _scaled(self, values: Any) -> pareto.Points:
        scaled = np.array(values, dtype=np.float64)
        for column, name in enumerate(self.objectives):
            if name != "error" and self.logarithmic:
                scaled[:, column] = np.log10(scaled[:, column])
        return scaled

    def to_json(self) -> dict[str, Any]:
        """A plain mapping."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The box that :meth:`to_json` wrote."""
        objectives, ideal, reference = (tuple(data[key]) for key in ("objectives", "ideal", "reference"))
        return cls(objectives, ideal, reference, data.get("logarithmic", True))
