"""One image: from a file, whatever its mode and size, to a square uint8 array.

The rules, in order; whoever feeds an exported network repeats them:

1. Of an animation or a multi-page file, the first frame counts.
2. A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size, never below twice the wanted side.
3. The EXIF orientation is applied.
4. Grey of 16 bits is scaled by its range, 0..65535 to 0..255. Deeper grey has no range of its own and is refused.
5. Transparent pixels show a white page.
6. Palette, CMYK and the rest become RGB; grey stays grey. Where one channel is asked for, RGB becomes ITU-R 601 luma.
7. The whole image is resized to the square by Pillow's antialiased bilinear filter. Nothing is cropped; shapes change.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from spaces.errors import DataError

ImageSource: TypeAlias = Path | NDArray[np.uint8]
"""A file, or pixels of shape (H, W) or (H, W, 3)."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})


class Header(NamedTuple):
    """What a file says of its image before any pixel is decoded.

    Attributes:
        width: In pixels, as stored (the EXIF orientation is not applied).
        height: In pixels, as stored.
        grey: Whether the mode holds one channel. Colour modes can hold grey pictures; only their pixels tell.
    """

    width: int
    height: int
    grey: bool


def read_header(source: ImageSource) -> Header:
    """Size and greyness of an image, without decoding it.

    Raises:
        DataError: The source is not an image; the message is the reason alone, without the name.

    >>> read_header(np.zeros((28, 32), np.uint8))
    Header(width=32, height=28, grey=True)
    """
    if isinstance(source, np.ndarray):
        return Header(source.shape[1], source.shape[0], grey=source.ndim == 2)
    with _opened(source) as image:
        return Header(*image.size, grey=_is_grey(image))


def read_image(source: ImageSource, size: int, channels: int) -> NDArray[np.uint8]:
    """The image as uint8 of shape (channels, size, size), by the rules of this module.

    Args:
        source: A file or an array of pixels.
        size: Side of the square in pixels.
        channels: 1 or 3.

    Raises:
        DataError: The source cannot be decoded; the message is the reason alone, without the name.

    >>> read_image(np.full((4, 8, 3), 7, np.uint8), size=2, channels=1).tolist()
    [[[7, 7], [7, 7]]]
    """
    if isinstance(source, np.ndarray):
        flat = Image.fromarray(source)
    else:
        with _opened(source) as image:
            image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            flat = _flat(image)
    flat = flat.convert("L" if channels == 1 else "RGB")
    square = flat.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    pixels = np.asarray(square).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's image of a file; whatever goes wrong with it becomes a DataError."""
    try:
        with Image.open(path, formats=_formats()) as image:
            yield image
    except DataError:
        raise
    except Exception as error:
        # Of damaged files Pillow raises nearly anything, RuntimeError and AttributeError included (found by corrupting
        # files of each format). Only its calls run in here, and the caller lists the reason beside the file's name.
        raise DataError(_reason(error)) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    # Pillow's other plugins are kept out: some run programs (EPS), others take almost any bytes for an image (TGA).
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY or image.mode.startswith("I;16")


def _flat(image: Image.Image) -> Image.Image:
    """An opaque image of mode L or RGB."""
    if image.mode == "F":
        raise DataError("floating-point pixels have no fixed range; convert them to 8 or 16 bits")
    if image.mode.startswith("I"):
        deep = np.asarray(image, dtype=np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise DataError(f"grey of {deep.min()}..{deep.max()} is beyond 16 bits; convert it to 8 or 16 bits")
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    mode = "L" if _is_grey(image) else "RGB"
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return page.convert(mode)
    return image.convert(mode)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"no image in any of the formats read ({', '.join(_formats())})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
