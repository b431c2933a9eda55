"""`Trained`: a stock network, trained by the recipe of all; and how that is done."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from hwnas import end
from hwnas.call import Call
from hwnas.executor import Executor
from hwnas.references import Reference
from hwnas.timetable import Timetable
from objectives.accuracy import evaluate
from objectives.training import train
from spaces.errors import TrainingError

if TYPE_CHECKING:
    from hwnas.study import Study


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


def train_references(
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
            if study.store.get(end.name_of(study, _stock(reference))) is not None:
                owed += table.reference_checks[place]
            elif place not in table.affordable:
                study.progress.note(f"reference {reference.name} left out: there is no time for an epoch of it")
            else:
                most = table.reference_epochs(place, ends - study.budget.elapsed - owed)
                if most < 1:
                    keep(reference, "there is no time left for an epoch of it")
                    continue
                owed += table.reference_checks[place]
                epochs, seconds = min(seen, most), end.seconds(study, table if bounded else None)
                arguments = (reference.build(study.spec.seed), epochs, study.spec.seed, seconds)
                yield Call(end.name_of(study, _stock(reference)), train_reference, arguments, str, reference)

    def keep(reference: Reference, made: dict[str, Any] | str) -> None:
        record: dict[str, Any] = {"reason": made} if isinstance(made, str) else made
        if "reason" not in record:
            record = {**record, "weights": study.store.save_weights(record["weights"])}
        end.keep(study, _stock(reference), record)

    end.run(study, calls(), keep, "references", len(timed))
    found = []
    for reference, *_ in timed:
        record = study.store.get(end.name_of(study, _stock(reference)))
        if record is not None and "reason" in record:
            study.progress.note(f"reference {reference.name} left out: {record['reason']}")
        elif record is not None:
            found.append(_trained(study, reference, record))
    return found


def _stock(reference: Reference) -> str:
    return f"reference/{reference.name}"


def train_reference(
    executor: Executor, module: nn.Module, epochs: float, seed: int, seconds: float | None
) -> dict[str, Any] | str:
    """A stock network by the recipe of all, or why not.

    Args:
        executor: Says how.
        module: Untrained.
        epochs: Passes over the training data.
        seed: Of order and augmentation.
        seconds: After so long it is cut short, or given up where it has not seen all images once.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    module = module.to(executor.device)
    recipe = replace(executor.recipe, epochs=epochs, seed=seed)
    try:
        run = train(module, executor.data.train, recipe, deadline=deadline)
        if deadline is not None and time.monotonic() >= deadline and run.epochs < 1:
            return f"the time was over after {run.epochs:.2f} epochs"
        found = evaluate(module, executor.data.val, executor.metric, weights=run.ema)
    except TrainingError as error:
        return str(error)
    weights = {name: tensor.cpu() for name, tensor in {**module.state_dict(), **(run.ema or {})}.items()}
    return {"val": found.value, "stderr": found.stderr, "epochs": run.epochs, "weights": weights}


def _trained(study: "Study", reference: Reference, record: Mapping[str, Any]) -> Trained:
    module = reference.build(study.spec.seed)
    module.load_state_dict(study.store.load_weights(record["weights"]))
    return Trained(reference, module, record["val"], record["stderr"], record["epochs"])
