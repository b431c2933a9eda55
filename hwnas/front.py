"""The end of a study: final training, the front recomputed, the test split read once, files written and verified."""

import hashlib
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from hwnas import manifest as manifests
from hwnas import pareto, plan, report, verify
from hwnas.archive import Archive, Entry
from hwnas.plot import Point
from hwnas.references import Reference, references
from hwnas.trial import Result, Trial
from latency import measure_many
from objectives import cost
from objectives.accuracy import Accuracy, evaluate, predict_logits, score
from objectives.training import train
from spaces.arch import Arch
from spaces.errors import ExportError, LimitError, TrainingError
from spaces.network import Network
from spaces.onnx import to_onnx
from spaces.state import State

if TYPE_CHECKING:
    from hwnas.study import Study

#: Most epochs of final training that are planned; a user may ask for more.
MOST_EPOCHS = 60.0

#: Part of the time left that goes to the reference networks, and part kept for export, checks and timing.
REFERENCE_SHARE, CHECK_SHARE = 0.2, 0.1

#: Two measured latencies closer than this are the same.
LATENCY_NOISE = 0.03


@dataclass(frozen=True)
class Finalist:
    """A network that is trained to the end.

    Attributes:
        trial: Where it comes from; its id is that of the search.
        result: Of the final training.
        arch: The network.
        state: Its final tensors.
        model: The same as ONNX.
    """

    trial: Trial
    result: Result
    arch: Arch
    state: State
    model: onnx.ModelProto


def finish(study: "Study") -> manifests.Manifest:
    """Train, choose, test, export, verify, time and report; goes on where an interrupted run stopped.

    Raises:
        LimitError: No network was trained that keeps the limits.
    """
    chosen = _chosen(study)
    finalists, missing = _finalists(study, chosen)
    stock = _stock(study)
    study.update("measuring", 0, 1)
    models = [finalist.model for finalist in finalists] + [model for _, _, model in stock]
    predicted = study.table.predict_many(models)
    measured = measure_many(study.table.runtime, models, study.table.header.protocol)
    timings = list(zip(predicted, measured, strict=True))
    table = study.table.snapshot()
    records = [
        {"predicted_ms": p.ms, "low_ms": p.low_ms, "high_ms": p.high_ms, "p50_ms": m.p50_ms, "p95_ms": m.p95_ms}
        for p, m in timings
    ]
    latencies = [{study.deployment.key: manifests.Latency(**record, table=table)} for record in records]
    kept = _front(study, finalists, [timing.p50_ms for _, timing in timings])
    folder = study.store.path / manifests.FRONT
    folder.mkdir(exist_ok=True)
    entries = []
    ranked = sorted(kept, key=lambda i: finalists[i].result.values["error"])
    for rank, i in enumerate(ranked, start=1):
        study.update("testing", rank - 1, len(ranked))
        try:
            entries.append(_model(study, rank, finalists[i], latencies[i], folder))
        except ExportError as error:
            missing.append(manifests.NotTrained(id=finalists[i].trial.hash, reason=str(error)))
    rows = [
        _reference(study, reference, record, latencies[len(finalists) + i])
        for i, (reference, record, _) in enumerate(stock)
    ]
    manifest = manifests.Manifest(
        models=entries,
        references=rows,
        device=study.deployment.device,
        runtime=study.deployment.runtime,
        versions=versions(),
        seed=study.spec.seed,
        wall_seconds=study.budget.elapsed,
        classes=list(study.data.classes),
        not_trained=missing,
        data=study.data.name,
        metric=study.spec.data.metric,
        limits=dict(study.spec.limits),
        hypervolume=study.box.volume(_values(study, [finalists[i] for i in ranked])),
    )
    report.write(study.store.path, manifest, _seen(study))
    study.update("done", 1, 1)
    return manifest


