"""`Archive`: what a study knows about every network it has trained, latest result first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwnas import pareto
from hwnas.trial import Result, Trial


@dataclass(frozen=True)
class Entry:
    """A network and its latest good result."""

    trial: Trial
    result: Result

    @cached_property
    def values(self) -> Mapping[str, float]:
        """All objectives, cheap and expensive."""
        return {**self.trial.cheap, **self.result.values}

    @property
    def epochs(self) -> float:
        """Passes over the training data that its weights have seen; fewer than planned where a deadline came first."""
        return float(self.result.info.get("epochs", self.trial.fidelity_to))

    @property
    def stderr(self) -> float:
        """Standard error of the validation error."""
        return float(self.result.info.get("stderr", 0.0))


def matrix(entries: Sequence[Entry], names: Sequence[str]) -> pareto.Points:
    """Values of some entries, one row each, in the order of `names`."""
    rows = [[entry.values[name] for name in names] for entry in entries]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(names))


class Archive:
    """One entry per network (a network trained on replaces its earlier self), unbounded.

    Args:
        records: Trials with their results, in any order.
        objectives: Names of the objectives that count for the front.
    """

    def __init__(self, records: Iterable[tuple[Trial, Result | None]], objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)
        latest: dict[str, Entry] = {}
        for trial, result in sorted(records, key=lambda record: record[0].id):
            if result is not None and result.status == "ok":
                latest[trial.hash] = Entry(trial, result)
        self.entries = list(latest.values())

    def __len__(self) -> int:
        return len(self.entries)

    def matrix(self, names: Sequence[str] | None = None) -> pareto.Points:
        """Values of all entries, one row each, in the order of `names` (by default all objectives)."""
        return matrix(self.entries, self.objectives if names is None else names)

    def front(self) -> "Archive":
        """The entries that no other dominates."""
        return self._chosen(pareto.nondominated(self.matrix())) if self.entries else self

    def within(self, limits: Mapping[str, float]) -> "Archive":
        """The entries whose values keep all limits."""
        keeps = [all(entry.values[name] <= limit for name, limit in limits.items()) for entry in self.entries]
        return self._chosen(np.flatnonzero(keeps))

    def useful(self, guessing: float) -> "Archive":
        """The entries at least midway from guessing to the most accurate one; a low cost alone is no use to anybody.

        Args:
            guessing: The error of naming the same class for every image.
        """
        if not self.entries:
            return self
        errors = self.matrix(["error"])[:, 0]
        best = errors.min()
        return self._chosen(np.flatnonzero(errors <= max(best, (best + guessing) / 2)))

    def spread(self, count: int) -> "Archive":
        """At most `count` entries that dominate most (see :func:`hwnas.pareto.subset`), on comparable scales."""
        if len(self) <= count:
            return self
        scaled = scale(self.matrix(), self.objectives)
        return self._chosen(pareto.subset(scaled, count, pareto.reference_point(scaled)))

    def foremost(self, count: int) -> "Archive":
        """At most `count` entries, those without which most hypervolume would be lost, on comparable scales."""
        if len(self) <= count:
            return self
        scaled = scale(self.matrix(), self.objectives)
        shares = pareto.contributions(scaled, pareto.reference_point(scaled))
        return self._chosen(np.sort(np.argsort(-shares, kind="stable")[:count]))

    def _chosen(self, index: pareto.Index) -> "Archive":
        chosen = Archive([], self.objectives)
        chosen.entries = [self.entries[i] for i in index]
        return chosen


def scale(values: pareto.Points, objectives: Sequence[str]) -> pareto.Points:
    """Objectives on comparable scales: costs as log10, since they span decades; the error as it is, times three.

    Ten points of accuracy then weigh as much as a factor of two in a cost.
    """
    scaled = np.array(values, dtype=np.float64)
    for column, name in enumerate(objectives):
        scaled[:, column] = 3 * scaled[:, column] if name == "error" else np.log10(np.maximum(scaled[:, column], 1e-9))
    return scaled
