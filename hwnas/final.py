"""Final training: the finalists and, beside them, stock networks, for as long as the time that is left allows.

What an interrupted run has trained already is read back; a budget that was raised since makes a new end.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hwnas import plan, verify
from hwnas.archive import Entry
from hwnas.deaths import surviving
from hwnas.references import Reference
from hwnas.timetable import REFERENCE_SHARE, Timetable
from hwnas.trial import Result, Trial
from latency import Deployment
from objectives.accuracy import evaluate, predict_logits
from objectives.data import Data
from objectives.training import train
from spaces.arch import Arch
from spaces.errors import TrainingError
from spaces.onnx import to_onnx
from spaces.state import State, initial_state

if TYPE_CHECKING:
    from hwnas.study import Study

#: Epochs of final training without a budget in time.
DEFAULT_EPOCHS = 30.0

#: Seconds kept for the report, for the export and timing of a network of ours, and for those of one that is not.
REPORT_SECONDS, OWN_SECONDS, FOREIGN_SECONDS = 2.0, 0.2, 4.0

#: Images on which a test is timed.
TIMED_IMAGES = 64


@dataclass(frozen=True)
class Finalist:
    """A network of the front, trained to the end.

    Attributes:
        trial: Where it comes from.
        result: Of the final training; of the search, where there was no time for more.
        arch: The network.
        state: Its final tensors.
        unfinished: Why it is as the search left it; None where it was trained to the end.
    """

    trial: Trial
    result: Result
    arch: Arch
    state: State
    unfinished: str | None = None


@dataclass(frozen=True)
class Trained:
    """A reference, trained.

    Attributes:
        reference: Which.
        module: With its weights, on the CPU.
        val: Validation accuracy.
        stderr: Its standard error.
        epochs: Passes over the training data.
    """

    reference: Reference
    module: nn.Module
    val: float
    stderr: float
    epochs: float


def train_all(
    study: "Study", chosen: Sequence[Entry], stock: Sequence[Reference]
) -> tuple[list[Finalist], list[Trained]]:
    """Train finalists, then the references that there is time for.

    Args:
        study: What they belong to.
        chosen: The finalists to be; the first are trained first.
        stock: The references.
    """
    timed = _timed(study, stock)
    table = _timetable(study, chosen, timed)
    finalists = []
    for place, entry in enumerate(chosen):
        study.update("final training", place, len(chosen))
        training = partial(_train, study, entry, _epochs(study, table, place, entry), _deadline(study, table))
        record = _once(study, f"final/{entry.trial.id}", training, partial(_untrained, study, entry))
        finalists.append(_finalist(study, entry.trial, record))
    seen = max(finalist.result.info["epochs"] for finalist in finalists)
    rest = table or _open_end(study, timed)
    ends = study.budget.elapsed + (rest.for_references if table is None else study.budget.left or 0.0)
    references, owed = [], 0.0
    for place, (reference, *_) in enumerate(timed):
        name = f"reference/{reference.name}"
        record = study.store.get(_end(study, name))
        if record is None:
            if place not in rest.affordable:
                study.progress.note(f"reference {reference.name} left out: there is no time for an epoch of it")
                continue
            study.update("references", place, len(timed))
            most = rest.reference_epochs(place, ends - study.budget.elapsed - owed)
            training = partial(_train_reference, study, reference, seen, most, _deadline(study, table))
            record = _once(study, name, training, lambda reason: {"reason": reason})
        if "reason" in record:
            study.progress.note(f"reference {reference.name} left out: {record['reason']}")
        else:
            references.append(_trained(study, reference, record))
            owed += rest.reference_checks[place]
    return finalists, references


def _timed(study: "Study", stock: Sequence[Reference]) -> list[tuple[Reference, float, float]]:
    """References that can be trained here, with the seconds of an epoch, and of export, timing and test."""
    found = []
    for reference in stock:
        name = f"timing {reference.name}, {study.budget.seconds}"
        timing = surviving(study.store, name, partial(_timing, study, reference), lambda reason: reason)
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


def _timetable(
    study: "Study", chosen: Sequence[Entry], timed: Sequence[tuple[Reference, float, float]]
) -> Timetable | None:
    """Measured on real training steps; None without a budget in time."""
    if study.budget.left is None:
        return None
    recipe, device, data = study.executor.recipe, study.executor.device, study.data
    archs = [study.space.decode(study.space.from_json(entry.trial.genotype)) for entry in chosen]
    if study.spec.threads is None:  # measured again: cores that were free when the search began need not be so now
        torch.set_num_threads(plan.free_threads(plan.network(archs[len(archs) // 2], device), data, recipe))
    finalists = [plan.seconds_per_epoch(plan.network(arch, device), data, recipe) for arch in archs]
    tests = [_seconds_to_test(plan.network(arch, torch.device("cpu")), data) for arch in archs]
    tests += [_seconds_to_test_file(arch, data, study.deployment) for arch in archs]
    checks = REPORT_SECONDS + OWN_SECONDS * len(archs) + sum(tests)
    trained = zip(chosen, finalists, strict=True)
    earlier = statistics.median(entry.epochs * seconds for entry, seconds in trained)
    references, reference_checks = [epoch for _, epoch, _ in timed], [check for *_, check in timed]
    return Timetable.make(study.budget.left, finalists, checks, references, reference_checks, earlier)


def _open_end(study: "Study", timed: Sequence[tuple[Reference, float, float]]) -> Timetable:
    """Without a budget in time: references may take as much of what the study took as they would get of a budget."""
    seconds = tuple(epoch for _, epoch, _ in timed)
    return Timetable((), 0.0, seconds, (0.0,) * len(timed), REFERENCE_SHARE * study.budget.elapsed)


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


def _epochs(study: "Study", table: Timetable | None, place: int, entry: Entry) -> float:
    """What is asked for, or what there is time for; no less than the last training in the search, or nothing."""
    asked = study.spec.final.epochs
    if asked is not None or table is None:
        return asked or DEFAULT_EPOCHS
    least = entry.trial.fidelity_to - entry.trial.fidelity_from
    return table.epochs(place, study.budget.left or 0.0, least)


def _deadline(study: "Study", table: Timetable | None) -> float | None:
    """When a training is cut short, should it take much longer than measured; never where epochs are asked for."""
    if table is None or study.spec.final.epochs is not None:
        return None
    return time.monotonic() + (study.budget.left or 0.0) - table.checks


def _once(
    study: "Study", name: str, training: Callable[[], dict[str, Any]], instead: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The record of a training: the one that is kept, or a new one. The same search with more time ends anew.

    Args:
        study: Where records are kept.
        name: Of the training.
        training: Makes the record.
        instead: Makes one of a reason, if the process has died in this training too often.
    """
    name = _end(study, name)
    if study.store.get(name) is None:
        study.store.put(name, surviving(study.store, name, training, instead))
        study.note_time()
    record: dict[str, Any] = study.store.get(name)
    return record


