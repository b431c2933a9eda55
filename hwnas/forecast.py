"""What the end of a study takes: epochs, exports and tests, measured and shared out by a `Timetable`."""

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from hwnas import end, plan, verify
from hwnas.archive import Entry
from hwnas.call import Call
from hwnas.executor import Executor
from hwnas.references import Reference
from hwnas.timetable import REFERENCE_SHARE, Timetable
from latency import Deployment
from objectives.accuracy import predict_logits
from objectives.data import Data
from spaces.arch import Arch
from spaces.errors import TrainingError
from spaces.onnx import to_onnx
from spaces.state import initial_state

if TYPE_CHECKING:
    from hwnas.study import Study

#: Seconds kept for the report, for the export and timing of a network of ours, and for those of one that is not.
REPORT_SECONDS, OWN_SECONDS, FOREIGN_SECONDS = 2.0, 0.2, 4.0

#: Images on which a test is timed.
TIMED_IMAGES = 64


def timed(study: "Study", stock: Sequence[Reference]) -> list[tuple[Reference, float, float]]:
    """References that can be trained here, with the seconds of an epoch, and of export, timing and test."""
    found = []
    for reference in stock:
        name = f"timing {reference.name}, {study.budget.seconds}"
        timing = study.deaths.surviving(name, partial(_timing, study, reference), lambda reason: reason)
        if isinstance(timing, str):
            study.progress.note(f"reference {reference.name} left out: {timing}")
        else:
            found.append((reference, *timing))
    return found


def _timing(study: "Study", reference: Reference) -> tuple[float, float] | str:
    """Seconds of an epoch, and of export, timing and test; or why there are none."""
    try:
        module = reference.build(study.spec.seed).to(study.executor.device)
        epoch = plan.seconds_per_epoch(module, study.data, study.executor.recipe)
        export = OWN_SECONDS if reference.peak_memory is not None else FOREIGN_SECONDS
        return epoch, export + _seconds_to_test(module, study.data)
    except TrainingError as error:
        return str(error)


def timetable(
    study: "Study", chosen: Sequence[Entry], priced: Sequence[tuple[Reference, float, float]]
) -> Timetable | None:
    """Measured on real training steps; None without a budget in time."""
    if study.budget.left is None:
        return None
    recipe, device, data = study.executor.recipe, study.executor.device, study.data
    archs = [study.space.decode(study.space.from_json(entry.trial.genotype)) for entry in chosen]
    if study.plan.workers == 1 and study.spec.threads is None:
        # Measured again: cores that were free when the search began need not be so now.
        torch.set_num_threads(plan.free_threads(plan.network(archs[len(archs) // 2], device), data, recipe))
    finalists = _paces(study, chosen, archs)
    tests = [_seconds_to_test(plan.network(arch, torch.device("cpu")), data) for arch in archs]
    tests += [_seconds_to_test_file(arch, data, study.deployment) for arch in archs]
    checks = REPORT_SECONDS + OWN_SECONDS * len(archs) + sum(tests)
    trained = zip(chosen, finalists, strict=True)
    earlier = statistics.median(entry.epochs * seconds for entry, seconds in trained)
    references, reference_checks = [epoch for _, epoch, _ in priced], [check for *_, check in priced]
    workers = study.plan.workers
    return Timetable.make(study.budget.left, finalists, checks, references, reference_checks, earlier, workers)


def _paces(study: "Study", chosen: Sequence[Entry], archs: Sequence[Arch]) -> list[float]:
    """Seconds of an epoch of each, timed side by side where they train so; where that fails, those of the search."""
    found = {
        place: entry.result.seconds / (entry.trial.fidelity_to - entry.trial.fidelity_from)
        for place, entry in enumerate(chosen)
    }

    def calls() -> Iterator[Call]:
        for place, (entry, arch) in enumerate(zip(chosen, archs, strict=True)):
            yield Call(end.name_of(study, f"timing/{entry.trial.id}"), pace, (arch,), str, place)

    def keep(place: int, made: float | str) -> None:
        if not isinstance(made, str):
            found[place] = made

    end.run(study, calls(), keep, "timing", len(chosen))
    return [found[place] for place in range(len(chosen))]


def pace(executor: Executor, arch: Arch) -> float | str:
    """Seconds of an epoch, or why there are none."""
    try:
        return plan.seconds_per_epoch(plan.network(arch, executor.device), executor.data, executor.recipe)
    except TrainingError as error:
        return str(error)


def open_end(study: "Study", priced: Sequence[tuple[Reference, float, float]]) -> Timetable:
    """Without a budget in time: references may take as much of what the study took as they would get of a budget."""
    seconds = tuple(epoch for _, epoch, _ in priced)
    kept = REFERENCE_SHARE * study.budget.elapsed
    return Timetable((), 0.0, seconds, (0.0,) * len(priced), kept, study.plan.workers)


def _seconds_to_test(module: nn.Module, data: Data) -> float:
    """Expected seconds for one pass over the test split; timed on other images, as that is read but once."""
    images = data.train.images[:TIMED_IMAGES]
    predict_logits(module, images)  # the first time is slower
    began = time.perf_counter()
    predict_logits(module, images)
    return (time.perf_counter() - began) * len(data.test) / len(images)


def _seconds_to_test_file(arch: Arch, data: Data, deployment: Deployment) -> float:
    """The same for the exported file."""
    content = to_onnx(arch, initial_state(arch).value, batch=deployment.batch).SerializeToString()
    all_of_them = data.train.images[:TIMED_IMAGES]

    def seconds(images: torch.Tensor) -> float:
        began = time.perf_counter()
        verify.run(content, images, deployment.batch, deployment.threads)
        return time.perf_counter() - began

    # Of two runs the difference, which leaves out what a session takes to begin.
    half = all_of_them[: len(all_of_them) // 2]
    return max(0.0, seconds(all_of_them) - seconds(half)) * len(data.test) / (len(all_of_them) - len(half))
