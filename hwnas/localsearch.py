"""Pareto local search (Paquete, Chiarandini, Stützle, 2004): the neighbours of the front, until all are known."""

from collections.abc import Iterator

import numpy as np

from hwnas.archive import Entry
from hwnas.baseline import Baseline
from hwnas.draft import Draft
from spaces.move import Move
from spaces.space import seeded


class LocalSearch(Baseline):
    """Every proposal is one move away from a network of the front that is drawn at random.

    White, Nolen, Savani (UAI 2021) found local search hard to beat on tabular benchmarks. A front all of whose
    neighbours are known would be the end; random networks then begin anew.
    """

    def offspring(self, count: int, seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """New neighbours of the front."""
        around = [(entry, self._neighbours(entry, rng)) for entry in self.archive.front().entries]
        drafts: list[Draft] = []
        while around and len(drafts) < count:
            place = int(rng.integers(len(around)))
            entry, neighbours = around[place]
            for move, genotype in neighbours:
                if found := self.fresh([(genotype, entry, [move])], seen):
                    drafts += found
                    break
            else:
                del around[place]
        return drafts

    def _neighbours(self, entry: Entry, rng: np.random.Generator) -> Iterator[tuple[Move, object]]:
        """All that one move leads to within the bounds, in random order."""
        genotype = self.space.from_json(entry.trial.genotype)
        moves = self.space.moves(genotype)
        shuffled = (seeded(moves[i], int(rng.integers(2**31))) for i in rng.permutation(len(moves)))
        return self.space.within(genotype, shuffled)
