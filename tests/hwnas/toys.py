"""Small searches: without training, on an error that is looked up; and with it, in a process that can be killed."""

import hashlib
import math
import multiprocessing
import os
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hwnas import runfolder
from hwnas.costs import Costs
from hwnas.executor import Executor
from hwnas.progress import Progress, Quiet, Status
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.strategy import Strategy
from hwnas.trial import Result, Trial
from objectives import cost
from objectives.data import Data, load_data
from spaces.plain import PlainSpace
from spaces.space import Space

OBJECTIVES = ("error", "params", "macs")

SPACE = PlainSpace((1, 8, 8), classes=3, stages=2, max_width=32, max_depth=8, max_kernel=5)

#: Two widths and two kernels of one convolution.
FOUR_NETWORKS = PlainSpace(
    (1, 8, 8), classes=2, stages=1, max_depth=1, max_width=16, max_kernel=3, separable=False, skips=False
)


class Notes(Quiet):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def note(self, text: str) -> None:
        self.all.append(text)


def costs(limits: Mapping[str, float] | None = None, snapshot: str | None = None, space: Space[Any] = SPACE) -> Costs:
    return Costs(space, [cost.PARAMS, cost.MACS], limits, lambda: snapshot)


def looked_up(trial: Trial) -> Result:
    """A larger network errs less; which of two equal ones is better, its hash decides."""
    luck = int(hashlib.sha256(trial.hash.encode()).hexdigest()[:8], 16) / 2**32
    error = 1 / (1 + math.log10(trial.cheap["params"])) + 0.1 * luck
    return Result({"error": error}, seconds=1.0, info={"stderr": 0.01, "epochs": trial.fidelity_to})


def failed(trial: Trial) -> Result:
    return Result({}, seconds=1.0, status="failed", reason="diverged")


def play(strategy: Strategy, asks: int, count: int = 4, answer=looked_up) -> list[Trial]:
    """Ask and tell some times."""
    asked = []
    for _ in range(asks):
        trials = strategy.ask(count)
        for trial in trials:
            strategy.tell(trial.id, answer(trial))
        asked += trials
    return asked


@lru_cache
def digits() -> Data:
    """A few hundred images of scikit-learn's digits."""
    return load_data("digits", train_limit=200)


#: A real search of seconds, which finds the same networks again: nothing about it is measured but latency.
SHORT = {
    "budget": {"trainings": 8},
    "search.children": 4,
    "search.workers": 1,
    "search.epochs": 0.5,
    "search.initial_epochs": 1.0,
    "space.stages": 2,
    "space.max_width": 16,
    "space.max_depth": 6,
    "training.precision": "fp32",
    "final.models": 3,
    "final.epochs": 1.0,
    "final.references": False,
    "threads": 1,
}


def short(**overrides: Any) -> Spec:
    return Spec().resolve(SHORT | overrides)


class Reporting(Progress):
    """Tells another process about each step."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def _show(self, status: Status) -> None:
        if status.generation is not None:
            self.pipe.send((status.phase, status.phase_done, status.trainings))


#: How a process ends that a training has killed, as the system does where memory is short.
FATAL = 137


def search_or_resume(spec: dict[str, Any], out: Path, pipe: Connection, fatal: int | None) -> None:
    """What a process does that is going to be killed, by somebody or by the training of one trial."""
    if fatal is not None:
        start = Executor._start
        Executor._start = lambda self, trial, parent: (
            os._exit(FATAL) if trial.id == fatal else start(self, trial, parent)
        )
    if Store.exists(out):
        runfolder.resume(out, Reporting(pipe))
    else:
        runfolder.search(Spec.from_json(spec), out, Reporting(pipe))


class Search:
    """A search in a process of its own, forked from one that has imported everything: so there is time to kill many."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hwnas.runfolder", "torch._dynamo", "matplotlib.figure", "pandas"])

    def __init__(self, spec: Spec, out: Path, fatal: int | None = None) -> None:
        self.pipe, theirs = self.context.Pipe(duplex=False)
        self.process = self.context.Process(target=search_or_resume, args=(spec.to_json(), out, theirs, fatal))
        self.process.start()
        theirs.close()

    def next(self) -> tuple[str, float, int] | None:
        """The next step that it tells of; None at its end."""
        try:
            step: tuple[str, float, int] = self.pipe.recv()
        except EOFError:
            return None
        return step

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def join(self) -> int | None:
        self.process.join()
        return self.process.exitcode
