"""`OptunaSearch`: Optuna's samplers on the choices of a space; needs the extra ``hpo``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from hwnas.costs import Costs
from hwnas.draft import Draft
from hwnas.schedule import Schedule
from hwnas.strategy import MOST_DRAWS, Strategy
from hwnas.trial import Trial
from spaces.errors import SpecError
from spaces.space import Choose, Space

if TYPE_CHECKING:
    import optuna

T = TypeVar("T")

#: Under this name a trial keeps what the sampler chose.
CONFIG = "optuna"

#: Networks in a row that a sampler may propose though they are known or beyond a limit; then it is helped by chance.
PATIENCE = 20


class OptunaSearch(Strategy):
    """NSGA-II or the tree-structured Parzen estimator, as Optuna has them (Akiba et al., KDD 2019).

    A network is what :meth:`spaces.space.Space.compose` makes of the sampler's choices. Before each `ask` Optuna's
    study is made anew from the trials, so these are all the state there is.

    Args:
        space: See `Strategy`.
        costs: See `Strategy`.
        objectives: See `Strategy`.
        seed: See `Strategy`.
        epochs: Passes over the training data for each network.
        sampler: ``"nsga2"`` or ``"tpe"``.
        population: Of NSGA-II; with TPE the number of random trials that it begins with.

    Raises:
        SpecError: Optuna is not installed.
    """

    def __init__(
        self,
        space: Space[Any],
        costs: Costs,
        objectives: Sequence[str],
        seed: int = 0,
        *,
        epochs: Schedule = Schedule.constant(5.0),  # noqa: B008 (frozen)
        sampler: Literal["nsga2", "tpe"] = "tpe",
        population: int = 10,
    ) -> None:
        super().__init__(space, costs, objectives, seed, epochs=epochs)
        try:
            import optuna  # a second to import, and an extra
        except ImportError as error:
            raise SpecError("this strategy needs Optuna; install it by pip install 'hwnas[hpo]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # or each study made anew is announced
        self._optuna = optuna
        self.sampler = sampler
        self.population = population

    def propose(self, count: int, rng: np.random.Generator) -> list[Trial]:
        """What the sampler chooses, without what is known, breaks a bound or a limit.

        Where that is nothing at first, what LEMONADE would begin with.

        Raises:
            LimitError: No network within the limits was found at all.
        """
        study, seen = self._study(rng), self.seen
        drafts: list[Draft] = []
        idle, patience = 0, PATIENCE
        while len(drafts) < count and idle < MOST_DRAWS:
            trial = study.ask()
            choose = trial.suggest_categorical if patience else _drawn(rng)
            genotype, params = _composed(self.space, choose)
            within = self.space.refusal(genotype) is None
            found = self.fresh([(genotype, None, ())], seen) if within else []
            if found:
                attributes = study._storage.get_trial_system_attrs(trial._trial_id)  # where a sampler keeps its own
                kept = {CONFIG: {"params": params, "attributes": attributes if patience else {}}}
                drafts += [replace(draft, config=kept) for draft in found]
                idle, patience = 0, PATIENCE
            else:
                study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                idle, patience = idle + 1, max(0, patience - 1)
        if not drafts and not self.records:
            drafts = self.first(seen)[:count]  # what Optuna does not know of
        return self.trials(drafts, self.epochs, rng)

    def _study(self, rng: np.random.Generator) -> "optuna.Study":
        seed, samplers = int(rng.integers(2**31)), self._optuna.samplers
        sampler = (
            samplers.NSGAIISampler(population_size=self.population, seed=seed)
            if self.sampler == "nsga2"
            else samplers.TPESampler(n_startup_trials=self.population, seed=seed)
        )
        study = self._optuna.create_study(sampler=sampler, directions=["minimize"] * len(self.objectives))
        study.add_trials(self._past())
        return study

    def _past(self) -> "list[optuna.trial.FrozenTrial]":
        states, made = self._optuna.trial.TrialState, []
        for trial, result in self.records:
            if CONFIG not in trial.config:  # of another strategy
                continue
            kept = trial.config[CONFIG]
            state = states.RUNNING if result is None else states.COMPLETE if result.status == "ok" else states.FAIL
            values = {**trial.cheap, **(result.values if result else {})}
            made.append(
                self._optuna.trial.create_trial(
                    state=state,
                    params=kept["params"],
                    distributions=self._distributions(kept["params"]),
                    system_attrs=kept["attributes"],
                    values=[values[name] for name in self.objectives] if state is states.COMPLETE else None,
                )
            )
        return made

    def _distributions(self, params: dict[str, Any]) -> "dict[str, optuna.distributions.BaseDistribution]":
        """Of choices made before: the options are those that the space offers today."""
        found: dict[str, Any] = {}

        def choose(name: str, options: Sequence[T]) -> T:
            found[name] = self._optuna.distributions.CategoricalDistribution(tuple(options))
            chosen: T = params[name]
            return chosen

        self.space.compose(choose)
        return found


def _composed(space: Space[Any], choose: Callable[[str, Sequence[Any]], Any]) -> tuple[Any, dict[str, Any]]:
    """A genotype, and the choices that made it."""
    params: dict[str, Any] = {}

    def noted(name: str, options: Sequence[T]) -> T:
        params[name] = choose(name, options)
        chosen: T = params[name]
        return chosen

    return space.compose(noted), params


def _drawn(rng: np.random.Generator) -> Choose:
    return lambda name, options: options[int(rng.integers(len(options)))]
