"""Augmentation of a whole batch at once, on whatever device holds it: shifts, mirror images, cutout."""

import torch
from torch import Tensor

from spaces.errors import DataError


def shifted(images: Tensor, down: Tensor, right: Tensor, mirror: Tensor) -> Tensor:
    """Shift and mirror each image of a batch by its own amount.

    The same as flipping, padding by reflection and cropping, but in a single gather: no padded copy is made and no
    image is treated on its own, so that the work is the same few kernels for 8 images or 8,000.

    Args:
        images: Any dtype, shape (N, C, H, W).
        down: int64 (N,), the row of the image that lands in row 0; in -(H - 1) .. H - 1.
        right: int64 (N,), the column of the (mirrored) image that lands in column 0; in -(W - 1) .. W - 1.
        mirror: bool (N,), whether the image is flipped left to right before it is shifted.

    Returns:
        A new tensor of the same shape and dtype.

    >>> image = torch.tensor([[[[1, 2, 3]]]])
    >>> zero, yes, no = torch.tensor([0]), torch.tensor([True]), torch.tensor([False])
    >>> shifted(image, zero, zero, yes).flatten().tolist()
    [3, 2, 1]
    >>> shifted(image, zero, torch.tensor([1]), no).flatten().tolist()      # the border is reflected
    [2, 3, 2]
    """
    count, channels, height, width = images.shape
    rows = _reflected(torch.arange(height, device=images.device) + down[:, None], height)
    columns = _reflected(torch.arange(width, device=images.device) + right[:, None], width)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
    return images.reshape(count, channels, -1).gather(2, pixels).view(images.shape)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Fold indices from -(size - 1) .. 2 (size - 1) back into 0 .. size - 1, as a mirror at either border would."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def cut(images: Tensor, top: Tensor, left: Tensor, side: int, colour: Tensor) -> Tensor:
    """Paint a square over each image, so that no network relies on a single feature (DeVries and Taylor 2017).

    Args:
        images: Any dtype, shape (N, C, H, W).
        top: int64 (N,), the first row of the square; what lies outside of the image is not painted.
        left: int64 (N,), its first column.
        side: Rows and columns of the square.
        colour: Of the images' dtype, shape (C,).

    Returns:
        A new tensor of the same shape and dtype.

    >>> image, one = torch.zeros(1, 1, 2, 3, dtype=torch.uint8), torch.tensor([1])
    >>> cut(image, -one, one, 2, torch.tensor([9], dtype=torch.uint8))[0, 0].tolist()
    [[0, 9, 9], [0, 0, 0]]
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) - top[:, None]
    columns = torch.arange(width, device=images.device) - left[:, None]
    rows, columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], colour[:, None, None], images)


def to_float(images: Tensor, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """Float images in 0..1 from uint8 ones, in the memory order asked for (ordered while a pixel is still one byte).

    Raises:
        DataError: The images are not uint8.

    >>> to_float(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)).flatten()
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.dtype != torch.uint8:
        raise DataError(f"the images are {images.dtype}; they must be torch.uint8, 0 .. 255")
    return images.contiguous(memory_format=layout).float().div_(255)
