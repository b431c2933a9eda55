"""The end of a study: the front recomputed, the test split read once, files written and verified."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from hwnas import manifest as manifests
from hwnas import pareto, report, verify
from hwnas.archive import Entry, scale
from hwnas.final import train_all
from hwnas.finalists import Finalist
from hwnas.lineage import lineage
from hwnas.plot import Point
from hwnas.quantities import LATENCY, format_limits
from hwnas.references import references
from hwnas.trained import Trained
from latency.bundle import pack
from objectives import cost
from objectives.accuracy import evaluate, predict_logits, score
from spaces.errors import ExportError, LatencyError, LimitError, TrainingError
from spaces.network import Network
from spaces.onnx import to_onnx
from spaces.wholefile import write_whole

if TYPE_CHECKING:
    from hwnas.study import Study

#: Two measured latencies closer than this are the same.
LATENCY_NOISE = 0.03


def finish(study: "Study") -> manifests.Manifest:
    """Train, choose, test, export, verify, time and report; goes on where an interrupted run stopped.

    Raises:
        LimitError: No network that was trained keeps the limits.
        TrainingError: No network could be trained.
    """
    chosen = _chosen(study)
    macs = [entry.values["macs"] for entry in chosen]
    stock = references(study.space, study.data, macs) if study.spec.final.references else []
    finalists, trained = train_all(study, chosen, stock)
    study.update("measuring", 0, 1)
    files = [to_onnx(one.arch, one.state.value, batch=study.deployment.batch) for one in finalists]
    trained, stock_files = _exported(study, trained)
    try:
        latencies = _latencies(study, [*files, *stock_files])  # all in one go, so that a noisy spell hits all alike
    except LatencyError as error:
        if not trained:
            raise
        study.progress.note(f"references left out: {error}")
        trained = []
        latencies = _latencies(study, files)
    values = _values(study, finalists, latencies)
    kept = _front(study, finalists, values)
    if len(kept) < len(finalists):
        study.progress.note(
            f"left out at the end, {len(finalists) - len(kept)} of {len(finalists)} networks: "
            "another is more accurate or cheaper, and in nothing worse"
        )
    if len(kept) > study.spec.final.models:
        study.progress.note(f"of the other {len(kept)} the front has the {study.spec.final.models} that dominate most")
        kept = _thinned(study, kept, values)
    elif len(kept) == 1:
        study.progress.note("the front is a single network: it is the most accurate, and none of the others is cheaper")
    folder = study.store.path / manifests.FRONT
    folder.mkdir(exist_ok=True)
    models: dict[int, manifests.Model] = {}
    unfinished = [
        manifests.NotTrained(id=finalists[i].trial.hash, reason=reason)
        for i in kept
        if (reason := finalists[i].unfinished) is not None
    ]
    for rank, i in enumerate(kept, start=1):
        study.update("testing", rank - 1, len(kept))
        measured = dict(zip(study.objectives, values[i].tolist(), strict=True))
        _describe(study, files[i], finalists[i], measured)
        try:
            models[i] = _model(study, rank, finalists[i], files[i], latencies[i], folder)
        except ExportError as error:
            unfinished.append(manifests.NotTrained(id=finalists[i].trial.hash, reason=str(error)))
    manifest = manifests.Manifest(
        models=list(models.values()),
        references=_references(study, trained, latencies[len(files) :]),
        device=study.targets[0].table.header.deployment.device,
        runtime=study.targets[0].table.header.deployment.runtime,
        versions=versions(),
        seed=study.spec.seed,
        wall_seconds=study.budget.elapsed,
        classes=list(study.data.classes),
        not_trained=unfinished,
        data=study.data.name,
        metric=study.spec.data.metric,
        limits=dict(study.spec.limits),
        hypervolume=study.box.volume(values[list(models)]),
    )
    report.write(study.store.path, manifest, _seen(study))
    _pack(study, manifest, [files[i] for i in models])
    for file in folder.glob("*.onnx"):  # those of an earlier end, which the manifest no longer names
        if file.name not in {model.file for model in models.values()}:
            file.unlink()
    study.update("done", 1, 1)
    return manifest


def _pack(study: "Study", manifest: manifests.Manifest, files: Sequence[onnx.ModelProto]) -> None:
    """For devices elsewhere: the front as a bundle to measure there."""
    for target in study.targets:
        if target.here:
            continue
        for model, file in zip(manifest.models, files, strict=True):
            file.graph.name = Path(model.file).stem
        deployment = target.table.header.deployment
        bundle = study.store.path / manifests.FRONT / f"{target.device}.zip"
        pack(bundle, [], files, threads=deployment.threads, batch=deployment.batch)
        estimated = sum(model.latency[target.device].estimated_kernels for model in manifest.models)
        study.progress.note(
            f"latency on {target.device} is predicted, {estimated} kernels of the front by estimate; to measure, take "
            f"{bundle} there: unzip it, python run_bundle.py, and back here: hwnas unbundle result.zip -o TABLE"
        )


def versions() -> dict[str, str]:
    """Versions of everything that decides a result."""
    from importlib.metadata import version

    names = ("hwnas", "torch", "torchvision", "onnx", "onnxruntime", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _chosen(study: "Study") -> list[Entry]:
    """The finalists: what is useful of the front within the limits, thinned out by hypervolume; most accurate first."""
    archive = study.strategy.archive
    if not archive.entries:
        reasons = [result.reason for _, result in study.strategy.records if result is not None]
        first = f"; the first {reasons[0]}" if reasons else ""
        raise TrainingError(f"none of {len(reasons)} trainings succeeded{first}")
    within = archive.within(study.spec.limits)
    if not within.entries:
        limits = format_limits(study.spec.limits)
        raise LimitError(
            f"none of the {len(archive)} networks trained keeps the limits ({limits}); give the search a larger budget"
        )
    guessing = study.box.reference[study.objectives.index("error")]
    front = within.front().useful(guessing).spread(study.spec.final.models)
    return sorted(front.entries, key=lambda entry: entry.values["error"])


def _latencies(study: "Study", files: Sequence[onnx.ModelProto]) -> list[dict[str, manifests.Latency]]:
    """Of each file on each device: predicted, and measured where the device is here."""
    found = {target.device: target.latencies(files) for target in study.targets}
    return [{device: latencies[i] for device, latencies in found.items()} for i in range(len(files))]


def _actual(study: "Study", finalist: Finalist, latencies: Mapping[str, manifests.Latency]) -> dict[str, float]:
    """All that is known of a finalist by objective: latency as measured, else as predicted."""
    known = {target.objective: latencies[target.device] for target in study.targets}
    measured = {name: latency.p50_ms or latency.predicted_ms or 0.0 for name, latency in known.items()}
    return {**finalist.trial.cheap, **finalist.result.values, **measured}


def _values(
    study: "Study", finalists: Sequence[Finalist], latencies: Sequence[Mapping[str, manifests.Latency]]
) -> pareto.Points:
    """Objectives of each finalist."""
    rows = [_actual(study, *pair) for pair in zip(finalists, latencies, strict=False)]
    return np.array([[row[name] for name in study.objectives] for row in rows], dtype=np.float64)


def _front(study: "Study", finalists: Sequence[Finalist], values: pareto.Points) -> list[int]:
    """The finalists that no other beats, the most accurate first; a difference within noise beats nobody."""
    noise = np.zeros_like(values)
    for column, name in enumerate(study.objectives):
        if name == "error":
            noise[:, column] = [finalist.result.info["stderr"] for finalist in finalists]
        elif name.partition(".")[0] == LATENCY:
            noise[:, column] = LATENCY_NOISE * values[:, column]
    kept = []
    for i, own in enumerate(values):
        no_worse = (values <= own).all(axis=1)
        better = (values < own - noise[i]).any(axis=1)
        if not (no_worse & better).any():
            kept.append(i)
    return sorted(kept, key=lambda i: finalists[i].result.values["error"])


def _thinned(study: "Study", kept: Sequence[int], values: pareto.Points) -> list[int]:
    """As many as are asked for, in the same order."""
    scaled = scale(values[kept], study.objectives)
    chosen = pareto.subset(scaled, study.spec.final.models, pareto.reference_point(scaled))
    return [kept[i] for i in chosen]


def _describe(study: "Study", model: onnx.ModelProto, finalist: Finalist, measured: Mapping[str, float]) -> None:
    """Let a file say what it is."""
    metadata = {
        "hwnas_version": versions()["hwnas"],
        "classes": json.dumps(list(study.data.classes)),
        "input_size": json.dumps(list(study.data.shape)),
        "objectives": json.dumps(measured),
        "architecture": json.dumps(finalist.arch.to_json()),
    }
    onnx.helper.set_model_props(model, metadata)


def _model(
    study: "Study",
    rank: int,
    finalist: Finalist,
    model: onnx.ModelProto,
    latency: dict[str, manifests.Latency],
    folder: Path,
) -> manifests.Model:
    """Write one file, run it over the test split, and compare it with its network.

    Raises:
        ExportError: The file does not do what the network does.
    """
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    sha256 = hashlib.sha256(content).hexdigest()
    # Named by its content: the files of an earlier end stay what their manifest says until there is a new one.
    file = folder / f"{rank:02d}-{sha256[:8]}.onnx"
    write_whole(file, content)
    test = study.data.test
    expected = predict_logits(Network(finalist.arch, finalist.state.value), test.images)
    found = verify.run(file.read_bytes(), test.images, study.deployment.batch, study.deployment.threads)
    parity = verify.compare(expected.numpy(), found)
    try:
        verify.check(parity, file)
    except ExportError:
        file.unlink()
        raise
    metric = study.spec.data.metric
    logits = {"test": expected, "onnx_test": torch.from_numpy(found)}
    result = finalist.result
    actual = _actual(study, finalist, latency)
    for target in study.targets:
        if not target.here:  # what was never measured may be as slow as its interval says
            actual[target.objective] = latency[target.device].high_ms or math.inf
    return manifests.Model(
        id=finalist.trial.hash,
        file=file.name,
        sha256=sha256,
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
        lineage=_lineage(study, finalist),
        over_limits=[name for name, limit in study.spec.limits.items() if actual[name] > limit],
    )


def _lineage(study: "Study", finalist: Finalist) -> list[dict[str, Any]]:
    """How a finalist came to be; its last step is the final training."""
    steps = lineage(finalist.trial.id, study.strategy.record, study.space)
    if finalist.unfinished is None:
        seed, epochs = study.spec.seed, finalist.result.info["epochs"]
        steps.append({"trial": finalist.trial.id, "init": "checkpoint", "seed": seed, "moves": [], "epochs": epochs})
    return steps


def _exported(study: "Study", trained: Sequence[Trained]) -> tuple[list[Trained], list[onnx.ModelProto]]:
    """References that can be written, and their files: one that cannot must not cost the front."""
    written, files = [], []
    for one in trained:
        try:
            files.append(one.reference.export(one.module, study.deployment.batch))
            written.append(one)
        except ExportError as error:
            study.progress.note(f"reference {one.reference.name} left out: {error}")
    return written, files


def _references(
    study: "Study", trained: Sequence[Trained], latencies: Sequence[dict[str, manifests.Latency]]
) -> list[manifests.Network]:
    """The references, tested; without those that cannot be."""
    found = []
    for one, latency in zip(trained, latencies, strict=True):
        try:
            test = evaluate(one.module.to(study.executor.device), study.data.test, study.spec.data.metric)
        except TrainingError as error:
            study.progress.note(f"reference {one.reference.name} left out: {error}")
            continue
        found.append(
            manifests.Network(
                id=one.reference.name,
                params=one.reference.params,
                macs=one.reference.macs,
                peak_memory=one.reference.peak_memory,
                latency=latency,
                accuracy=manifests.Accuracy(val=one.val, val_stderr=one.stderr, test=test.value),
                epochs=one.epochs,
            )
        )
    return found


def _seen(study: "Study") -> list[Point]:
    """Everything the search trained, for the picture."""
    return [
        Point(
            kind="archive",
            accuracy=1 - entry.values["error"],
            latency_ms=entry.values.get(study.targets[0].objective),
            params=entry.values["params"],
            macs=entry.values["macs"],
        )
        for entry in study.strategy.archive.entries
    ]
