"""The manifest: the issue's keys, round trips, atomic writes, and what is said of damage."""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from hwnas import manifest as manifests
from hwnas.manifest import Accuracy, Latency, Manifest
from spaces.errors import StoreError
from spaces.wholefile import write_whole


def test_has_the_documented_keys(manifest: Manifest, tmp_path: Path) -> None:
    record = json.loads(manifests.write(manifest, tmp_path).read_text())
    top = {"models", "device", "runtime", "versions", "seed", "wall_seconds", "classes", "not_trained"}
    assert top <= record.keys()
    model = record["models"][0]
    assert model.keys() >= {
        *("id", "file", "sha256", "params", "macs", "peak_memory", "latency", "accuracy"),
        *("parity_max_abs_err", "input", "epochs", "lineage"),
    }
    (latency,) = model["latency"].values()
    assert latency.keys() == {"predicted_ms", "low_ms", "high_ms", "estimated_kernels", "p50_ms", "p95_ms", "table"}
    assert model["accuracy"].keys() == {"val", "val_stderr", "test", "onnx_test"}
    assert model["input"] == {"shape": [1, 1, 8, 8], "layout": "NCHW", "range": [0.0, 1.0]}


def test_round_trip_from_run_front_and_exported_folder(manifest: Manifest, tmp_path: Path) -> None:
    manifests.write(manifest, tmp_path / "front")
    assert manifests.read(tmp_path) == manifests.read(tmp_path / "front") == manifest


def test_unmeasured_latency_is_null(tmp_path: Path) -> None:
    assert json.loads(Latency(predicted_ms=1.5).model_dump_json())["p50_ms"] is None


@pytest.mark.parametrize("val", [-0.1, 1.01, 97.0, float("nan"), float("inf")])
def test_accuracies_are_fractions(val: float) -> None:
    with pytest.raises(ValidationError):
        Accuracy(val=val, val_stderr=0.01)


def test_keys_of_a_later_version_are_no_damage(run: Path) -> None:
    path = manifests.path_in(run)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "added_later": 1}))
    assert len(manifests.read(run).models) == 4


def test_truncated_file_is_refused_by_name(run: Path) -> None:
    path = manifests.path_in(run)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"manifest\.json is damaged: .*EOF.*'hwnas resume"):
        manifests.read(run)


def test_wrong_value_is_refused_by_place(run: Path) -> None:
    path = manifests.path_in(run)
    record = json.loads(path.read_text())
    record["models"][2]["accuracy"]["val"] = "high"
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"models\.2\.accuracy\.val"):
        manifests.read(run)


def test_missing_unfinished_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        manifests.read(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="Name a folder that 'hwnas search' made"):
        manifests.read(tmp_path)
    (tmp_path / "study.db").touch()
    with pytest.raises(StoreError, match=r"manifest is gone\. Where it is not running any more, 'hwnas resume"):
        manifests.read(tmp_path)


def test_failed_write_leaves_the_old_file_and_nothing_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path = manifests.path_in(run)
    before = path.read_bytes(), sorted(path.parent.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "half a manif")
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before