def _end(study: "Study", name: str) -> str:
    """The name of what belongs to this end of the study."""
    return f"end/{study.trainings}/{study.budget.seconds}/{name}"


# Finalists ------------------------------------------------------------------------------------------------------------


def _train(study: "Study", entry: Entry, epochs: float, deadline: float | None) -> dict[str, Any]:
    """From the weights of the search through one more whole schedule, unless that cannot be or does harm.

    Harm is an error that rises by more than its standard error; less may be chance, and then more training is better.
    """
    trial, executor = entry.trial, study.executor
    arch = study.space.decode(study.space.from_json(trial.genotype))
    _, state = study.parent(trial.id)
    if not epochs:
        return _untrained(study, entry, "no time is left to train it any further")
    recipe = executor.final_recipe(epochs, study.spec.seed)
    further = replace(trial, fidelity_from=entry.epochs, fidelity_to=entry.epochs + epochs)
    try:
        before = executor.judge(arch, state)  # again: the search may have judged in a lower precision
        outcome = executor.finish(further, arch, state, recipe, deadline=deadline)
    except TrainingError as error:
        return _untrained(study, entry, str(error))
    after = 1 - outcome.result.values["error"]
    if after < before.value - before.stderr:
        why = f"final training took its accuracy from {100 * before.value:.1f} to {100 * after:.1f} %"
        return _untrained(study, entry, why)
    assert outcome.state is not None
    weights = study.store.save_weights(State(outcome.state.best).flat())
    return {"result": outcome.result.to_json(), "weights": weights}


def _untrained(study: "Study", entry: Entry, reason: str) -> dict[str, Any]:
    """The record of a finalist that stays as the search left it, judged in full precision where that can be."""
    study.progress.note(f"{entry.trial.hash[:8]} stays as the search left it: {reason}")
    result = entry.result
    with suppress(TrainingError):
        arch = study.space.decode(study.space.from_json(entry.trial.genotype))
        found = study.executor.judge(arch, study.parent(entry.trial.id)[1])
        values = {**result.values, "error": found.error}
        result = replace(result, values=values, info={**result.info, "stderr": found.stderr})
    return {"result": result.to_json(), "weights": entry.result.weights, "unfinished": reason}


def _finalist(study: "Study", trial: Trial, record: Mapping[str, Any]) -> Finalist:
    arch = study.space.decode(study.space.from_json(trial.genotype))
    state = State.from_flat(study.store.load_weights(record["weights"]))
    return Finalist(trial, Result.from_json(record["result"]), arch, State(state.best), record.get("unfinished"))


# References -----------------------------------------------------------------------------------------------------------


def _train_reference(
    study: "Study", reference: Reference, seen: float, most: float, deadline: float | None
) -> dict[str, Any]:
    """As many epochs as a finalist saw at most through its lineage, or as the time allows."""
    if most < 1:
        return {"reason": f"the time left allows {max(0.0, most):.2f} epochs"}
    module = reference.build(study.spec.seed).to(study.executor.device)
    recipe = replace(study.executor.recipe, epochs=min(seen, most), seed=study.spec.seed)
    try:
        run = train(module, study.data.train, recipe, deadline=deadline)
        if deadline is not None and time.monotonic() >= deadline:
            return {"reason": "its training took too long"}
        found = evaluate(module, study.data.val, study.spec.data.metric, weights=run.ema)
    except TrainingError as error:
        return {"reason": str(error)}
    tensors = {**module.state_dict(), **(run.ema or {})}
    return {
        "val": found.value,
        "stderr": found.stderr,
        "epochs": run.epochs,
        "weights": study.store.save_weights(tensors),
    }


def _trained(study: "Study", reference: Reference, record: Mapping[str, Any]) -> Trained:
    module = reference.build(study.spec.seed)
    module.load_state_dict(study.store.load_weights(record["weights"]))
    return Trained(reference, module, record["val"], record["stderr"], record["epochs"])
