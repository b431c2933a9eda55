"""All strategies by name, as specifications and benchmarks name them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from hwnas.box import Box
from hwnas.costs import Costs
from hwnas.schedule import Schedule
from hwnas.searchsection import StrategyName
from hwnas.strategy import Strategy
from spaces.space import Space


def make_strategy(
    name: StrategyName,
    space: Space[Any],
    costs: Costs,
    objectives: Sequence[str],
    seed: int,
    *,
    box: Box,
    epochs: Schedule,
    initial_epochs: Schedule,
    **options: Any,
) -> Strategy:
    """A strategy; each is imported when it is asked for, since some bring heavy libraries.

    Args:
        name: Of the strategy.
        space: Where networks come from.
        costs: Their cheap objectives and limits.
        objectives: Names of all objectives, the error among them.
        seed: Of every choice.
        box: Where hypervolume is measured.
        epochs: Training of a network; with inheritance, on top of what it inherits.
        initial_epochs: Of those that LEMONADE begins with.
        options: Further arguments of the strategy.
    """
    where = space, costs, objectives, seed
    match name:
        case "lemonade":
            from hwnas.lemonade import Lemonade

            return Lemonade(*where, epochs=epochs, initial_epochs=initial_epochs, **options)
        case "surrogate":
            from hwnas.guided import Guided

            return Guided(*where, box=box, epochs=epochs, initial_epochs=initial_epochs, **options)
        case "nsga2" | "sms-emoa":
            from hwnas.genetic import Genetic

            return Genetic(*where, epochs=epochs, algorithm=name, **options)
        case "optuna-nsga2" | "optuna-tpe":
            from hwnas.optunasearch import OptunaSearch

            sampler: Literal["nsga2", "tpe"] = "tpe" if name == "optuna-tpe" else "nsga2"
            return OptunaSearch(*where, epochs=epochs, sampler=sampler, **options)
    return _simple(name)(*where, epochs=epochs, **options)


def _simple(name: str) -> Callable[..., Strategy]:
    from hwnas.localsearch import LocalSearch
    from hwnas.randomsearch import RandomSearch
    from hwnas.regularized import RegularizedEvolution

    return {"random": RandomSearch, "regularized-evolution": RegularizedEvolution, "local-search": LocalSearch}[name]
