"""`Finalist`: a network of the front, trained to the end; and how that is done."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hwnas import end
from hwnas.archive import Entry
from hwnas.call import Call
from hwnas.executor import Executor, Outcome
from hwnas.timetable import Timetable
from hwnas.trial import Result, Trial
from spaces.arch import Arch
from spaces.errors import TrainingError
from spaces.state import State

if TYPE_CHECKING:
    from hwnas.study import Study

#: Epochs of final training without a budget in time.
DEFAULT_EPOCHS = 30.0


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


def train_finalists(study: "Study", table: Timetable | None, chosen: Sequence[Entry]) -> list[Finalist]:
    """All trained, side by side where there are several workers."""

    def calls() -> Iterator[Call]:
        for place, entry in enumerate(chosen):
            if study.store.get(end.name_of(study, _name(entry))) is None:
                epochs = _epochs(study, table, place, entry)
                if epochs:
                    yield _training(study, table, entry, epochs)
                else:
                    end.keep(
                        study,
                        _name(entry),
                        _untrained(study, entry, "its share of the time is too short for more"),
                    )

    def keep(entry: Entry, made: Outcome | str) -> None:
        record = _untrained(study, entry, made) if isinstance(made, str) else _trained_further(study, made)
        end.keep(study, _name(entry), record)

    end.run(study, calls(), keep, "final training", len(chosen))
    return [_finalist(study, entry.trial, study.store.get(end.name_of(study, _name(entry)))) for entry in chosen]


def with_earlier(study: "Study", finalists: Sequence[Finalist]) -> list[Finalist]:
    """Finalists, and those of earlier ends; of two trainings of one network the better one."""
    best = {finalist.trial.hash: finalist for finalist in finalists}
    for name, record in study.store.named("end/*/final/*").items():
        if "unfinished" in record or name.startswith(end.name_of(study, "")):
            continue
        trial, _ = study.strategy.record(int(name.rpartition("/")[2]))
        rival = best.get(trial.hash)
        if rival is None or record["result"]["values"]["error"] < rival.result.values["error"]:
            best[trial.hash] = _finalist(study, trial, record)
    return list(best.values())


def _epochs(study: "Study", table: Timetable | None, place: int, entry: Entry) -> float:
    """What is asked for, or what there is time for; no less than the last training in the search, or nothing."""
    asked = study.spec.final.epochs
    if asked is not None or table is None:
        return asked or DEFAULT_EPOCHS
    least = entry.trial.fidelity_to - entry.trial.fidelity_from
    return table.epochs(place, study.budget.left or 0.0, least)


def _name(entry: Entry) -> str:
    return f"final/{entry.trial.id}"


def _training(study: "Study", table: Timetable | None, entry: Entry, epochs: float) -> Call:
    _, state = study.parent(entry.trial.id)
    further = replace(entry.trial, fidelity_from=entry.epochs, fidelity_to=entry.epochs + epochs)
    arguments = (further, state, study.spec.seed, end.seconds(study, table))
    return Call(end.name_of(study, _name(entry)), train_further, arguments, str, entry)


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
    study.progress.note(f"{entry.trial.hash[:8]} is not trained any further: {reason}")
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
