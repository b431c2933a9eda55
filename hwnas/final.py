"""Final training: the finalists and, beside them, stock networks, for as long as the time that is left allows.

What an interrupted run has trained already is read back; a budget that was raised since makes a new end.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hwnas import plan, verify
from hwnas.archive import Entry
from hwnas.deaths import surviving
from hwnas.executor import Executor, Outcome
from hwnas.references import Reference
from hwnas.timetable import REFERENCE_SHARE, Timetable
from hwnas.trial import Result, Trial
from hwnas.workers import Call
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

    Networks that were trained to the end before, by the same search with a smaller budget, are finalists too.

    Args:
        study: What they belong to.
        chosen: The finalists to be; the first are trained first.
        stock: The references.
    """
    timed = _timed(study, stock)
    table = _timetable(study, chosen, timed)
    finalists = _with_earlier(study, _finalists(study, table, chosen))
    seen = max(finalist.result.info["epochs"] for finalist in finalists)
    return finalists, _references(study, table or _open_end(study, timed), timed, seen)


def _finalists(study: "Study", table: Timetable | None, chosen: Sequence[Entry]) -> list[Finalist]:
    """All trained, side by side where there are several workers."""

    def calls() -> Iterator[Call]:
        for place, entry in enumerate(chosen):
            if study.store.get(_end(study, _name(entry))) is None:
                epochs = _epochs(study, table, place, entry)
                if epochs:
                    yield _training(study, table, entry, epochs)
                else:
                    _keep(study, _name(entry), _untrained(study, entry, "no time is left to train it any further"))

    def keep(entry: Entry, made: Outcome | str) -> None:
        record = _untrained(study, entry, made) if isinstance(made, str) else _trained_further(study, made)
        _keep(study, _name(entry), record)

    _run(study, calls(), keep, "final training", len(chosen))
    return [_finalist(study, entry.trial, study.store.get(_end(study, _name(entry)))) for entry in chosen]


def _with_earlier(study: "Study", finalists: Sequence[Finalist]) -> list[Finalist]:
    """Finalists, and those of earlier ends; of two trainings of one network the better one."""
    best = {finalist.trial.hash: finalist for finalist in finalists}
    for name, record in study.store.named("end/*/final/*").items():
        if "unfinished" in record or name.startswith(_end(study, "")):
            continue
        trial, _ = study.strategy.record(int(name.rpartition("/")[2]))
        rival = best.get(trial.hash)
        if rival is None or record["result"]["values"]["error"] < rival.result.values["error"]:
            best[trial.hash] = _finalist(study, trial, record)
    return list(best.values())


def _references(
    study: "Study",
    table: Timetable,
    timed: Sequence[tuple[Reference, float, float]],
    seen: float,
) -> list[Trained]:
    """Those that there is time for, with at most as many epochs as a finalist has seen through its lineage."""
    bounded = study.budget.left is not None
    ends = study.budget.elapsed + ((study.budget.left or 0.0) if bounded else table.for_references)
    owed = 0.0

    def calls() -> Iterator[Call]:
        nonlocal owed
        for place, (reference, *_) in enumerate(timed):
            if study.store.get(_end(study, _stock(reference))) is not None:
                owed += table.reference_checks[place]
            elif place not in table.affordable:
                study.progress.note(f"reference {reference.name} left out: there is no time for an epoch of it")
            else:
                most = table.reference_epochs(place, ends - study.budget.elapsed - owed)
                if most < 1:
                    keep(reference, f"the time left allows {max(0.0, most):.2f} epochs")
                    continue
                owed += table.reference_checks[place]
                epochs, seconds = min(seen, most), _seconds(study, table if bounded else None)
                arguments = (reference.build(study.spec.seed), epochs, study.spec.seed, seconds)
                yield Call(_end(study, _stock(reference)), train_reference, arguments, str, reference)

    def keep(reference: Reference, made: dict[str, Any] | str) -> None:
        record: dict[str, Any] = {"reason": made} if isinstance(made, str) else made
        if "reason" not in record:
            record = {**record, "weights": study.store.save_weights(record["weights"])}
        _keep(study, _stock(reference), record)

    _run(study, calls(), keep, "references", len(timed))
    found = []
    for reference, *_ in timed:
        record = study.store.get(_end(study, _stock(reference)))
        if record is not None and "reason" in record:
            study.progress.note(f"reference {reference.name} left out: {record['reason']}")
        elif record is not None:
            found.append(_trained(study, reference, record))
    return found


