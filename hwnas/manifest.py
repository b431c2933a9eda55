"""The manifest: what a run produced, as one JSON file that people and programs can rely on.

``front/manifest.json`` is the contract between a search and everything after it: ``hwnas select``, ``hwnas front``,
``hwnas export`` and the user's own scripts read nothing else. Accuracies are fractions, times milliseconds, sizes
bytes, and a number that is not known is null.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spaces.errors import StoreError
from spaces.wholefile import write_whole

FRONT = "front"
"""The folder inside a run folder that holds the ONNX files and the manifest."""

FILE_NAME = "manifest.json"


class _Record(BaseModel):
    """Immutable, without NaN or infinity; keys added by a later version are no reason to refuse a file."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="ignore")


class Latency(_Record):
    """Milliseconds for one batch on one device; null where the number can only be had on that device and was not.

    Attributes:
        predicted_ms: what the latency table says.
        low_ms: lower end of the prediction's interval.
        high_ms: upper end of it.
        estimated_kernels: how many kernels the table lacked, and were estimated.
        p50_ms: median measured from the exported file.
        p95_ms: 95th percentile of the same measurement.
        table: snapshot (hash) of the table that predicted.
    """

    predicted_ms: float | None = Field(default=None, gt=0)
    low_ms: float | None = Field(default=None, ge=0)
    high_ms: float | None = Field(default=None, gt=0)
    estimated_kernels: int = Field(default=0, ge=0)
    p50_ms: float | None = Field(default=None, gt=0)
    p95_ms: float | None = Field(default=None, gt=0)
    table: str | None = None


class Accuracy(_Record):
    """Fractions of images classified rightly (or the balanced accuracy, see `Manifest.metric`).

    Attributes:
        val: on the validation split, which ranks.
        val_stderr: standard error of `val`.
        test: on the test split, read once, by PyTorch.
        onnx_test: on the test split, by the exported file.
    """

    val: float = Field(ge=0, le=1)
    val_stderr: float = Field(ge=0, le=1)
    test: float | None = Field(default=None, ge=0, le=1)
    onnx_test: float | None = Field(default=None, ge=0, le=1)


class Input(_Record):
    """What an exported file takes: raw pixels, the normalisation is inside the file."""

    shape: tuple[int, int, int, int]
    layout: str = "NCHW"
    range: tuple[float, float] = (0.0, 1.0)


class Network(_Record):
    """What is known of every trained network, the search's or a reference.

    Attributes:
        id: the canonical hash of the architecture, or the name of a reference.
        params: number of parameters.
        macs: multiply-accumulate operations for one image.
        peak_memory: bytes of activations alive at once, for one image; null where the graph is not ours.
        latency: by device.
        accuracy: see `Accuracy`.
        epochs: passes over the training data through the whole lineage.
    """

    id: str
    params: int = Field(ge=0)
    macs: int = Field(ge=0)
    peak_memory: int | None = Field(default=None, ge=0)
    latency: dict[str, Latency]
    accuracy: Accuracy
    epochs: float = Field(ge=0)


class Model(Network):
    """One network of the front, trained to the end, exported and verified.

    Attributes:
        file: name of the ONNX file, beside the manifest.
        sha256: of that file.
        parity_max_abs_err: largest difference of a softmax between PyTorch and the file on test images.
        input: what the file takes.
        lineage: how it came to be, as replayable JSON.
        over_limits: the search's own limits that the finished network exceeds; such a network is shown, but selected
            only where these very limits are given anew.
    """

    file: str
    sha256: str
    parity_max_abs_err: float | None = Field(default=None, ge=0)
    input: Input
    lineage: list[dict[str, Any]] = []
    over_limits: list[str] = []


class NotTrained(_Record):
    """A network of the final front that was not trained to the end, or whose file failed its checks, and why."""

    id: str
    reason: str


class Manifest(_Record):
    """Everything a finished run says about itself; `models` are ordered by validation accuracy, best first.

    Attributes:
        models: the front.
        device: the machine that searched and measured.
        runtime: what ran the files, e.g. ``ort-cpu``.
        versions: of hwnas and of the libraries that matter.
        seed: of the study.
        wall_seconds: of the whole run, resumed parts included; those of a killed process up to its last report.
        classes: names in the order of the logits.
        not_trained: networks of the front that stayed as the search left them, or that have no file.
        data: name of the data set, for titles.
        metric: ``accuracy`` or ``balanced-accuracy``.
        limits: the search's own, in base units (milliseconds, counts, bytes), by objective.
        hypervolume: of `models`, as the study normalises it.
        references: stock networks trained by the same recipe on the same data.
    """

    models: list[Model]
    device: str
    runtime: str
    versions: dict[str, str]
    seed: int
    wall_seconds: float = Field(ge=0)
    classes: list[str]
    not_trained: list[NotTrained] = []
    data: str = ""
    metric: str = "accuracy"
    limits: dict[str, float] = {}
    hypervolume: float | None = None
    references: list[Network] = []

    def devices(self) -> list[str]:
        """Names of the devices that some model has a latency for, in order of appearance."""
        return list(dict.fromkeys(name for model in self.models for name in model.latency))


def write(manifest: Manifest, folder: Path) -> Path:
    """Write ``manifest.json`` into `folder` so that a reader sees the old file or the new one, never half of one.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / FILE_NAME
    write_whole(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def read(folder: Path) -> Manifest:
    """The manifest of a run folder, of its ``front`` folder, or of an exported one.

    Raises:
        StoreError: there is none, or it is not what `write` wrote.
    """
    path = path_in(folder)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StoreError(
            f"{path} is damaged: {where}: {first['msg']}. Restore the file from a copy, "
            f"or delete it and write it anew with 'hwnas resume {folder}'."
        ) from error


def problem(models: Iterable[Model], folder: Path) -> str | None:
    """Which of the models' files in `folder` is missing, or is not the one that was verified; None if all are."""
    for model in models:
        file = folder / model.file
        if not file.is_file():
            return f"{file} is missing"
        if hashlib.sha256(file.read_bytes()).hexdigest() != model.sha256:
            return f"{file} is not the file that was verified (its SHA-256 differs)"
    return None


def path_in(folder: Path) -> Path:
    """Where `folder` keeps its manifest.

    Raises:
        StoreError: nowhere; the message says what to do.
    """
    if not folder.is_dir():
        raise StoreError(
            f"{folder} is not a run folder: there is no such folder. 'hwnas search --out {folder}' makes one."
        )
    for path in (folder / FRONT / FILE_NAME, folder / FILE_NAME):
        if path.is_file():
            return path
    if (folder / "study.db").exists():
        raise StoreError(
            f"{folder} has no front: its search has not finished, or its manifest is gone. Where it is not "
            f"running any more, 'hwnas resume {folder}' goes on with it."
        )
    raise StoreError(
        f"{folder} is not a run folder: it holds neither {FRONT}/{FILE_NAME} nor study.db. "
        "Name a folder that 'hwnas search' made."
    )
