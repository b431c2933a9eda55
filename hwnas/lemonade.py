"""LEMONADE: multi-objective evolution by network morphisms (Elsken, Metzen, Hutter, ICLR 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hwnas.archive import Archive, Entry
from hwnas.costs import Cost, Costs
from hwnas.density import effective_size, rarity
from hwnas.limits import starts_within
from hwnas.schedule import Schedule
from hwnas.strategy import Strategy
from hwnas.trial import Trial
from spaces.move import Move
from spaces.space import Space

#: Rounds of proposals before a space counts as exhausted.
MOST_ROUNDS = 20


@dataclass(frozen=True)
class Draft:
    """A child that is judged on cheap objectives alone.

    Attributes:
        parent: Whose weights it inherits, if it is trained.
        moves: How it comes from there.
        genotype: The child.
        cost: Its cheap objectives.
    """

    parent: Entry
    moves: Sequence[Move]
    genotype: Any
    cost: Cost


class Lemonade(Strategy):
    """Parents are drawn where the cheap objectives are rare, and so are the children that get trained.

    1. Parents: at most `max_parents` of the non-dominated networks, by hypervolume contribution; drawn with
       probability inverse to a density estimate over the cheap objectives.
    2. `proposals` children for each that is to be trained, one to three random morphisms each; judged on cheap
       objectives alone. Those beyond a limit or known already are dropped; if too few are left, more are proposed.
    3. Of them, as many as were asked for are accepted, again where the cheap objectives are rare, and trained from
       inherited weights.
    4. A part of the trainings goes to networks of the front themselves: validation error is noisy and training short,
       so a lucky or an unfinished network would otherwise stay as it is for ever.

    Args:
        space: See `Strategy`.
        costs: See `Strategy`.
        objectives: See `Strategy`.
        seed: See `Strategy`.
        epochs: Passes over the training data for each child.
        initial_epochs: The same for the first generation.
        proposals: Children judged on cheap objectives for each that is trained.
        revisit: Part of the trainings that goes to the front itself, 0..1; none without inheritance.
        max_parents: Most networks that parents are drawn from.
        inherit: Whether children start from their parents' weights; otherwise from scratch.
        paper_density: The density in the form of the paper (see :func:`hwnas.density.rarity`).
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        epochs: Schedule = Schedule.constant(2.0),  # noqa: B008 (frozen)
        initial_epochs: Schedule = Schedule.constant(4.0),  # noqa: B008
        proposals: int = 12,
        revisit: float = 0.25,
        max_parents: int = 40,
        inherit: bool = True,
        paper_density: bool = False,
    ) -> None:
        super().__init__(space, costs, objectives, seed)
        self.epochs = epochs
        self.initial_epochs = initial_epochs
        self.proposals = proposals
        self.revisit = revisit if inherit else 0.0
        self.max_parents = max_parents
        self.inherit = inherit
        self.paper_density = paper_density

    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """What the space begins with, then children and revisited networks."""
        if first := self._first(count, rng):
            return first
        front = self.archive.front().foremost(self.max_parents)
        if not front.entries:  # all that were trained have failed, or none has a result yet
            return self.sampled(count, self.initial_epochs, rng)
        again = self._revisited(front, int(rng.binomial(count, self.revisit)))
        drafts = self._drafts(front, max(1, count - len(again)), rng)
        if not drafts:  # the space is exhausted; to go on with what is known would hide that
            return []
        trials = [self._continued(i, entry, rng) for i, entry in enumerate(again)]
        return trials + self._accepted(front, drafts, count - len(again), len(again), rng)

    def _first(self, count: int, rng: np.random.Generator) -> list[Trial]:
        seen = self.seen
        new = [genotype for genotype in self._starts if self.space.hash(genotype) not in seen][:count]
        costs = self.costs_of(new)
        return [self.trial(i, g, costs[i], self.initial_epochs, rng) for i, g in enumerate(new)]

    @cached_property
    def _starts(self) -> list[Any]:
        return starts_within(self.space, self.costs)

    def _revisited(self, front: Archive, count: int) -> list[Entry]:
        """Networks of the front to train on: the least trained; where the place is in doubt, half of it counts."""
        busy = {trial.hash for trial, result in self.records if result is None}
        ranked = sorted(
            (self._trainings(entry) / (2 if doubt else 1), entry.trial.id, entry)
            for entry, doubt in zip(front.entries, self._in_doubt(front), strict=True)
            if entry.trial.hash not in busy
        )
        return [entry for *_, entry in ranked[:count]]

    def _trainings(self, entry: Entry) -> float:
        """Epochs seen, ancestors' included, in units of what a network of this size gets at a time."""
        return entry.epochs / self.epochs.epochs(entry.trial.cheap)

    def _in_doubt(self, front: Archive) -> list[bool]:
        """Whether another network, which costs no more, has an error within one standard error of that of each."""
        cheap, error = self._cheap, ["error"]
        no_dearer = (self.archive.matrix(cheap) <= front.matrix(cheap)[:, None]).all(axis=2)
        distance = np.abs(self.archive.matrix(error).T - front.matrix(error))
        stderr = np.array([[entry.stderr] for entry in front.entries])
        near: list[int] = (no_dearer & (distance <= stderr)).sum(axis=1).tolist()
        return [count > 1 for count in near]  # each is near itself

    @property
    def _cheap(self) -> list[str]:
        return [objective.name for objective in self.costs.objectives]

    def _continued(self, offset: int, entry: Entry, rng: np.random.Generator) -> Trial:
        genotype = self.space.from_json(entry.trial.genotype)
        (cost,) = self.costs_of([genotype])
        return self.trial(offset, genotype, cost, self.epochs, rng, parent=entry, init="checkpoint")

    def _drafts(self, front: Archive, count: int, rng: np.random.Generator) -> list[Draft]:
        """New networks within the limits, one at least for each that is to be trained, unless they cannot be found."""
        population = front.matrix(self._cheap)
        chances = rarity(population, population, paper=self.paper_density)
        drafts: list[Draft] = []
        seen = self.seen
        for _ in range(MOST_ROUNDS):
            parents = rng.choice(len(front), size=self.proposals * (count - len(drafts)), p=chances)
            drafts += self._children([front.entries[i] for i in parents], seen, rng)
            if len(drafts) >= count:
                break
        self.note = (
            f"{len(front)} parents, effectively {effective_size(chances):.1f}; "
            f"{len(drafts)} children that are new and within limits"
        )
        return drafts

    def _accepted(
        self, front: Archive, drafts: Sequence[Draft], count: int, offset: int, rng: np.random.Generator
    ) -> list[Trial]:
        """As many as are to be trained, drawn where the cheap objectives are rare."""
        values = np.array([[draft.cost[name].value for name in self._cheap] for draft in drafts])
        chances = rarity(front.matrix(self._cheap), values, paper=self.paper_density)
        chosen = rng.choice(len(drafts), min(count, len(drafts)), replace=False, p=chances).tolist()
        return [
            self.trial(
                place,
                drafts[i].genotype,
                drafts[i].cost,
                self.epochs,
                rng,
                parent=drafts[i].parent,
                moves=drafts[i].moves,
                init="parent" if self.inherit else "scratch",
            )
            for place, i in enumerate(chosen, start=offset)
        ]

    def _children(self, parents: Sequence[Entry], seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """A child of each parent, but for those that are known, or beyond a limit; all are then known."""
        new: list[tuple[Entry, Sequence[Move], Any]] = []
        for parent in parents:
            moves, genotype = self._varied(self.space.from_json(parent.trial.genotype), rng)
            key = self.space.hash(genotype)
            if key not in seen:
                seen.add(key)
                new.append((parent, moves, genotype))
        costs = self.costs_of([genotype for *_, genotype in new])
        return [Draft(*child, cost) for child, cost in zip(new, costs, strict=True) if self.costs.allows(cost)]

    def _varied(self, genotype: Any, rng: np.random.Generator) -> tuple[list[Move], Any]:
        """One to three random morphisms in a row."""
        moves: list[Move] = []
        for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
            proposed = self.space.propose(genotype, rng)
            if proposed is None:
                break
            move, child = proposed
            moves.append(move)
            genotype = child.genotype
        return moves, genotype
