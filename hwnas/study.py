"""`Study`: one search from images and a device to a front, in a run folder that survives being killed."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from hwnas import front, plan
from hwnas.box import Box
from hwnas.budget import Budget
from hwnas.costs import Costs
from hwnas.executor import Executor, Outcome
from hwnas.lemonade import Lemonade
from hwnas.limits import starts_within
from hwnas.manifest import write_atomically
from hwnas.progress import Progress, Quiet
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.strategy import RandomSearch, Strategy
from hwnas.trial import Trial
from latency import Deployment, LatencyTable, make_runtime
from objectives import cost
from objectives.base import Objective
from objectives.data import Data, Split, load_data
from spaces.errors import StoreError
from spaces.plain import PlainSpace
from spaces.state import State

SPEC_FILE = "spec.yaml"
TABLE_FILE = "latency.csv"


def search(spec: Spec, out: str | Path, progress: Progress | None = None) -> Path:
    """Run a whole study in a new folder.

    Args:
        spec: What to search, for what, how long.
        out: The run folder; must not hold a study yet.
        progress: Is told how it goes; None: nobody.

    Returns:
        The run folder.

    Raises:
        HwnasError: The data, the device, the limits or the folder do not allow it; the message says what to do.
    """
    out, progress = Path(out), progress or Quiet()
    if Store.exists(out):
        raise StoreError(f"{out} holds a study already. Go on with 'hwnas resume {out}' or name another folder.")
    with progress:
        data = load(spec)
        with Store.create(out, spec.to_json()) as store:
            write_atomically(store.path / SPEC_FILE, spec.dump())
            Study(spec, data, store, progress).run()
    return out


def resume(out: str | Path, progress: Progress | None = None, budget: float | None = None) -> Path:
    """Go on with an interrupted study, or with a finished one that gets more time.

    Args:
        out: The run folder.
        progress: Is told how it goes.
        budget: A new budget in seconds for the whole study, what it has used included; None keeps the old one.

    Returns:
        The run folder.

    Raises:
        HwnasError: As for :func:`search`, or the data is not what the study began with.
    """
    out, progress = Path(out), progress or Quiet()
    with progress, Store.open(out, write=True) as store:
        spec = Spec.from_json(store.get("spec"))
        if budget is not None:
            spec = spec.resolve({"budget.time": budget})
            store.put("spec", spec.to_json())
            write_atomically(store.path / SPEC_FILE, spec.dump())
        Study(spec, load(spec), store, progress).run()
    return out


def load(spec: Spec) -> Data:
    """The images of a specification, on the GPU where there is one and they fit.

    Raises:
        DataError: They cannot be found, read or split.
    """
    data = load_data(seed=spec.seed, **arguments(spec.data, "metric"))
    if torch.cuda.is_available() and not data.streamed:
        device = torch.device("cuda")
        moved = {
            name: Split(split.images.to(device), split.labels.to(device))
            for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
        }
        return replace(data, **moved)  # type: ignore[arg-type]
    return data


def arguments(section: BaseModel, *but: str) -> dict[str, Any]:
    """A section of a specification as keyword arguments, without some of its keys."""
    # Not model_dump: that writes quantities as text, with units.
    return {name: value for name, value in section if name not in but}


class Study:
    """Everything that belongs to one run folder.

    Attributes:
        spec: As resolved.
        data: The images.
        store: The run folder.
        space: What can be built.
        deployment: Where latency counts.
        table: Its kernels.
        objectives: Names of what is minimised.
        box: Where hypervolume is measured.
        strategy: Asks and is told.
        executor: Runs trials.
        budget: Time or trainings.
        progress: Is told how it goes.
    """

    def __init__(self, spec: Spec, data: Data, store: Store, progress: Progress) -> None:
        self.spec, self.data, self.store, self.progress = spec, data, store, progress
        self._same_data()
        self.budget = Budget(
            spec.budget.time, spec.budget.trainings, spec.final.share, used=store.get("seconds used", 0.0)
        )
        progress.start(self._title())
        for warning in data.report.warnings:
            progress.note(warning)
        self.space = PlainSpace(data.shape, len(data.classes), **arguments(spec.space, "kind"))
        self.deployment = Deployment.here(**arguments(spec.deployment))
        self.table = LatencyTable.open(make_runtime(self.deployment))
        self.objectives = tuple(spec.objectives)
        costs = Costs(self._cheap(), spec.limits, self.table.snapshot)
        first = [self.space.decode(genotype) for genotype in starts_within(self.space, costs)]
        self.box = Box.around(costs.of(first), self.objectives, spec.limits, 1 - 1 / len(data.classes))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        recipe = spec.recipe(plan.DEFAULT_EPOCHS, spec.seed)
        kept = store.get("plan")
        if kept is None:
            measured = plan.measure(
                first,
                data,
                recipe,
                device,
                seconds=self.budget.search_seconds,
                threads=spec.threads,
                epochs=spec.search.epochs,
                initial_epochs=spec.search.initial_epochs,
            )
            kept = measured.to_json()
            store.put("plan", kept)
        self.plan = plan.Plan(**kept)
        torch.set_num_threads(self.plan.threads)
        self.strategy = self._strategy(costs)
        self.strategy.restore(store.trials())
        self.executor = Executor(
            self.space,
            data,
            replace(recipe, precision=self.plan.precision),
            spec.data.metric,
            device,
            self.parent,
        )

    def run(self) -> None:
        """Search until the budget says so, then finish."""
        self.search()
        front.finish(self)
        shutil.copyfile(self.table.path, self.store.path / TABLE_FILE)

    def search(self) -> None:
        """Ask, train, tell, until the budget of the search is used up or the space exhausted."""
        self.store.sweep(self._wanted())
        self._evaluate([trial for trial, result in self.strategy.records if result is None])
        while not self._over():
            trials = self.strategy.ask(self._room())
            if not trials:
                self.progress.note("the space holds no further network within its bounds and limits")
                break
            self.store.add_trials(trials)
            self._evaluate(trials)
            self.store.sweep(self._wanted())

    def _evaluate(self, trials: Sequence[Trial]) -> None:
        for outcome in self.executor.run(trials):
            self._keep(outcome)
            self.update("search", self.trainings, self.spec.budget.trainings or 0)
            if self._out_of_time():
                break

    def _keep(self, outcome: Outcome) -> None:
        state = None if outcome.state is None else outcome.state.flat()
        result = replace(outcome.result, info={**outcome.result.info, "elapsed": self.budget.elapsed})
        told = self.store.tell(outcome.trial.id, result, state)
        self.strategy.tell(outcome.trial.id, told)
        self.store.put("seconds used", self.budget.elapsed)

    @property
    def trainings(self) -> int:
        """Trials with a result, failed ones included."""
        return sum(result is not None for _, result in self.strategy.records)

    def _out_of_time(self) -> bool:
        return self.budget.search_is_over(0)

    def _over(self) -> bool:
        return self.budget.search_is_over(self.trainings)

    def _room(self) -> int:
        most = self.spec.search.children
        return most if self.spec.budget.trainings is None else min(most, self.spec.budget.trainings - self.trainings)

    def _wanted(self) -> set[str]:
        """Weights of every network in the archive's front and of the parents of running trials."""
        archive = self.strategy.archive
        return {entry.result.weights for entry in archive.entries if entry.result.weights is not None}

    def parent(self, id: int) -> tuple[Trial, State]:
        """A trial and its trained tensors."""
        trial, result = self.strategy.record(id)
        assert result is not None
        assert result.weights is not None
        return trial, State.from_flat(self.store.load_weights(result.weights))

    def lineage(self, trial: Trial) -> list[dict[str, Any]]:
        """How a network came to be, from the first ancestor on: trial, what it started from, moves, epochs."""
        chain = [trial]
        while (parent := chain[-1].parent) is not None:
            chain.append(self.strategy.record(parent)[0])
        return [
            {"trial": step.id, "init": step.init, "moves": list(step.moves), "epochs": step.fidelity_to}
            for step in reversed(chain)
        ]

    def update(self, phase: str, done: float, total: float) -> None:
        """Tell the progress where the study is."""
        archive = self.strategy.archive
        best = archive.front()
        self.progress.update(
            generation=self.strategy.generation - 1,
            trainings=self.trainings,
            failed=sum(result is not None and result.status == "failed" for _, result in self.strategy.records),
            hypervolume=self.box.volume(archive.matrix()),
            best_error=min((entry.values["error"] for entry in archive.entries), default=None),
            front_size=len(best),
            seconds_left=self.budget.left,
            phase=phase,
            phase_done=done,
            phase_total=total,
        )

    # Made once ------------------------------------------------------------------------------------------------------

    def _same_data(self) -> None:
        known = self.store.get("data")
        if known is None:
            self.store.put("data", self.data.fingerprint)
        elif known != self.data.fingerprint:
            raise StoreError(
                f"the images of {self.spec.data.source} are not those that {self.store.path} began with; "
                "restore them, or start a new search"
            )

    def _title(self) -> list[str]:
        data = self.data
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self._splits())
        return [
            f"hwnas: {data.name}, {len(data.classes)} classes, {'x'.join(map(str, data.shape))}: {sizes}",
            f"objectives {', '.join(self.spec.objectives)}; run folder {self.store.path}",
        ]

    def _splits(self) -> list[tuple[str, Split]]:
        return [("train", self.data.train), ("val", self.data.val), ("test", self.data.test)]

    def _cheap(self) -> list[Objective]:
        """Cheap objectives asked for, and those that every picture shows."""
        known = {"params": cost.PARAMS, "macs": cost.MACS, "peak_memory": cost.PEAK_MEMORY}
        wanted = {"params", "macs", *self.spec.objectives}
        found = [objective for name, objective in known.items() if name in wanted]
        return [*found, cost.latency(self.table)] if "latency" in wanted else found

    def _strategy(self, costs: Costs) -> Strategy:
        search, seed = self.spec.search, self.spec.seed
        if search.strategy == "random":
            return RandomSearch(self.space, costs, self.objectives, seed, epochs=self.plan.epochs)
        return Lemonade(
            self.space,
            costs,
            self.objectives,
            seed,
            epochs=self.plan.epochs,
            initial_epochs=self.plan.initial_epochs,
            **arguments(search, "strategy", "children", "epochs", "initial_epochs"),
        )
