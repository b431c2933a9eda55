"""`Study`: one search from images and a device to a front, in a run folder that survives being killed."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel

from hwnas import front, plan
from hwnas import manifest as manifests
from hwnas.alone import Alone
from hwnas.box import Box
from hwnas.budget import Budget
from hwnas.call import Call
from hwnas.costs import Costs
from hwnas.deaths import Deaths
from hwnas.executor import Executor, Outcome
from hwnas.limits import starts_within
from hwnas.prefilter import Prefilter
from hwnas.progress import Progress, Quiet
from hwnas.proxyscores import ProxyScores
from hwnas.quantities import LATENCY, format_limits
from hwnas.rungs import Rungs
from hwnas.sample import first_networks, untrained_models
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.strategies import make_strategy
from hwnas.strategy import Strategy
from hwnas.target import targets
from hwnas.trial import Trial
from hwnas.workers import Workers
from latency import Deployment, check
from latency.deployment import usable_cores
from objectives import cost
from objectives.accuracy import guess
from objectives.base import Objective
from objectives.data import Data, Split, load_data
from objectives.recipe import Recipe
from spaces.cellspace import CellSpace
from spaces.errors import SpecError, StoreError
from spaces.plain import PlainSpace
from spaces.space import Space
from spaces.state import State
from spaces.wholefile import write_whole

SPEC_FILE = "spec.yaml"
DATA_FILE = "data.txt"


def load(spec: Spec, progress: Progress | None = None) -> Data:
    """The images of a specification; on the GPU, where there is one and they take at most half of its free memory.

    Raises:
        DataError: They cannot be found, read or split.
    """
    prepare = (progress or Quiet()).prepare
    data = load_data(seed=spec.seed, progress=prepare, **arguments(spec.data, "metric"))
    splits = {"train": data.train, "val": data.val, "test": data.test}
    device = plan.training_device()
    if device.type == "cuda" and not data.streamed:
        free, _ = torch.cuda.mem_get_info()
        if sum(split.images.nbytes for split in splits.values()) <= free / 2:
            moved = {name: Split(split.images.to(device), split.labels.to(device)) for name, split in splits.items()}
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
        deaths: Of this process, and of those before.
        space: What can be built.
        targets: Where latency counts.
        deployment: How files are run here: like on the first target that is here.
        objectives: Names of what is minimised.
        box: Where hypervolume is measured.
        plan: How networks train here, and how long.
        strategy: Asks and is told.
        executor: Runs trials.
        budget: Time or trainings.
        progress: Is told how it goes.

    Args:
        spec: As resolved.
        data: Its images.
        store: The run folder, open for writing.
        progress: Is told how it goes.
        began: `time.monotonic()` when this process began with it; to read the images is of the budget too.

    Raises:
        LimitError: No network of the space keeps the limits.
        StoreError: The run folder began with other images, or on another device.
    """

    def __init__(self, spec: Spec, data: Data, store: Store, progress: Progress, began: float | None = None) -> None:
        self.spec, self.data, self.store, self.progress = spec, data, store, progress
        self.deaths = Deaths(store)
        self._workers: Workers | None = None
        used = store.read("seconds used", float, 0.0) + (0.0 if began is None else time.monotonic() - began)
        self.budget = Budget(spec.budget.time, spec.budget.trainings, spec.final.share, used)
        self._unchanged("images", data.fingerprint)
        progress.start(self._title())
        for warning in data.report.warnings:
            progress.note(warning)
        kind: Callable[..., Space[Any]] = CellSpace if spec.space.kind == "cell" else PlainSpace
        self.space = kind(data.shape, len(data.classes), **spec.space.of_kind())
        self.targets = targets(spec, store.path, progress.note)
        for target in self.targets:
            header = target.table.header
            name = "device" if target.objective == LATENCY else f"device {target.device}"
            self._unchanged(name, f"{header.deployment} with {header.version}")
        self.deployment = self._deployment()
        self.objectives = tuple(spec.objectives)
        costs = Costs(self.space, self._cheap(), spec.limits, self._snapshot)
        device = plan.training_device()
        self._unchanged("training device", device.type)  # epochs are planned by its speed
        recipe = spec.recipe(plan.DEFAULT_EPOCHS, spec.seed)
        if store.get("box") is None:
            if spec.threads is not None and spec.threads > usable_cores():
                raise SpecError(f"threads is {spec.threads}, and this process may use {usable_cores()} cores; lower it")
            self._check_tables()
            self._prepare(costs, recipe, device)
        self.box = store.read("box", Box.from_json)
        self.plan = store.read("plan", plan.Plan.from_json).on(usable_cores(), spec.search.workers)
        torch.set_num_threads(self.plan.threads)
        self.strategy = self._strategy(costs)
        self.strategy.restore(store.trials(self.space.from_json))
        self.executor = Executor(
            self.space,
            data,
            replace(recipe, precision=self.plan.precision),
            spec.data.metric,
            device,
        )

    def run(self) -> None:
        """Search until the budget says so, then finish; nothing, where both are done."""
        try:
            self._run()
        finally:
            self.close()

    def _run(self) -> None:
        write_whole(self.store.path / SPEC_FILE, self.spec.dump())
        write_whole(self.store.path / DATA_FILE, self.data.report.text())
        self.search()
        end = [self.trainings, self.spec.budget.time, self.spec.to_json()["final"]]
        if self.store.get("finished") == end and self._front_is_whole():
            self.progress.note(f"{self.store.path} is finished; give it more by a larger --budget")
            return
        try:
            front.finish(self)
        finally:
            self.note_time()
        self.store.put("finished", end)

    def _front_is_whole(self) -> bool:
        folder = self.store.path / manifests.FRONT
        try:
            problem = manifests.problem(manifests.read(folder).models, folder)
        except StoreError as error:
            problem = str(error)
        if problem:
            self.progress.note(f"the front is written anew: {problem}")
        return problem is None

    def search(self) -> None:
        """Ask, train, tell, until the budget of the search is used up or the space exhausted.

        However small the budget, one network is trained, if any of the first generation can be.
        """
        waiting = [trial for trial, result in self.strategy.records if result is None]
        try:
            if self._is_over(waiting, 0):
                return
            workers = self.workers()
            while True:
                while workers.free and not self._is_over(waiting, len(workers.running)):
                    waiting = waiting or self._asked(len(workers.running))
                    if not waiting:
                        break
                    workers.submit(self._call(waiting.pop(0)))
                if not workers.running:
                    break
                if workers.meanwhile and not waiting and not self._is_over(waiting, len(workers.running)):
                    waiting = self._asked(len(workers.running))
                self._keep(workers.next()[1])
                self.update("search", self.trainings, self.spec.budget.trainings or 0)
            if not self._is_over(waiting, 0):
                self.progress.note("no further network was found within the bounds of the space and the limits")
        finally:
            self.note_time()
        for line in self.strategy.learned():
            self.progress.note(line)
        self.store.sweep(self._wanted())

    def _is_over(self, waiting: Sequence[Trial], running: int) -> bool:
        """Whether nothing more is to be begun."""
        enough = self.strategy.archive.entries or running or (self.trainings and not waiting)
        return self.budget.search_is_over(self.trainings + running) and bool(enough)

    def _asked(self, running: int) -> list[Trial]:
        """The next trials, as many as are trained in a generation or the budget has left."""
        most = self.spec.search.children
        if self.spec.budget.trainings is not None:
            most = min(most, self.spec.budget.trainings - self.trainings - running)
        self.store.sweep(self._wanted())
        trials = self.strategy.ask(most)
        for line in self.strategy.news if trials else []:
            self.progress.note(line)
        if trials:
            self.store.add_trials(trials)
            self.store.put(f"generation {trials[0].generation}", self.strategy.note)
        return trials

    def _call(self, trial: Trial) -> Call:
        parent = None if trial.parent is None or trial.init == "scratch" else self.parent(trial.parent)
        arguments = (trial, parent, self.budget.training_seconds)
        return Call(f"trial {trial.id}", Executor.run, arguments, partial(Outcome.failed, trial))

    def workers(self) -> Alone | Workers:
        """What trains networks: this process, or others side by side, which stay until the study is closed."""
        if self.plan.workers == 1:
            return Alone(self.executor, self.deaths)
        if self._workers is None:
            count, threads = self.plan.workers, self.plan.threads
            self._workers = Workers(self.executor, count, threads, self.store.weights, self.deaths)
            for target in self.targets:
                target.table.undisturbed = self._workers.paused
        return self._workers

    def close(self) -> None:
        """Stop the processes that train."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _keep(self, outcome: Outcome) -> None:
        state = None if outcome.state is None else outcome.state.flat()
        result = replace(outcome.result, info={**outcome.result.info, "elapsed": self.budget.elapsed})
        told = self.store.tell(outcome.trial.id, result, state)
        self.strategy.tell(outcome.trial.id, told)

    def note_time(self) -> None:
        """Keep what is used of the budget, for a resume to go on from."""
        self.store.put("seconds used", self.budget.elapsed)

    @property
    def trainings(self) -> int:
        """Trials with a result, failed ones included."""
        return sum(result is not None for _, result in self.strategy.records)

    def _wanted(self) -> set[str]:
        """Weights of the whole archive: what is dominated today may be of the front when a better one disappoints."""
        archive = self.strategy.archive
        return {entry.result.weights for entry in archive.entries if entry.result.weights is not None}

    def parent(self, id: int) -> tuple[Trial, State]:
        """A trial and its trained tensors."""
        trial, result = self.strategy.record(id)
        assert result is not None
        assert result.weights is not None
        return trial, State.from_flat(self.store.load_weights(result.weights))

    def update(self, phase: str, done: float, total: float) -> None:
        """Tell the progress where the study is, and keep the time."""
        self.note_time()
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

    def _unchanged(self, what: str, now: str) -> None:
        """Refuse to go on with other images, or where latencies would come from two devices."""
        before = self.store.get(what)
        if before is None:
            self.store.put(what, now)
        elif before != now:
            raise StoreError(
                f"the {what} changed since {self.store.path} began: {before} then, {now} now; "
                "go on where all is as it was, or start a new search"
            )

    def _check_tables(self) -> None:
        """Hold tables against whole networks of the space: limits are judged by their error, which is unknown else."""
        for target in self.targets:
            if target.objective not in self.objectives or target.table.header.check is not None:
                continue
            networks = first_networks(self.space, self.spec.seed)
            if not target.here:
                self.progress.note(f"the table of {target.device} was never checked, so its intervals are wide")
            elif len(networks) > 1:  # a space of one network leaves nothing to compare
                models = untrained_models(networks, self.deployment.batch)
                inherited = target.table.header.calibration
                found = check(target.table, models, recalibrate=False)
                if inherited is not None and found.calibration is not None:
                    self.progress.note(
                        f"the calibration of earlier latencies on {target.device} is off for networks like these; "
                        "this study has one of its own"
                    )

    def _deployment(self) -> Deployment:
        here = [target.table.header.deployment for target in self.targets if target.here]
        return here[0] if here else Deployment.here(batch=self.targets[0].table.header.deployment.batch)

    def _snapshot(self) -> str:
        """What all predictions rest on."""
        return " ".join(target.table.snapshot() for target in self.targets)

    def _prepare(self, costs: Costs, recipe: Recipe, device: torch.device) -> None:
        """What is settled before the first training, once for the whole study."""
        starts = starts_within(self.space, costs)
        guessing = 1 - guess(self.data.val.labels, self.spec.data.metric)
        box = Box.around(costs.of(starts), self.objectives, self.spec.limits, guessing)
        rungs = self._rungs(box)
        measured = plan.measure(
            [self.space.decode(genotype) for genotype in starts],
            self.data,
            recipe,
            device,
            seconds=self.budget.search_left,
            inherit=self.spec.search.inherits,
            trainings=self._networks(rungs),
            work=1.0 if rungs is None else rungs.work,
            threads=self.spec.threads,
            workers=self.spec.search.workers,
            epochs=self.spec.search.epochs,
            initial_epochs=self.spec.search.initial_epochs,
        )
        self.store.put("plan", measured.to_json())
        self.store.put("box", box.to_json())

    def _networks(self, rungs: Rungs | None) -> int | None:
        """How many are to be begun, where that is decided; a budget in trainings counts promotions, too."""
        trials = self.spec.budget.trainings
        if self.spec.search.trainings is not None or trials is None:
            return self.spec.search.trainings
        return math.ceil(trials / (1.0 if rungs is None else rungs.trials))

    def _title(self) -> list[str]:
        objectives = ", ".join(self.spec.objectives)
        limits = f"; limits {format_limits(self.spec.limits)}" if self.spec.limits else ""
        aims = f"objectives {objectives}{limits}; budget {self.spec.budget}; run folder {self.store.path}"
        return [*self.data.report.lines(), aims]

    def _cheap(self) -> list[Objective]:
        """Cheap objectives asked for, and those that every picture shows."""
        known = {"params": cost.PARAMS, "macs": cost.MACS, "peak_memory": cost.PEAK_MEMORY}
        wanted = {"params", "macs", *self.spec.objectives}
        found = [objective for name, objective in known.items() if name in wanted]
        return [*found, *(target.cheap() for target in self.targets if target.objective in wanted)]

    def _strategy(self, costs: Costs) -> Strategy:
        search = self.spec.search
        options = search.options()
        if search.discard:
            options["prefilter"] = self._prefilter(costs)
        if rungs := self._rungs(self.box):
            options["rungs"] = rungs
        return make_strategy(
            search.strategy,
            self.space,
            costs,
            self.objectives,
            self.spec.seed,
            box=self.box,
            epochs=self.plan.epochs,
            initial_epochs=self.plan.initial_epochs,
            **options,
        )

    def _rungs(self, box: Box) -> Rungs | None:
        search = self.spec.search
        if search.promotes == "none":
            return None
        return Rungs(box, search.rungs, search.factor, search.promotes == "halving", search.curves)

    def _prefilter(self, costs: Costs) -> Prefilter:
        names = tuple(self.spec.search.proxies)
        score = ProxyScores.on(self.space, names, self.data, self.spec.seed, plan.training_device())
        return Prefilter(self.space, names, score, self.spec.search.discard, costs.names)