def _run(
    study: "Study",
    calls: Iterator[Call],
    keep: Callable[[Any, Any], None],
    phase: str,
    total: int,
) -> None:
    """Submit calls as workers get free, and keep what they make. A call is made when it is its turn, not before."""
    workers, done = study.workers(), 0
    while True:
        study.update(phase, done, total)
        call = next(calls, None) if workers.free else None
        if call is not None:
            workers.submit(call)
        elif workers.running:
            ready, made = workers.next()
            keep(ready.key, made)
            done += 1
        else:
            return


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
    workers = study.plan.workers
    return Timetable.make(study.budget.left, finalists, checks, references, reference_checks, earlier, workers)


def _open_end(study: "Study", timed: Sequence[tuple[Reference, float, float]]) -> Timetable:
    """Without a budget in time: references may take as much of what the study took as they would get of a budget."""
    seconds = tuple(epoch for _, epoch, _ in timed)
    kept = REFERENCE_SHARE * study.budget.elapsed
    return Timetable((), 0.0, seconds, (0.0,) * len(timed), kept, study.plan.workers)


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


def _seconds(study: "Study", table: Timetable | None) -> float | None:
    """After how long a training is cut short, if it takes much longer than measured; never where epochs are asked."""
    if table is None or study.spec.final.epochs is not None:
        return None
    return (study.budget.left or 0.0) - table.checks


def _keep(study: "Study", name: str, record: Mapping[str, Any]) -> None:
    study.store.put(_end(study, name), record)
    study.note_time()


def _end(study: "Study", name: str) -> str:
    """The name of what belongs to this end of the study: the same search with more time ends anew."""
    return f"end/{study.trainings}/{study.budget.seconds}/{name}"


def _name(entry: Entry) -> str:
    return f"final/{entry.trial.id}"


def _stock(reference: Reference) -> str:
    return f"reference/{reference.name}"


# Finalists ------------------------------------------------------------------------------------------------------------


def _training(study: "Study", table: Timetable | None, entry: Entry, epochs: float) -> Call:
    _, state = study.parent(entry.trial.id)
    further = replace(entry.trial, fidelity_from=entry.epochs, fidelity_to=entry.epochs + epochs)
    arguments = (further, state, study.spec.seed, _seconds(study, table))
    return Call(_end(study, _name(entry)), train_further, arguments, str, entry)


def train_further(executor: Executor, trial: Trial, state: State, seed: int, seconds: float | None) -> Outcome | str:
    """From the weights of the search through one more whole schedule, or why not: it cannot be, or it does harm.

    Harm is an error that rises by more than its standard error; less may be chance, and then more training is better.

    Args:
        executor: Trains.
        trial: What is trained; its fidelities are the epochs before and after.
        state: What the search has left.
        seed: Of order and augmentation.
        seconds: After so long it is cut short.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    arch = executor.space.decode(executor.space.from_json(trial.genotype))
    recipe = executor.final_recipe(trial.fidelity_to - trial.fidelity_from, seed)
    try:
        before = executor.judge(arch, state)  # again: the search may have judged in a lower precision
        outcome = executor.finish(trial, arch, state, recipe, deadline=deadline)
    except TrainingError as error:
        return str(error)
    after = 1 - outcome.result.values["error"]
    if after < before.value - before.stderr:
        return f"final training took its accuracy from {100 * before.value:.1f} to {100 * after:.1f} %"
    return outcome


def _trained_further(study: "Study", outcome: Outcome) -> dict[str, Any]:
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


def train_reference(
    executor: Executor, module: nn.Module, epochs: float, seed: int, seconds: float | None
) -> dict[str, Any] | str:
    """A stock network by the recipe of all, or why not.

    Args:
        executor: Says how.
        module: Untrained.
        epochs: Passes over the training data.
        seed: Of order and augmentation.
        seconds: After so long it is given up.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    module = module.to(executor.device)
    recipe = replace(executor.recipe, epochs=epochs, seed=seed)
    try:
        run = train(module, executor.data.train, recipe, deadline=deadline)
        if deadline is not None and time.monotonic() >= deadline:
            return "its training took too long"
        found = evaluate(module, executor.data.val, executor.metric, weights=run.ema)
    except TrainingError as error:
        return str(error)
    weights = {name: tensor.cpu() for name, tensor in {**module.state_dict(), **(run.ema or {})}.items()}
    return {"val": found.value, "stderr": found.stderr, "epochs": run.epochs, "weights": weights}


def _trained(study: "Study", reference: Reference, record: Mapping[str, Any]) -> Trained:
    module = reference.build(study.spec.seed)
    module.load_state_dict(study.store.load_weights(record["weights"]))
    return Trained(reference, module, record["val"], record["stderr"], record["epochs"])
