"""What a run shows: the table, front.csv and the picture."""

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from hwnas import manifest as manifests
from hwnas import plot, report
from hwnas.manifest import Latency, Manifest
from hwnas.plot import Point


def printed(manifest: Manifest) -> list[str]:
    console = Console(width=120, file=StringIO())
    console.print(report.table(manifest))
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_csv_is_sorted_with_references_last_and_units_in_the_headers(manifest: Manifest, tmp_path: Path) -> None:
    shuffled = manifest.model_copy(update={"models": manifest.models[::-1]})
    report.write(tmp_path, shuffled)
    rows = pd.read_csv(tmp_path / "front.csv")
    assert rows["kind"].tolist() == ["front"] * 4 + ["reference"]
    assert rows["val_accuracy_percent"].tolist() == [98.0, 97.0, 95.0, 90.0, 89.0]
    assert rows["test_accuracy_percent"].tolist() == [97.0, 96.0, 94.0, 89.0, 88.0]
    assert rows["latency_p50_ms"].tolist() == [2.0, 3.0, 0.5, 0.1, 0.12]
    assert rows["latency_predicted_ms"].tolist()[:4] == [2.2, 3.3, 0.55, 0.11]  # rounded: 3 * 1.1 is not 3.3
    assert rows["peak_memory_kib"].tolist()[:4] == [4.0] * 4
    assert pd.isna(rows["peak_memory_kib"][4])
    assert rows["file"][0] == "front/large.onnx"


def test_csv_names_devices_where_there_are_several(manifest: Manifest) -> None:
    first = manifest.models[0]
    both = {"epyc": Latency(p50_ms=2.0), "board": Latency(predicted_ms=8.0)}
    two = manifest.model_copy(update={"models": [first.model_copy(update={"latency": both})]})
    rows = report.frame(two)
    assert rows["latency_p50_ms.epyc"][0] == 2.0
    assert pd.isna(rows["latency_p50_ms.board"][0])
    assert rows["latency_predicted_ms.board"][0] == 8.0


def test_write_leaves_the_whole_report(manifest: Manifest, tmp_path: Path) -> None:
    report.write(tmp_path, manifest, [Point("archive", 0.5, 0.3, 900, 9e4)])
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["front.csv", "front.png", "front/manifest.json", "predict.py"]
    assert manifests.read(tmp_path) == manifest


def test_table_marks_references_predictions_and_broken_limits(manifest: Manifest) -> None:
    large, fat, *rest = manifest.models
    predicted = large.model_copy(update={"latency": dict.fromkeys(large.latency, Latency(predicted_ms=2.2))})
    over = fat.model_copy(update={"over_limits": ["latency", "params"]})
    lines = printed(manifest.model_copy(update={"models": [predicted, over, *rest]}))
    assert [line.split()[0] for line in lines] == ["network", "large", "fat", "medium", "small", "plain-s"]
    assert "~2.2" in lines[1]
    assert lines[2].endswith("over latency, params")
    assert lines[3].split() == ["medium", "95.00", "0.40", "94.00", "0.5", "20,000", "2M", "12.5"]
    assert lines[5].endswith("reference")


def test_example_limit_is_one_that_parts_the_front(manifest: Manifest) -> None:
    assert report.example_limit(manifest) == "latency=2ms"
    quick = [
        model.model_copy(
            update={"latency": {key: one.model_copy(update={"p50_ms": 0.00955}) for key, one in model.latency.items()}}
        )
        for model in manifest.models
    ]
    assert report.example_limit(manifest.model_copy(update={"models": quick})) == "latency=9.6us"
    untimed = [model.model_copy(update={"latency": {}}) for model in manifest.models]
    assert report.example_limit(manifest.model_copy(update={"models": untimed})) == "params=100k"
    assert report.example_limit(manifest.model_copy(update={"models": untimed[:1]})) is None


def test_points_of_front_and_references(manifest: Manifest) -> None:
    points = report.points(manifest)
    assert [point.kind for point in points] == ["front"] * 4 + ["reference"]
    assert points[0] == Point("front", 0.98, 2.0, 100_000, 10_000_000)
    assert points[-1].label == "plain-s, 30 epochs"


def coloured(path: Path, colour: str) -> int:
    """Pixels of about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    return int((np.abs(pixels - wanted).max(axis=2) < 8).sum())


def test_picture_shows_what_it_is_given(tmp_path: Path) -> None:
    front = [Point("front", 0.9 + i / 50, 0.1 * 3**i, 10**i * 1e3, 10**i * 1e5) for i in range(4)]
    reference = [Point("reference", 0.93, 0.5, 5e4, 5e6, "plain")]
    archive = [Point("archive", 0.91, 0.2, 3e3, 3e5)]

    def ink(points: list[Point], **limits: float) -> dict[str, int]:
        path = plot.draw(tmp_path / "front.png", points, data="digits", device="here", limits=limits)
        return {name: coloured(path, getattr(plot, name)) for name in ("_FRONT", "_REFERENCE", "_ARCHIVE", "_LIMIT")}

    bare = ink(front)
    assert bare["_FRONT"] > 1000
    assert bare["_REFERENCE"] == bare["_ARCHIVE"] == bare["_LIMIT"] == 0
    full = ink([*front, *reference, *archive], latency=1.0)
    assert min(full.values()) > 20
    assert ink(front, latency=1.0, params=1e4)["_LIMIT"] > 1.5 * ink(front, latency=1.0)["_LIMIT"]


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point("front", 1.0, None, 1, 0)],
        [Point("archive", 0.0, 1.0, 10, 10), Point("archive", 1.0, 1.0, 10, 10)],
        [Point("reference", 0.5, 1e-3, 10, 10, "a name as long as a sentence"), Point("front", 0.9999, 9e3, 1e9, 1e12)],
    ],
    ids=["nothing", "one, perfect and untimed", "archive only", "seven decades"],
)
def test_picture_of_edge_cases(points: list[Point], tmp_path: Path) -> None:
    path = plot.draw(tmp_path / "front.png", points, data="digits", device="here", limits={"latency": 1.0})
    with Image.open(path) as image:
        assert image.size[0] > 1000
