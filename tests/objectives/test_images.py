"""One image: every mode and size becomes the same kind of array, and damage is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objectives.images import read_header, read_image
from spaces.errors import DataError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def halves(
    left: tuple[int, ...], right: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (8, 8)
) -> Image.Image:
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def corners(path: Path, channels: int = 3) -> tuple[list[int], list[int]]:
    """The pixels top left and bottom right."""
    pixels = read_image(path, 8, channels)
    assert pixels.shape == (channels, 8, 8)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels[:, 0, 0].tolist(), pixels[:, -1, -1].tolist()


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tiff", "webp", "ppm"])
def test_lossless_formats_keep_the_pixels(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    halves(RED, GREEN).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert corners(path) == ([*RED], [*GREEN])
    assert read_header(path) == (8, 8, False)


def test_palette_becomes_colour(tmp_path):
    halves(RED, GREEN).quantize(4).save(tmp_path / "image.gif")
    assert corners(tmp_path / "image.gif") == ([*RED], [*GREEN])


def test_cmyk_jpeg_becomes_colour(tmp_path):
    halves(RED, GREEN, size=(32, 32)).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    left, right = corners(tmp_path / "image.jpg")
    assert np.allclose(left, RED, atol=8)
    assert np.allclose(right, GREEN, atol=8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_a_white_page(tmp_path, mode):
    image = halves((0, 0, 0, 255), (0, 0, 0, 0), "RGBA")
    if mode == "P":
        image = halves((0,), (1,), "P")
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.info["transparency"] = 1
    image.convert(mode).save(tmp_path / "image.png")
    assert corners(tmp_path / "image.png") == ([0, 0, 0], [255, 255, 255])


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 51)).save(tmp_path / "image.png")
    assert corners(tmp_path / "image.png")[0] == [204, 204, 204]


@pytest.mark.parametrize(("mode", "white"), [("1", 1), ("L", 255)])
def test_grey_stays_grey(tmp_path, mode, white):
    halves(0, white, mode).save(tmp_path / "image.png")
    assert read_header(tmp_path / "image.png").grey
    assert corners(tmp_path / "image.png", channels=1) == ([0], [255])
    assert corners(tmp_path / "image.png", channels=3) == ([0, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_their_range_not_clipped(tmp_path, suffix):
    deep = np.repeat(np.array([0, 257, 25700, 65535], np.uint16), 16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / f"image.{suffix}")
    assert read_header(tmp_path / f"image.{suffix}").grey
    pixels = read_image(tmp_path / f"image.{suffix}", 8, 1)
    assert pixels[0, ::2, 0].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((8, 8), 70000, np.int32), "70000..70000 is beyond 16 bits"),
        (np.full((8, 8), -1, np.int32), "-1..-1 is beyond 16 bits"),
        (np.full((8, 8), 0.5, np.float32), "floating-point pixels have no fixed range"),
    ],
)
def test_grey_without_a_range_is_refused(tmp_path, pixels, reason):
    Image.fromarray(pixels).save(tmp_path / "image.tiff")
    with pytest.raises(DataError, match=reason):
        read_image(tmp_path / "image.tiff", 8, 1)


# Where the red left half of the stored image is to be seen, for each orientation a camera can note.
@pytest.mark.parametrize(
    ("orientation", "red"),
    [(1, "left"), (2, "right"), (3, "right"), (4, "left"), (5, "top"), (6, "top"), (7, "bottom"), (8, "bottom")],
)
def test_exif_orientation_is_applied(tmp_path, orientation, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves(RED, GREEN, size=(48, 32)).save(tmp_path / "image.jpg", exif=exif, quality=95)
    pixels = read_image(tmp_path / "image.jpg", 16, 3)
    seen = {"left": pixels[0, :, :4], "right": pixels[0, :, -4:], "top": pixels[0, :4], "bottom": pixels[0, -4:]}
    assert seen[red].min() > 200
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[red]
    assert seen[opposite].max() < 60


def test_the_whole_image_is_squeezed_into_the_square(tmp_path):
    halves(RED, GREEN, size=(400, 20)).save(tmp_path / "image.png")
    assert corners(tmp_path / "image.png") == ([*RED], [*GREEN])


def test_shrinking_averages_all_pixels(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "image.png")
    pixels = read_image(tmp_path / "image.png", 8, 1)
    assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_a_large_jpeg_decoded_at_a_fraction_is_near_the_whole_one(tmp_path):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = smooth.resize((1600, 1200), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "image.jpg", quality=95)
    smooth.save(tmp_path / "image.png")
    difference = read_image(tmp_path / "image.jpg", 16, 3).astype(int) - read_image(tmp_path / "image.png", 16, 3)
    assert np.abs(difference).mean() < 2


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    assert corners(tmp_path / "image.gif")[0] == [*RED]


def test_arrays_are_images_too():
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[..., 1] = 7
    assert read_image(colour, 4, 3)[:, 0, 0].tolist() == [0, 7, 0]
    assert read_header(colour) == (4, 4, False)


def test_damage_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    for name in ("text.jpg", "empty.png"):
        with pytest.raises(DataError, match=r"^no image in any of the formats read \(JPEG, PNG"):
            read_header(tmp_path / name)
    assert read_header(tmp_path / "cut.jpg") == (64, 64, False)
    with pytest.raises(DataError, match="truncated"):
        read_image(tmp_path / "cut.jpg", 8, 3)
    with pytest.raises(DataError, match=r"^No such file or directory$"):
        read_image(tmp_path / "absent.jpg", 8, 3)


def test_programs_in_images_clothes_are_not_run(tmp_path):
    (tmp_path / "image.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(DataError, match="no image"):
        read_header(tmp_path / "image.jpg")


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on what it makes of the damage
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff", "bmp", "webp"])
def test_random_damage_raises_nothing_else(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for cut in range(40):
        damaged = content.copy()
        damaged[rng.integers(0, min(len(content), 200), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged[: len(content) - cut * len(content) // 60].tobytes())
        try:
            assert read_image(path, 8, 3).shape == (3, 8, 8)
        except DataError:
            refused += 1
    assert refused > 0