def versions() -> dict[str, str]:
    """Versions of everything that decides a result."""
    from importlib.metadata import version

    names = ("hwnas", "torch", "torchvision", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _chosen(study: "Study") -> list[Entry]:
    """The finalists: the front within the limits, thinned out by hypervolume; the most valuable first."""
    limits = study.spec.limits
    archive = study.strategy.archive
    within = archive.within(limits)
    if not within.entries:
        raise LimitError(
            f"none of the {len(archive)} networks trained keeps the limits "
            f"({', '.join(f'{name} <= {limit:g}' for name, limit in limits.items())}); give the search a larger budget"
        )
    front = within.front().spread(study.spec.final.models)
    return sorted(front.entries, key=lambda entry: entry.values["error"])


def _finalists(study: "Study", chosen: Sequence[Entry]) -> tuple[list[Finalist], list[manifests.NotTrained]]:
    """Train each to the end; what an interrupted run has done already is read back."""
    epochs = _epochs(study, chosen)
    finalists, missing = [], []
    for place, entry in enumerate(chosen):
        study.update("final training", place, len(chosen))
        name = f"final/{entry.trial.hash}"
        if study.store.get(name) is None:
            try:
                record = _train_on(study, entry, epochs)
            except TrainingError as error:
                record = {"reason": str(error)}
            study.store.put(name, record)
        record = study.store.get(name)
        if "reason" in record:
            missing.append(manifests.NotTrained(id=entry.trial.hash, reason=record["reason"]))
        else:
            finalists.append(_finalist(study, entry.trial, record))
    return finalists, missing


def _epochs(study: "Study", chosen: Sequence[Entry]) -> float:
    """Epochs of final training, the same for all: what is asked for, or what the time left allows."""
    planned = study.store.get("final epochs")
    if planned is None:
        planned = study.spec.final.epochs
        left = study.budget.left
        if planned is None and left is None:
            planned = MOST_EPOCHS / 2
        elif planned is None:
            share = 1 - CHECK_SHARE - (REFERENCE_SHARE if study.spec.final.references else 0)
            seconds = sum(float(entry.result.info["seconds_per_epoch"]) for entry in chosen)
            planned = min(max(max(left or 0.0, 0.0) * share / seconds, 1.0), MOST_EPOCHS)
        study.store.put("final epochs", planned)
    return float(planned)


def _train_on(study: "Study", entry: Entry, epochs: float) -> dict[str, Any]:
    """From the weights of the search through one more whole schedule."""
    arch = study.space.decode(study.space.from_json(entry.trial.genotype))
    _, state = study.parent(entry.trial.id)
    recipe = replace(study.executor.recipe, epochs=epochs, seed=study.spec.seed)
    trial = replace(entry.trial, fidelity_from=entry.trial.fidelity_to, fidelity_to=entry.trial.fidelity_to + epochs)
    outcome = study.executor.finish(trial, arch, State(state.value, state.ema), recipe)
    assert outcome.state is not None
    final = State(outcome.state.best)
    return {"result": outcome.result.to_json(), "weights": study.store.save_weights(final.flat())}


def _finalist(study: "Study", trial: Trial, record: Mapping[str, Any]) -> Finalist:
    arch = study.space.decode(study.space.from_json(trial.genotype))
    state = State.from_flat(study.store.load_weights(record["weights"]))
    result = Result.from_json(record["result"])
    metadata = {
        "hwnas_version": versions()["hwnas"],
        "classes": json.dumps(list(study.data.classes)),
        "input_size": json.dumps(list(study.data.shape)),
        "objectives": json.dumps({**trial.cheap, **result.values}),
        "architecture": json.dumps(arch.to_json()),
    }
    model = to_onnx(arch, state.value, batch=study.deployment.batch, metadata=metadata)
    return Finalist(trial, result, arch, state, model)


def _values(study: "Study", finalists: Sequence[Finalist]) -> pareto.Points:
    rows = [{**finalist.trial.cheap, **finalist.result.values} for finalist in finalists]
    return np.array([[row[name] for name in study.objectives] for row in rows])


def _front(study: "Study", finalists: Sequence[Finalist], milliseconds: Sequence[float]) -> list[int]:
    """The finalists that no other beats, by validation error and *measured* latency; noise beats nobody."""
    values = _values(study, finalists)
    noise = np.zeros_like(values)
    for column, name in enumerate(study.objectives):
        if name == "error":
            noise[:, column] = [float(finalist.result.info["stderr"]) for finalist in finalists]
        elif name == "latency":
            values[:, column] = milliseconds[: len(finalists)]
            noise[:, column] = LATENCY_NOISE * values[:, column]
    kept = []
    for i, own in enumerate(values):
        no_worse = (values <= own).all(axis=1)
        better = (values < own - noise[i]).any(axis=1)
        if not (no_worse & better).any():
            kept.append(i)
    return kept


def _model(
    study: "Study", rank: int, finalist: Finalist, latency: dict[str, manifests.Latency], folder: Path
) -> manifests.Model:
    """Write one file, run it over the test split, and compare it with its network.

    Raises:
        ExportError: The file does not do what the network does.
    """
    file = folder / f"{rank:02d}-{finalist.trial.hash[:8]}.onnx"
    onnx.checker.check_model(finalist.model, full_check=True)
    content = finalist.model.SerializeToString()
    file.write_bytes(content)
    test = study.data.test
    expected = predict_logits(Network(finalist.arch, finalist.state.value), test.images)
    found = verify.run_file(file, test.images, study.deployment.batch)
    parity = verify.compare(expected.numpy(), found)
    try:
        verify.check(parity, file)
    except ExportError:
        file.unlink()
        raise
    metric = study.spec.data.metric
    logits = {"test": expected, "onnx_test": torch.from_numpy(found)}
    result = finalist.result
    median = latency[study.deployment.key].p50_ms
    actual = {**finalist.trial.cheap, **result.values, "latency": median}
    return manifests.Model(
        id=finalist.trial.hash,
        file=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        params=cost.params(finalist.arch),
        macs=cost.macs(finalist.arch),
        peak_memory=cost.peak_memory(finalist.arch),
        latency=latency,
        accuracy=manifests.Accuracy(
            val=1 - result.values["error"],
            val_stderr=result.info["stderr"],
            **{name: score(own, test.labels, metric).value for name, own in logits.items()},
        ),
        parity_max_abs_err=parity.max_abs_error,
        input=manifests.Input(shape=(study.deployment.batch, *study.data.shape)),
        epochs=result.info["epochs"],
        lineage=study.lineage(finalist.trial),
        over_limits=[name for name, limit in study.spec.limits.items() if (actual.get(name) or 0) > limit],
    )


# References -----------------------------------------------------------------------------------------------------------


def _stock(study: "Study") -> list[tuple[Reference, dict[str, Any], onnx.ModelProto]]:
    """The references that there is time for, trained."""
    if not study.spec.final.references:
        return []
    found = []
    stock = references(study.space, study.data)
    for place, reference in enumerate(stock):
        study.update("references", place, len(stock))
        name = f"reference/{reference.name}"
        if study.store.get(name) is None:
            study.store.put(name, _train_reference(study, reference, len(stock) - place))
        record = study.store.get(name)
        if "reason" in record:
            study.progress.note(f"reference {reference.name} left out: {record['reason']}")
            continue
        module = reference.build(study.spec.seed)
        module.load_state_dict(study.store.load_weights(record["weights"]))
        found.append((reference, record, reference.export(module, study.deployment.batch)))
    return found


def _train_reference(study: "Study", reference: Reference, to_come: int) -> dict[str, Any]:
    """As many epochs as the finalists saw through their lineage, or as the reference's share of the time allows."""
    recipe = study.executor.recipe
    module = reference.build(study.spec.seed).to(study.executor.device)
    finals = [study.store.get(f"final/{entry.trial.hash}") for entry in _chosen(study)]
    seen = [record["result"]["info"]["epochs"] for record in finals if record and "result" in record]
    epochs = statistics.median(seen) if seen else MOST_EPOCHS / 2
    left = study.budget.left
    if left is not None:
        seconds = plan.seconds_per_epoch(module, study.data, recipe)
        allowed = max(0.0, left) * (1 - CHECK_SHARE) / to_come / seconds
        if allowed < 1:
            return {"reason": f"an epoch takes {seconds:.0f} s, and the time left allows {allowed:.2f} of one"}
        epochs = min(epochs, allowed)
    try:
        run = train(module, study.data.train, replace(recipe, epochs=epochs, seed=study.spec.seed))
        found = evaluate(module, study.data.val, study.spec.data.metric)
    except TrainingError as error:
        return {"reason": str(error)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return {
        "val": found.value,
        "stderr": found.stderr,
        "epochs": run.epochs,
        "weights": study.store.save_weights(tensors),
    }


def _reference(
    study: "Study", reference: Reference, record: Mapping[str, Any], latency: dict[str, manifests.Latency]
) -> manifests.Network:
    module = reference.build(study.spec.seed)
    module.load_state_dict(study.store.load_weights(record["weights"]))
    test: Accuracy = evaluate(module, study.data.test, study.spec.data.metric)
    return manifests.Network(
        id=reference.name,
        params=reference.params,
        macs=reference.macs,
        peak_memory=reference.peak_memory,
        latency=latency,
        accuracy=manifests.Accuracy(val=record["val"], val_stderr=record["stderr"], test=test.value),
        epochs=record["epochs"],
    )


def _seen(study: "Study") -> list[Point]:
    """Everything the search trained, for the picture."""
    entries = Archive(study.store.trials(), study.objectives).entries
    return [
        Point(
            kind="archive",
            accuracy=1 - entry.values["error"],
            latency_ms=entry.values.get("latency"),
            params=entry.values["params"],
            macs=entry.values["macs"],
        )
        for entry in entries
    ]
