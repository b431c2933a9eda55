"""`Strategy`: which candidate next? `ask` and `tell`, and nothing is ever run here."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hwnas.archive import Archive, Entry
from hwnas.costs import Cost, Costs
from hwnas.schedule import Schedule
from hwnas.trial import Init, Result, Trial
from spaces.move import Move
from spaces.space import Space

#: Random networks drawn before a space counts as exhausted.
MOST_DRAWS = 1000


class Strategy(ABC):
    """Keeps the books; a subclass says in :meth:`propose` what to try.

    The state is the list of trials and results, nothing else: the random numbers of an `ask` depend on the seed and on
    how many trials there are. So a strategy that is handed the records of an interrupted one goes on like it.

    Args:
        space: Where networks come from.
        costs: Their cheap objectives and limits.
        objectives: Names of all objectives, the error among them.
        seed: Of every choice.
    """

    def __init__(self, space: Space[Any], costs: Costs, objectives: Sequence[str], seed: int = 0) -> None:
        self.space = space
        self.costs = costs
        self.objectives = tuple(objectives)
        self.seed = seed
        self.note = ""  # what the last `ask` has to say about how it chose
        self._records: dict[int, tuple[Trial, Result | None]] = {}
        self._archive: Archive | None = None  # made when asked for; a result makes it stale

    @abstractmethod
    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """Up to `count` new trials, made by :meth:`trial`; fewer where there is no more to try."""

    def ask(self, count: int) -> list[Trial]:
        """The next trials, at most `count`; none when the space is exhausted."""
        trials = self.propose(count, np.random.default_rng([self.seed, len(self._records)]))
        self._records |= {trial.id: (trial, None) for trial in trials}
        return trials

    def tell(self, id: int, result: Result) -> None:
        """A trial's result, in any order; telling the same twice changes nothing.

        Raises:
            KeyError: There is no such trial.
        """
        self._records[id] = (self._records[id][0], result)
        self._archive = None

    def restore(self, records: Iterable[tuple[Trial, Result | None]]) -> None:
        """Go on from the records of an earlier run."""
        self._records = {trial.id: (trial, result) for trial, result in sorted(records, key=lambda pair: pair[0].id)}
        self._archive = None

    @property
    def records(self) -> list[tuple[Trial, Result | None]]:
        """All trials in the order of asking."""
        return list(self._records.values())

    def record(self, id: int) -> tuple[Trial, Result | None]:
        """One trial and its result.

        Raises:
            KeyError: There is no such trial.
        """
        return self._records[id]

    @property
    def archive(self) -> Archive:
        """The latest good result of every network."""
        if self._archive is None:
            self._archive = Archive(self._records.values(), self.objectives)
        return self._archive

    @property
    def generation(self) -> int:
        """Number of the next generation."""
        return max((trial.generation for trial, _ in self._records.values()), default=-1) + 1

    @property
    def seen(self) -> set[str]:
        """Hashes of all networks asked so far."""
        return {trial.hash for trial, _ in self._records.values()}

    def trial(
        self,
        offset: int,
        genotype: Any,
        cost: Cost,
        epochs: Schedule,
        rng: np.random.Generator,
        *,
        parent: Entry | None = None,
        moves: Sequence[Move] = (),
        init: Init = "scratch",
    ) -> Trial:
        """A trial with the books filled in.

        Args:
            offset: Its place among the trials of this `ask`.
            genotype: The network.
            cost: Its cheap objectives.
            epochs: Passes over the training data, in addition to those that its weights have seen.
            rng: Draws the trial's seed.
            parent: The network it comes from.
            moves: How.
            init: Where its weights come from.
        """
        cheap = {name: estimate.value for name, estimate in cost.items()}
        start = parent.epochs if parent is not None and init in ("parent", "checkpoint") else 0.0
        return Trial(
            id=len(self._records) + offset,
            genotype=self.space.to_json(genotype),
            hash=self.space.hash(genotype),
            parent=None if parent is None else parent.trial.id,
            moves=tuple(move.to_json() for move in moves),
            init=init,
            fidelity_from=start,
            fidelity_to=start + epochs.epochs(cheap),
            seed=int(rng.integers(2**31)),
            cheap=cheap,
            snapshot=self.costs.snapshot(),
            generation=self.generation,
        )

    def sampled(self, count: int, epochs: Schedule, rng: np.random.Generator) -> list[Trial]:
        """Trials of random networks of the space, new and within the limits, to be trained from scratch."""
        seen = self.seen
        found: list[tuple[Any, Cost]] = []
        for _ in range(MOST_DRAWS // max(1, count)):
            drawn = {self.space.hash(g): g for g in (self.space.sample(rng) for _ in range(count))}
            new = [genotype for key, genotype in drawn.items() if key not in seen]
            seen |= drawn.keys()
            priced = zip(new, self.costs_of(new), strict=True)
            found += [(genotype, cost) for genotype, cost in priced if self.costs.allows(cost)]
            if len(found) >= count:
                break
        return [self.trial(i, genotype, cost, epochs, rng) for i, (genotype, cost) in enumerate(found[:count])]

    def costs_of(self, genotypes: Sequence[Any]) -> list[Cost]:
        """The cost of each."""
        return self.costs.of([self.space.decode(genotype) for genotype in genotypes])


class RandomSearch(Strategy):
    """Random networks of the space that keep the limits, each trained from scratch.

    Args:
        space: See `Strategy`.
        costs: See `Strategy`.
        objectives: See `Strategy`.
        seed: See `Strategy`.
        epochs: Passes over the training data for each network.
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        epochs: Schedule = Schedule.constant(5.0),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(space, costs, objectives, seed)
        self.epochs = epochs

    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """Draws until enough are new and within the limits."""
        return self.sampled(count, self.epochs, rng)
