"""`Rungs`: many networks are trained a little, and the promising ones further: multi-objective successive halving."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from hwnas import pareto
from hwnas.archive import Entry, matrix
from hwnas.box import Box
from hwnas.schedule import Schedule
from hwnas.trial import Result, Trial

#: Under this name a trial keeps its rung, unless that is the lowest.
CONFIG = "rung"

#: What counts as known of the step from rung to rung before any result tells: the logarithm of by how much an error
#: falls, its spread, and how many results each of the two weighs.
FALL, SPREAD, WEIGHT = -0.2, 0.2, 2

#: Least probability of being non-dominated after a promotion, where learning curves are extrapolated.
CHANCE = 0.1

Records = Sequence[tuple[Trial, Result | None]]


@dataclass(frozen=True)
class Rungs:
    """On each rung a child has been trained `factor` times as long as on the one below, and goes on from there.

    That is training of its own: what it inherits comes on top, and differs from child to child. So the network of
    a long lineage climbs past one of a short, which is as wanted: what counts is how good it is, and not why. The first
    generation, which inherits nothing, is trained longer on the lowest rung; to climb it trains as long as a child.

    1. Asynchronous (ASHA; Li et al., MLSys 2020): of all that have a result on a rung, one of `factor` is promoted, as
       soon as there are enough. Synchronous (successive halving; Jamieson and Talwalkar, AISTATS 2016): networks
       compete in brackets of so many that one reaches the top, and each rung waits for the whole bracket.
    2. The best are those of the first non-dominated front, the second, and so on; of a front, those that add most
       hypervolume (Schmucker et al., "Multi-objective asynchronous successive halving", 2021). So a small network
       competes with networks of its size, not with large ones. The most accurate one goes on always; what adds nothing
       to the hypervolume of the study, as it only guesses, never.
    3. With `curves`, a network is not promoted if it is unlikely to be non-dominated then. By how much an error falls
       from a rung to the next is learned from those that were promoted; its uncertainty is Student's distribution.

    Attributes:
        box: Where hypervolume is measured.
        levels: Number of rungs.
        factor: The paper's eta.
        synchronous: Whether brackets wait.
        curves: Whether learning curves are extrapolated.
    """

    box: Box
    levels: int = 3
    factor: int = 3
    synchronous: bool = False
    curves: bool = False

    @property
    def work(self) -> float:
        """Epochs of all rungs for each network that begins, in units of the lowest rung's.

        >>> box = Box(("error", "params"), (0.0, 1e3), (1.0, 1e6))
        >>> Rungs(box, levels=3, factor=2).work
        2.0
        """
        return 1 + (self.levels - 1) * (1 - 1 / self.factor)

    @property
    def trials(self) -> float:
        """Trials for each network that begins, itself and its promotions.

        >>> box = Box(("error", "params"), (0.0, 1e3), (1.0, 1e6))
        >>> Rungs(box, levels=3, factor=2).trials
        1.75
        """
        return sum(float(self.factor) ** -level for level in range(self.levels))

    def to(self, lowest: Schedule, rung: int) -> Schedule:
        """Epochs from the rung below to this one.

        Args:
            lowest: Epochs of the lowest rung.
            rung: Above 0.

        >>> box = Box(("error", "params"), (0.0, 1e3), (1.0, 1e6))
        >>> Rungs(box, factor=3).to(Schedule.constant(2.0), 2).epochs({})
        12.0
        """
        return lowest.times(self.factor**rung - self.factor ** (rung - 1))

    def promoted(self, records: Records) -> Iterator[tuple[Entry, int]]:
        """Networks that are to be trained further, each with its new rung; those that rose highest come first.

        Args:
            records: All trials of a study.
        """
        rungs = [[record for record in records if rung(record[0]) == level] for level in range(self.levels)]
        for level in reversed(range(self.levels - 1)):
            gone_on = {trial.hash for trial, _ in rungs[level + 1]}
            for group in self._groups(rungs[level], level):
                for entry in self._best(group):
                    if entry.trial.hash not in gone_on and self._likely(entry, rungs, level):
                        yield entry, level + 1

    def _groups(self, here: Records, level: int) -> list[Records]:
        """Those that compete with each other."""
        if not self.synchronous:
            return [here]
        size = self.factor ** (self.levels - 1 - level)
        brackets = [here[first : first + size] for first in range(0, len(here) - size + 1, size)]
        return [bracket for bracket in brackets if all(result is not None for _, result in bracket)]

    def _best(self, group: Records) -> list[Entry]:
        """One of `factor` of those with a result."""
        done = [(trial, result) for trial, result in group if result is not None]
        entries = [Entry(trial, result) for trial, result in done if result.status == "ok"]
        count = min(len(entries), len(done) // self.factor)
        if not count:
            return []
        unit = self.box.unit(matrix(entries, self.box.objectives))
        useful = np.flatnonzero((unit < 1).all(axis=1))  # the cheapest of all may be no better than guessing
        if not len(useful):
            return []
        unit, count = unit[useful], min(count, len(useful))
        error = self.box.objectives.index("error")
        most_accurate = min(range(len(unit)), key=lambda i: (unit[i, error], unit[i].sum()))
        best = pareto.subset(unit, count, np.ones(unit.shape[1]), keep=[most_accurate], extremes=False)
        return [entries[i] for i in useful[best]]

    def _likely(self, entry: Entry, rungs: Sequence[Records], level: int) -> bool:
        if not self.curves:
            return True
        others = [Entry(trial, result) for own in rungs for trial, result in own if result and result.status == "ok"]
        others = [one for one in others if one.trial.hash != entry.trial.hash]
        costs = [name for name in self.box.objectives if name != "error"]
        no_dearer = (matrix(others, costs) <= matrix([entry], costs)).all(axis=1)
        level_to_beat = min(matrix(others, ["error"])[no_dearer, 0], default=math.inf)
        if not 0 < level_to_beat < math.inf:
            return level_to_beat > 0
        falls = self._falls(rungs, level)
        fall = math.log(level_to_beat / max(entry.values["error"], 1e-9))
        return below(fall, falls) >= CHANCE

    def _falls(self, rungs: Sequence[Records], level: int) -> list[float]:
        """By how much the logarithms of errors fell from this rung to the next."""
        before, after = (
            {trial.hash: result.values["error"] for trial, result in rungs[i] if result and result.status == "ok"}
            for i in (level, level + 1)
        )
        return [math.log(max(after[key], 1e-9) / max(before[key], 1e-9)) for key in after if key in before]


def rung(trial: Trial) -> int:
    """Of a trial."""
    return int(trial.config.get(CONFIG, 0))


def below(value: float, seen: Sequence[float]) -> float:
    """Probability that the next number is at most `value`, after some were seen: Student's, by a conjugate prior.

    >>> round(below(FALL, []), 2), round(below(-1.0, [-0.1, -0.1, -0.1, -0.1]), 2)
    (0.5, 0.0)
    """
    count, numbers = len(seen), np.asarray(seen, dtype=np.float64)
    weight = WEIGHT + count
    mean = (WEIGHT * FALL + numbers.sum()) / weight
    squares = WEIGHT * SPREAD**2
    if count:
        squares += ((numbers - numbers.mean()) ** 2).sum() + WEIGHT * count * (numbers.mean() - FALL) ** 2 / weight
    scale_ = math.sqrt(squares / weight * (1 + 1 / weight))
    return float(student.cdf((value - mean) / scale_, weight))
