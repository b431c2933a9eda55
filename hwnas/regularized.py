"""Regularised evolution (Real, Aggarwal, Huang, Le, AAAI 2019), for several objectives."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas import pareto
from hwnas.archive import matrix
from hwnas.baseline import Baseline
from hwnas.costs import Costs
from hwnas.draft import Draft
from hwnas.schedule import Schedule
from spaces.space import Space

#: Children made for each that is wanted before random networks take their place.
MOST_TRIES = 50


class RegularizedEvolution(Baseline):
    """The youngest live, the oldest dies, however good; parents win a tournament.

    With several objectives a tournament has several winners: those that no other of it dominates; one of them is drawn.

    Args:
        space: See `Baseline`.
        costs: See `Baseline`.
        objectives: See `Baseline`.
        seed: See `Baseline`.
        epochs: See `Baseline`.
        population: How many live, and how many it begins with.
        tournament: How many of them are drawn for each parent.
        starts: See `Baseline`.
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        epochs: Schedule = Schedule.constant(5.0),  # noqa: B008 (frozen)
        population: int = 20,
        tournament: int = 5,
        starts: bool = False,
    ) -> None:
        super().__init__(space, costs, objectives, seed, epochs=epochs, initial=population, starts=starts)
        self.population = population
        self.tournament = tournament

    def offspring(self, count: int, seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """One random move from the winner of a tournament."""
        living = sorted(self.archive.entries, key=lambda entry: entry.trial.id)[-self.population :]
        values = matrix(living, self.objectives)
        drafts: list[Draft] = []
        for _ in range(MOST_TRIES * count):
            if len(drafts) == count:
                break
            drawn = rng.choice(len(living), min(self.tournament, len(living)), replace=False)
            winners = drawn[pareto.nondominated(values[drawn])]
            parent = living[winners[rng.integers(len(winners))]]
            proposed = self.space.propose(self.space.from_json(parent.trial.genotype), rng)
            if proposed is not None:
                move, child = proposed
                drafts += self.fresh([(child.genotype, parent, [move])], seen)
        return drafts
