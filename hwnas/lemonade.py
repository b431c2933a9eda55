"""LEMONADE: multi-objective evolution by network morphisms (Elsken, Metzen, Hutter, ICLR 2019)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas import pareto
from hwnas.archive import Archive, Entry, scale
from hwnas.costs import Cost, Costs
from hwnas.density import effective_size, rarity
from hwnas.limits import starts_within
from hwnas.strategy import Strategy
from hwnas.trial import Trial
from spaces.morphisms import Morphism
from spaces.space import Space


class Lemonade(Strategy):
    """Parents are drawn where the cheap objectives are rare, and so are the children that get trained.

    1. Parents: at most `max_parents` of the non-dominated networks, by hypervolume contribution; drawn with
       probability inverse to a density estimate over the cheap objectives.
    2. `proposals` children, one to three random morphisms each; judged on cheap objectives alone. Those beyond a limit
       or known already are dropped.
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
        revisit: Part of the trainings that goes to the front itself, 0..1.
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
        epochs: float = 2.0,
        initial_epochs: float = 4.0,
        proposals: int = 4,
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
        """The first generation, then children and revisited networks."""
        front = self._front()
        if not front.entries:
            return self._first(count, rng)
        again = self._revisited(front, int(rng.binomial(count, self.revisit)))
        trials = [self._continued(i, entry, rng) for i, entry in enumerate(again)]
        return trials + self._children(front, count - len(trials), len(trials), rng)

    def _front(self) -> Archive:
        front = self.archive.front()
        if len(front) <= self.max_parents:
            return front
        values = scale(front.matrix(), self.objectives)
        shares = pareto.contributions(values, pareto.reference_point(values))
        best = set(np.argsort(-shares, kind="stable")[: self.max_parents].tolist())
        chosen = Archive([], self.objectives)
        chosen.entries = [entry for i, entry in enumerate(front.entries) if i in best]
        return chosen

    def _first(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """What the space begins with; should all of that have failed, random networks."""
        seen = self.seen
        new = [g for g in starts_within(self.space, self.costs) if self.space.decode(g).hash not in seen][:count]
        if not new:
            return self.sampled(count, self.initial_epochs, rng)
        costs = self._costs(new)
        return [self.trial(i, g, costs[i], self.initial_epochs, rng) for i, g in enumerate(new)]

    def _costs(self, genotypes: Sequence[Any]) -> list[Cost]:
        return self.costs.of([self.space.decode(genotype) for genotype in genotypes])

    def _revisited(self, front: Archive, count: int) -> list[Entry]:
        """Networks of the front to train on: first those whose place is in doubt, and of these the least trained."""
        busy = {trial.hash for trial, result in self.records if result is None}
        ranked = sorted(
            (entry for entry in front.entries if entry.trial.hash not in busy),
            key=lambda entry: (not self._challenged(entry), entry.trial.fidelity_to, entry.trial.id),
        )
        return ranked[:count]

    def _challenged(self, entry: Entry) -> bool:
        """Whether a network that costs no more has an error within one standard error of this one's."""
        return any(
            other.trial.hash != entry.trial.hash
            and all(other.trial.cheap[name] <= value for name, value in entry.trial.cheap.items())
            and abs(other.values["error"] - entry.values["error"]) <= entry.stderr
            for other in self.archive.entries
        )

    def _continued(self, offset: int, entry: Entry, rng: np.random.Generator) -> Trial:
        genotype = self.space.from_json(entry.trial.genotype)
        (cost,) = self._costs([genotype])
        return self.trial(offset, genotype, cost, self.epochs, rng, parent=entry.trial, init="checkpoint")

    def _children(self, front: Archive, count: int, offset: int, rng: np.random.Generator) -> list[Trial]:
        names = [objective.name for objective in self.costs.objectives]
        population = front.matrix(names)
        chances = rarity(population, population, paper=self.paper_density)
        drawn = rng.choice(len(front), size=self.proposals * count, p=chances)
        seen = self.seen
        drafts: list[tuple[Entry, list[Morphism], Any]] = []
        for index in drawn:
            entry = front.entries[index]
            moves, genotype = self._varied(self.space.from_json(entry.trial.genotype), rng)
            key = self.space.decode(genotype).hash
            if moves and key not in seen:
                seen.add(key)
                drafts.append((entry, moves, genotype))
        allowed = [
            (draft, cost)
            for draft, cost in zip(drafts, self._costs([genotype for _, _, genotype in drafts]), strict=True)
            if self.costs.allows(cost)
        ]
        values = np.array([[cost[name].value for name in names] for _, cost in allowed]).reshape(
            len(allowed), len(names)
        )
        accept = rarity(population, values, paper=self.paper_density)
        accepted = min(count, len(allowed))
        chosen = rng.choice(len(allowed), size=accepted, replace=False, p=accept).tolist() if allowed else []
        self.notes.append(
            f"parents: {len(front)}, effectively {effective_size(chances):.1f}; "
            f"children: {len(drafts)} proposed, {len(allowed)} within limits, {len(chosen)} accepted"
        )
        trials = []
        for place, pick in enumerate(chosen, start=offset):
            (entry, moves, genotype), cost = allowed[pick]
            trials.append(
                self.trial(
                    place,
                    genotype,
                    cost,
                    self.epochs,
                    rng,
                    parent=entry.trial,
                    moves=moves,
                    init="parent" if self.inherit else "scratch",
                )
            )
        return trials

    def _varied(self, genotype: Any, rng: np.random.Generator) -> tuple[list[Morphism], Any]:
        """One to three random morphisms in a row."""
        moves: list[Morphism] = []
        for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
            proposed = self.space.propose(genotype, rng)
            if proposed is None:
                break
            move, child = proposed
            moves.append(move)
            genotype = child.genotype
        return moves, genotype
