"""`Strategy`: which candidate next? `ask` and `tell`, and nothing is ever run here."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from hwnas.archive import Archive, Entry
from hwnas.costs import Costs
from hwnas.draft import Draft
from hwnas.limits import starts_within
from hwnas.rungs import CONFIG, Rungs
from hwnas.schedule import Schedule
from hwnas.trial import Init, Result, Trial
from spaces.move import Move
from spaces.space import Space

#: Random networks drawn in vain before a space counts as exhausted.
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
        epochs: Passes over the training data for each network; on the lowest rung, where there are any.
        rungs: By which networks are trained further, which comes before anything new; None: none are.
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        epochs: Schedule,
        rungs: Rungs | None = None,
    ) -> None:
        self.space = space
        self.costs = costs
        self.objectives = tuple(objectives)
        self.seed = seed
        self.epochs = epochs
        self.rungs = rungs
        self.note = ""  # what the last `ask` has to say about how it chose
        self.news: list[str] = []  # what the user should be told of it
        self._records: dict[int, tuple[Trial, Result | None]] = {}
        self._archive: Archive | None = None  # made when asked for; a result makes it stale

    @abstractmethod
    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """Up to `count` new trials, made by :meth:`trials`; fewer where there is no more to try."""

    def ask(self, count: int) -> list[Trial]:
        """The next trials, at most `count`; none when the space is exhausted. Others may be running meanwhile."""
        self.news = []
        rng = np.random.default_rng([self.seed, len(self._records)])
        trials = self.promoted(count, rng) or (self.propose(count, rng) if count else [])
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

    def learned(self) -> list[str]:
        """Lines on what the results say of the search itself."""
        return []

    # For subclasses ---------------------------------------------------------------------------------------------------

    def trials(
        self,
        drafts: Sequence[Draft],
        epochs: Schedule,
        rng: np.random.Generator,
        *,
        init: Init = "scratch",
        offset: int = 0,
    ) -> list[Trial]:
        """Trials with the books filled in.

        Args:
            drafts: The networks.
            epochs: Passes over the training data, in addition to those that their weights have seen.
            rng: Draws each trial's seed.
            init: Where their weights come from.
            offset: How many trials of this `ask` stand before them.
        """
        first, generation, snapshot = len(self._records) + offset, self.generation, self.costs.snapshot()
        found = []
        for place, draft in enumerate(drafts):
            cheap = {name: estimate.value for name, estimate in draft.cost.items()}
            inherits = draft.parent is not None and init in ("parent", "checkpoint")
            start = draft.parent.epochs if draft.parent is not None and inherits else 0.0
            trial = Trial(
                id=first + place,
                genotype=self.space.to_json(draft.genotype),
                hash=self.space.hash(draft.genotype),
                parent=None if draft.parent is None else draft.parent.trial.id,
                moves=tuple(move.to_json() for move in draft.moves),
                init=init,
                config=dict(self.kept(draft)),
                fidelity_from=start,
                fidelity_to=start + epochs.epochs(cheap),
                seed=int(rng.integers(2**31)),
                cheap=cheap,
                snapshot=snapshot,
                generation=generation,
            )
            found.append(trial)
        return found

    def kept(self, draft: Draft) -> Mapping[str, Any]:
        """What is to be kept with the trial of a draft, as JSON."""
        return draft.config

    def promoted(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """Up to `count` trials that take networks to their next rung."""
        if self.rungs is None:
            return []
        chosen = list(islice(self.rungs.promoted(self.records), count))
        genotypes = [self.space.from_json(entry.trial.genotype) for entry, _ in chosen]
        found: list[Trial] = []
        for (entry, rung), genotype, cost in zip(chosen, genotypes, self.costs.of(genotypes), strict=True):
            draft = Draft(genotype, cost, entry, config={CONFIG: rung})
            found += self.trials([draft], self.rungs.to(self.epochs, rung), rng, init="checkpoint", offset=len(found))
        return found

    def fresh(self, made: Iterable[tuple[Any, Entry | None, Sequence[Move]]], seen: set[str]) -> list[Draft]:
        """Drafts of networks that are new and within the limits; they are priced together.

        Args:
            made: Genotypes, each with the parent and the moves that it comes from.
            seen: Hashes of networks that are not new; those made are added.
        """
        new = []
        for genotype, parent, moves in made:
            key = self.space.hash(genotype)
            if key not in seen:
                seen.add(key)
                new.append((genotype, parent, moves))
        costs = self.costs.of([genotype for genotype, *_ in new])
        drafts = [Draft(g, cost, parent, moves) for (g, parent, moves), cost in zip(new, costs, strict=True)]
        return [draft for draft in drafts if self.costs.allows(draft.cost)]

    def first(self, seen: set[str]) -> list[Draft]:
        """What the space begins with within the limits, small to large, or one network that keeps them.

        Args:
            seen: Hashes of networks that are not new; those made are added.

        Raises:
            LimitError: None was found.
        """
        return self.fresh([(genotype, None, ()) for genotype in starts_within(self.space, self.costs)], seen)

    def sampled(self, count: int, seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """Up to `count` random networks of the space, new and within the limits.

        Args:
            count: How many.
            seen: Hashes of networks that are not new; those drawn are added.
            rng: Draws them.
        """
        found: list[Draft] = []
        idle = 0
        while len(found) < count and idle < MOST_DRAWS:
            new = self.fresh([(self.space.sample(rng), None, ()) for _ in range(count)], seen)
            idle = 0 if new else idle + count
            found += new
        return found[:count]
