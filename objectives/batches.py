"""Batches: how an epoch is cut, the endless stream of augmented images for training, and a few images as they are."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from objectives.augment import cut, shifted, to_float
from objectives.data import Split
from objectives.recipe import Recipe
from spaces.errors import DataError

#: Images whose mean colour squares are painted in.
_COLOUR_IMAGES = 256


def batches(images: int, batch_size: int | None = None) -> tuple[int, int]:
    """Steps an epoch, and images a step: equal batches, as near to ``batch_size`` as the split allows.

    No batch is ragged, so none is too small for batch norm and every step can replay the same kernels. At most
    steps - 1 images sit out an epoch, others in each. Without a ``batch_size`` it is the power of two from 32 to 128
    that gives about a hundred steps an epoch: on a small split a few epochs of large batches are too few steps to learn
    from.

    Raises:
        DataError: Fewer than two images.

    >>> batches(5000, 128), batches(200, 128), batches(130, 128), batches(7, 128)
    ((39, 128), (2, 100), (1, 130), (1, 7))
    >>> batches(1000), batches(5000), batches(50000)
    ((31, 32), (78, 64), (391, 127))
    """
    if images < 2:
        raise DataError(f"the training split has {images} images; batch norm needs at least 2: add images")
    if batch_size is None:
        batch_size = min(128, max(32, 2 ** round(math.log2(images / 100))))
    steps = max(1, min(round(images / batch_size), images // 2))
    return steps, images // steps


def stream(split: Split, recipe: Recipe, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches on the device, epoch after epoch without end: float images in 0..1, and labels."""
    count, _, height, width = split.images.shape
    steps, size = batches(count, recipe.batch_size)
    source = split.images.device
    labels = split.labels.to(device)
    # Drawn on the CPU whatever the device, one epoch at a time: the same views everywhere, and no transfer in a step.
    generator = torch.Generator().manual_seed(recipe.seed)
    down, right = int(recipe.shift * height), int(recipe.shift * width)
    mirror = (torch.rand(count, generator=generator) < 0.5) & recipe.flip
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    side = round(recipe.cutout * min(height, width))
    if side:
        colour = split.images[:_COLOUR_IMAGES].float().mean((0, 2, 3)).to(device, split.images.dtype)
    for epoch in itertools.count():
        order = torch.randperm(count, generator=generator)
        rows = torch.randint(-down, down + 1, (count,), generator=generator)
        columns = torch.randint(-right, right + 1, (count,), generator=generator)
        # Each image is seen from its other side in every second epoch (Keller Jordan's airbench, 2024).
        drawn = [rows, columns, mirror ^ (recipe.flip and epoch % 2 == 1)]
        if side:
            drawn += [torch.randint(limit, (count,), generator=generator) - side // 2 for limit in (height, width)]
        views = torch.stack(drawn).to(device)
        here, there = order.to(source), order.to(device)
        for start in range(0, steps * size, size):
            batch = slice(start, start + size)
            images = split.images[here[batch]].to(device)
            down_by, right_by, flipped, *corner = views[:, there[batch]]
            if down or right or recipe.flip:
                images = shifted(images, down_by, right_by, flipped.bool())
            if side:
                images = cut(images, corner[0], corner[1], side, colour)
            yield to_float(images, layout), labels[there[batch]]


def few(split: Split, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most so many random images of a split, float in 0..1 and not augmented, and their labels."""
    order = np.random.default_rng(seed).permutation(len(split.labels))[:count]
    chosen = torch.from_numpy(np.sort(order))
    return to_float(split.images[chosen.to(split.images.device)]), split.labels[chosen.to(split.labels.device)]
