"""LEMONADE: multi-objective evolution by network morphisms (Elsken, Metzen, Hutter, ICLR 2019)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from hwnas.archive import Archive, Entry
from hwnas.costs import Costs
from hwnas.density import Points, effective_size, rarity
from hwnas.draft import Draft
from hwnas.limits import starts_within
from hwnas.prefilter import Prefilter
from hwnas.rungs import Rungs
from hwnas.schedule import Schedule
from hwnas.strategy import Strategy
from hwnas.trial import Init, Trial
from spaces.move import Move
from spaces.space import Space

#: Rounds of proposals before a space counts as exhausted.
MOST_ROUNDS = 20


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
        revisit: Part of the trainings that goes to the front itself, 0..1; none without inheritance, and none where
            there are rungs, which decide that.
        max_parents: Most networks that parents are drawn from.
        inherit: Whether children start from their parents' weights; otherwise from scratch.
        prefilter: Discards some of the accepted children before they are trained; then more are accepted. None: keeps
            all.
        rungs: See `Strategy`.
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
        prefilter: Prefilter | None = None,
        rungs: Rungs | None = None,
        paper_density: bool = False,
    ) -> None:
        super().__init__(space, costs, objectives, seed, epochs=epochs, rungs=rungs)
        self.initial_epochs = initial_epochs
        self.proposals = proposals
        self.revisit = revisit if inherit and rungs is None else 0.0
        self.max_parents = max_parents
        self.inherit = inherit
        self.prefilter = prefilter
        self.paper_density = paper_density

    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """What the space begins with, then children and revisited networks."""
        seen = self.seen
        starts = [genotype for genotype in self._starts if self.space.hash(genotype) not in seen][:count]
        if starts:
            return self.trials(self.fresh([(start, None, ()) for start in starts], seen), self.initial_epochs, rng)
        front = self.archive.front().foremost(self.max_parents)
        if not front.entries and any(result is None for _, result in self.records):
            return []  # whatever comes next is to inherit from what is being trained
        if not front.entries:  # all that were trained have failed
            return self.trials(self.sampled(count, seen, rng), self.initial_epochs, rng)
        again = self._revisited(front, int(rng.binomial(count, self.revisit)))
        wanted = count - len(again)
        if drafts := self.drafts(front, max(1, wanted), rng):
            continued = self._continued(again, rng)
            return continued + self.children(self._filtered(drafts, front, wanted, rng), len(again), rng)
        drafts = self.sampled(max(1, wanted), seen, rng)  # all around the front is known
        if not drafts:  # the space is exhausted; to go on with what is known would hide that
            return []
        return self._continued(again, rng) + self.trials(drafts[:wanted], self.initial_epochs, rng, offset=len(again))

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
        cheap, error = self.costs.names, ["error"]
        no_dearer = (self.archive.matrix(cheap) <= front.matrix(cheap)[:, None]).all(axis=2)
        distance = np.abs(self.archive.matrix(error).T - front.matrix(error))
        stderr = np.array([[entry.stderr] for entry in front.entries])
        near: list[int] = (no_dearer & (distance <= stderr)).sum(axis=1).tolist()
        return [count > 1 for count in near]  # each is near itself

    def _continued(self, entries: Sequence[Entry], rng: np.random.Generator) -> list[Trial]:
        genotypes = [self.space.from_json(entry.trial.genotype) for entry in entries]
        known = zip(genotypes, self.costs.of(genotypes), entries, strict=True)
        return self.trials([Draft(*one) for one in known], self.epochs, rng, init="checkpoint")

    def drafts(self, front: Archive, count: int, rng: np.random.Generator) -> list[Draft]:
        """New networks within the limits, one at least for each that is to be trained, unless they cannot be found."""
        chances = self.parent_chances(front)
        drafts: list[Draft] = []
        seen = self.seen
        for _ in range(MOST_ROUNDS):
            parents = rng.choice(len(front), size=self.proposals * (count - len(drafts)), p=chances)
            drafts += self.fresh((self._child(front.entries[i], rng) for i in parents), seen)
            if len(drafts) >= count:
                break
        self.note = (
            f"{len(front)} parents, effectively {effective_size(chances):.1f}; "
            f"{len(drafts)} children that are new and within limits"
        )
        return drafts

    def _filtered(self, drafts: Sequence[Draft], front: Archive, count: int, rng: np.random.Generator) -> list[Draft]:
        """Those that are accepted, and, where there is a pre-filter, stand it."""
        if self.prefilter is None or not count:
            return self.accepted(front, drafts, count, rng)
        entries = self.archive.entries
        self.news += self.prefilter.review(entries)
        accepted = self.accepted(front, drafts, self.prefilter.proposals(count), rng)
        # In random order: how many of them were accepted for what reason stays as it was.
        return self.prefilter.kept([accepted[i] for i in rng.permutation(len(accepted))], entries, count)

    def learned(self) -> list[str]:
        """See :meth:`Strategy.learned`: how far zero-cost proxies agree with these results."""
        return [] if self.prefilter is None else self.prefilter.learned(self.archive.entries)

    def kept(self, draft: Draft) -> Mapping[str, Any]:
        """See :meth:`Strategy.kept`: where proxies are asked, their scores too."""
        return draft.config if self.prefilter is None else self.prefilter.scored(draft).config

    def accepted(self, front: Archive, drafts: Sequence[Draft], count: int, rng: np.random.Generator) -> list[Draft]:
        """As many as are to be trained, drawn where the cheap objectives are rare."""
        chances = self.chances(front, self.cheap(drafts))
        chosen = rng.choice(len(drafts), min(count, len(drafts)), replace=False, p=chances)
        return [drafts[i] for i in chosen]

    def children(self, drafts: Sequence[Draft], offset: int, rng: np.random.Generator) -> list[Trial]:
        """Trials of drafts that are to be trained; see :meth:`Strategy.trials`."""
        init: Init = "parent" if self.inherit else "scratch"
        return self.trials(drafts, self.epochs, rng, init=init, offset=offset)

    def parent_chances(self, front: Archive) -> Points:
        """Probability of drawing each network of the front as a parent."""
        return self.chances(front, front.matrix(self.costs.names))

    def chances(self, front: Archive, candidates: Points) -> Points:
        """Probability of drawing each of some networks, by their cheap objectives."""
        return rarity(front.matrix(self.costs.names), candidates, paper=self.paper_density)

    def cheap(self, drafts: Sequence[Draft]) -> Points:
        """Cheap objectives of drafts, a row each."""
        return np.array([[draft.cost[name].value for name in self.costs.names] for draft in drafts])

    def _child(self, parent: Entry, rng: np.random.Generator) -> tuple[Any, Entry, list[Move]]:
        """What one to three random morphisms in a row make of a network."""
        genotype = self.space.from_json(parent.trial.genotype)
        moves: list[Move] = []
        for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
            proposed = self.space.propose(genotype, rng)
            if proposed is None:
                break
            move, child = proposed
            moves.append(move)
            genotype = child.genotype
        return genotype, parent, moves
