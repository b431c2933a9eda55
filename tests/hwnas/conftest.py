"""Two small finished runs: one made up, for manifest, report, selection and command line; one of a real search."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas import manifest as manifests
from hwnas.manifest import Accuracy, Input, Latency, Manifest, Model, Network, NotTrained

DEVICE = "ort-cpu_test_t1_b1_fp32"


def model(name: str, val: float, p50: float | None, params: int, **changes: object) -> Model:
    """A model of the front whose predicted latency is 10 % off the measured one."""
    around = p50 or 1.0
    timed = {"p50_ms": p50, "p95_ms": None if p50 is None else 1.5 * p50}
    latency = Latency(predicted_ms=1.1 * around, low_ms=around, high_ms=1.2 * around, table="c0ffee", **timed)
    record = {
        "id": hashlib.sha256(name.encode()).hexdigest(),
        "file": f"{name}.onnx",
        "sha256": "0" * 64,
        "params": params,
        "macs": 100 * params,
        "peak_memory": 4096,
        "latency": {DEVICE: latency},
        "accuracy": Accuracy(val=val, val_stderr=0.004, test=val - 0.01, onnx_test=val - 0.01),
        "parity_max_abs_err": 2e-7,
        "input": Input(shape=(1, 1, 8, 8)),
        "epochs": 12.5,
        "lineage": [{"move": "Widen"}],
    }
    return Model.model_validate(record | changes)


@pytest.fixture
def manifest() -> Manifest:
    """Four models; `fat` is beaten by `large` in everything, and the reference by `small`."""
    return Manifest(
        models=[
            model("large", 0.98, 2.0, 100_000),
            model("fat", 0.97, 3.0, 150_000),
            model("medium", 0.95, 0.5, 20_000),
            model("small", 0.90, 0.1, 4_000),
        ],
        device="Test 1 avx2",
        runtime="ort-cpu",
        versions={"hwnas": "0.1.0"},
        seed=0,
        wall_seconds=83.0,
        classes=["even", "odd"],
        not_trained=[NotTrained(id="abc", reason="the budget ended")],
        data="digits",
        hypervolume=0.75,
        references=[
            Network(
                id="plain-s",
                params=6_000,
                macs=700_000,
                latency={DEVICE: Latency(p50_ms=0.12, p95_ms=0.2)},
                accuracy=Accuracy(val=0.89, val_stderr=0.004, test=0.88),
                epochs=30,
            )
        ],
    )


@pytest.fixture(params=[(1, 1), (3, 1), (3, 4)], ids=["grey", "colour", "batch of 4"])
def pixel_model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    """An exported network for 8 x 8 images, and its number of channels."""
    path = tmp_path / "model.onnx"
    channels, batch = request.param
    onnx.save(pixel_network(channels, 8, batch), path)
    return path, channels


@pytest.fixture
def run(tmp_path: Path, manifest: Manifest) -> Path:
    """A run folder with `manifest` and a file for each model."""
    content = pixel_network(1, 8).SerializeToString()
    sha256 = hashlib.sha256(content).hexdigest()
    models = [entry.model_copy(update={"sha256": sha256}) for entry in manifest.models]
    folder = tmp_path / "run"
    manifests.write(manifest.model_copy(update={"models": models}), folder / manifests.FRONT)
    for entry in models:
        (folder / manifests.FRONT / entry.file).write_bytes(content)
    return folder


def pixel_network(channels: int, size: int, batch: int = 1) -> onnx.ModelProto:
    """A network in the form that hwnas exports, with a logit for each pixel: what it says shows how it was fed."""
    pixels = channels * size * size
    weight = numpy_helper.from_array(20 * np.eye(pixels, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])],
        "pixels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, channels, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, pixels])],
        [weight],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(built, {"classes": json.dumps([f"pixel {i}" for i in range(pixels)])})
    return built


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, table_cache: Path) -> Path:
    """The run folder of a short search on digits."""
    # Imported here: most tests of this folder do without torch.
    from hwnas import runfolder
    from tests.hwnas.toys import short

    return runfolder.search(short(), tmp_path_factory.mktemp("runs") / "short")
