"""`Genetic`: pymoo's multi-objective evolutionary algorithms on a space of networks.

Selection, survival and the loop over matings are pymoo's; what a mutation and a crossover are is the space's.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from hwnas.archive import Entry, matrix
from hwnas.baseline import Baseline
from hwnas.costs import Costs
from hwnas.draft import Draft
from hwnas.schedule import Schedule
from hwnas.trial import Result, Trial
from spaces.space import Space

#: The algorithms by name: Deb et al. (2002), and Beume, Naujoks, Emmerich (2007).
ALGORITHMS = {"nsga2": NSGA2, "sms-emoa": SMSEMOA}

#: Matings before random networks take the place of children.
MOST_MATINGS = 20


class Genetic(Baseline):
    """NSGA-II or SMS-EMOA; each result of a generation counts when all of it are there.

    Children that are asked for before come from the generation before, so that no worker waits.

    Args:
        space: See `Baseline`.
        costs: See `Baseline`.
        objectives: See `Baseline`.
        seed: See `Baseline`.
        epochs: See `Baseline`.
        algorithm: Name of one of `ALGORITHMS`.
        population: How many survive a generation, and how many children one has.
        crossover: Probability that a child has two parents.
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
        algorithm: Literal["nsga2", "sms-emoa"] = "nsga2",
        population: int = 8,
        crossover: float = 0.5,
        starts: bool = False,
    ) -> None:
        super().__init__(space, costs, objectives, seed, epochs=epochs, initial=population, starts=starts)
        self.population = population
        self._problem = Problem(n_var=1, n_obj=len(self.objectives), vtype=object)
        self._algorithm = ALGORITHMS[algorithm](
            pop_size=population,
            crossover=_Crossing(space, crossover),
            mutation=_Moving(space),
            eliminate_duplicates=False,  # what is known is dropped here, and not in this population alone
        )
        self._survivors: list[Any] = []  # of each generation that is complete

    def tell(self, id: int, result: Result) -> None:
        """See `Strategy.tell`."""
        super().tell(id, result)
        del self._survivors[id // self.population :]

    def restore(self, records: Iterable[tuple[Trial, Result | None]]) -> None:
        """See `Strategy.restore`."""
        super().restore(records)
        self._survivors = []

    def offspring(self, count: int, seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """Children of the survivors of the last complete generation."""
        parents = self._surviving()
        drafts: list[Draft] = []
        self._algorithm.random_state = rng
        for _ in range(MOST_MATINGS if len(parents) else 0):
            if len(drafts) >= count:
                break
            made = self._algorithm.mating.do(
                self._problem, parents, count, algorithm=self._algorithm, random_state=rng, n_max_iterations=1
            )
            children = [one.X[0] for one in made]
            within = [child for child in children if self.space.refusal(child) is None]  # no crossover looks after that
            drafts += self.fresh([(child, None, ()) for child in within], seen)
        return drafts[:count]

    def _surviving(self) -> Any:
        """The population after the last generation that is complete; before there is one, all that have a result."""
        records, size = self.records, self.population
        complete = 0
        while len(records) >= (complete + 1) * size and all(
            result is not None for _, result in records[complete * size : (complete + 1) * size]
        ):
            complete += 1
        for generation in range(len(self._survivors), complete):
            new = self._individuals(records[generation * size : (generation + 1) * size])
            before = self._survivors[-1] if self._survivors else Population.new()
            self._survivors.append(self._selected(Population.merge(before, new), size, [self.seed, generation]))
        if self._survivors:
            return self._survivors[-1]
        return self._selected(self._individuals(records), size, self.seed)

    def _selected(self, individuals: Any, count: int, seed: Any) -> Any:
        if not len(individuals):
            return individuals
        anew = Population.new(X=individuals.get("X"), F=individuals.get("F"))  # survival writes into its individuals
        return self._algorithm.survival.do(
            self._problem,
            anew,
            n_survive=count,
            algorithm=self._algorithm,
            random_state=np.random.default_rng(seed),
        )

    def _individuals(self, records: Sequence[tuple[Trial, Result | None]]) -> Any:
        entries = [Entry(trial, result) for trial, result in records if result is not None and result.status == "ok"]
        genotypes = [self.space.from_json(entry.trial.genotype) for entry in entries]
        return Population.new(X=_boxed(genotypes), F=matrix(entries, self.objectives)) if entries else Population.new()


def _boxed(genotypes: Sequence[Any]) -> Any:
    """Genotypes as pymoo's matrix of variables, shape (n, 1); NumPy must not look into them."""
    boxed = np.empty((len(genotypes), 1), dtype=object)
    for row, genotype in enumerate(genotypes):
        boxed[row, 0] = genotype
    return boxed


class _Moving(Mutation):  # type: ignore[misc]
    """One random move."""

    def __init__(self, space: Space[Any]) -> None:
        super().__init__(prob=1.0)
        self.space = space

    def _do(self, problem: Any, X: Any, *, random_state: np.random.Generator, **kwargs: Any) -> Any:  # noqa: N803
        moved = [self.space.propose(genotype, random_state) for genotype in X[:, 0]]
        return _boxed([old if new is None else new[1].genotype for old, new in zip(X[:, 0], moved, strict=True)])


class _Crossing(Crossover):  # type: ignore[misc]
    """The space's crossover."""

    def __init__(self, space: Space[Any], probability: float) -> None:
        super().__init__(2, 1, prob=probability)
        self.space = space

    def _do(self, problem: Any, X: Any, *, random_state: np.random.Generator, **kwargs: Any) -> Any:  # noqa: N803
        pairs = zip(X[0, :, 0], X[1, :, 0], strict=True)
        return _boxed([self.space.cross(one, other, random_state) for one, other in pairs])[None]
