"""predict.py, run as a user runs it, on a network whose logits are its own pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwnas.export import copy_predict
from objectives.images import read_image
from spaces.errors import DataError

ORIENTATION = 0x0112


def predict(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Isolated (-I), so that nothing beside the installed packages can be imported."""
    script = copy_predict(folder)
    return subprocess.run(
        [sys.executable, "-I", "-W", "error", script, *arguments], capture_output=True, text=True, cwd=folder
    )


def kinds_of_images(folder: Path) -> list[Path]:
    """Files that differ in mode, size and orientation, all with random content."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    veil = Image.fromarray(rng.integers(0, 256, (12, 20), dtype=np.uint8))
    veiled = colour.copy()
    veiled.putalpha(veil)
    images = {
        "colour.png": colour,
        "grey.png": colour.convert("L"),
        "bits.png": colour.convert("1"),
        "palette.png": colour.quantize(16),
        "veiled.png": veiled,
        "veiled_grey.png": veiled.convert("LA"),
        "cmyk.tif": colour.convert("CMYK"),
        "deep.png": Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16)),
        "large.jpg": Image.fromarray(rng.integers(0, 256, (100, 180, 3), dtype=np.uint8)),
        "tiny.bmp": colour.resize((2, 3)),
    }
    for name, image in images.items():
        image.save(folder / name)
    colour.quantize(16).save(folder / "holes.png", transparency=3)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    colour.save(folder / "turned.jpg", exif=turned)
    return [*(folder / name for name in images), folder / "holes.png", folder / "turned.jpg"]


def test_images_are_prepared_as_for_training(pixel_model: tuple[Path, int], tmp_path: Path) -> None:
    model, channels = pixel_model
    images = kinds_of_images(tmp_path)
    expected = []
    for image in images:
        logits = 20 * read_image(image, 8, channels).astype(np.float32).ravel() / 255
        odds = np.exp(logits - logits.max())
        expected.append(f"{image}\tpixel {odds.argmax()}\t{odds.max() / odds.sum():.1%}")
    done = predict(tmp_path, str(model), *map(str, images))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
    "deep",
    [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 65536, np.int32), np.full((4, 4), -1, np.int32)],
    ids=["floating point", "more than 16 bits", "negative"],
)
def test_what_training_refuses_is_refused(pixel_model: tuple[Path, int], tmp_path: Path, deep: np.ndarray) -> None:
    model, channels = pixel_model
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    with pytest.raises(DataError, match="convert"):
        read_image(tmp_path / "deep.tiff", 8, channels)
    done = predict(tmp_path, str(model), "deep.tiff")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("deep.tiff: neither 8 nor 16 bits deep")


def test_without_arguments_it_says_how_to_call_it(tmp_path: Path) -> None:
    done = predict(tmp_path)
    assert done.returncode == 1
    assert "python predict.py MODEL.onnx IMAGE" in done.stderr


def test_what_is_no_image_is_named_and_the_others_are_labelled(pixel_model: tuple[Path, int], tmp_path: Path) -> None:
    model, _ = pixel_model
    good = kinds_of_images(tmp_path)[0]
    (tmp_path / "text.png").write_text("no image")
    done = predict(tmp_path, str(model), "text.png", "missing.png", str(good))
    assert done.returncode == 1
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(good)]
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["text.png", "missing.png"]


@pytest.mark.parametrize(
    ("model", "message"), [("image.png", "is no .onnx file; the model comes first"), ("no.onnx", "there is no file")]
)
def test_what_is_no_model_is_said(tmp_path: Path, model: str, message: str) -> None:
    done = predict(tmp_path, model, "a.png")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(pixel_model: tuple[Path, int], tmp_path: Path) -> None:
    model, _ = pixel_model
    image = kinds_of_images(tmp_path)[0]
    script = copy_predict(tmp_path)
    command = [sys.executable, "-u", str(script), str(model), *[str(image)] * 50]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("not a network")
    done = predict(tmp_path, "bad.onnx", "image.png")
    assert done.returncode == 1
    assert done.stderr.startswith("bad.onnx is not a model of hwnas's, or damaged: ")
