"""Accuracy: how often a network is right on a split, and how sure one can be of that number."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from latency.torchcuda import full_precision
from objectives.augment import to_float
from objectives.data import Split
from objectives.modules import (
    device_of,
    fitting,
    mode,
    out_of_memory_is_an_error,
    refuse_labels,
    tensors_of,
)
from objectives.recipe import Precision
from spaces.errors import DataError, SpecError, TrainingError

#: Images that are evaluated at a time, and how many pixels of one channel they may have together: many on a GPU; on a
#: CPU their maps had better fit into the cache (64 CIFAR images at a time are twice as fast as 500).
MOST_IMAGES, MOST_PIXELS = {"cpu": 64, "cuda": 500}, {"cpu": 64 * 64**2, "cuda": 500 * 64**2}

Metric = Literal["accuracy", "balanced-accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """A measured accuracy.

    Attributes:
        value: Fraction in 0..1.
        stderr: Its standard error, from the finite number of images.
        n: Images it rests on.
        predictions: int64 (N,) on the CPU, the class with the largest logit of each image, in the split's order.
    """

    value: float
    stderr: float
    n: int
    predictions: Tensor = field(repr=False, compare=False)

    @property
    def error(self) -> float:
        """What is minimised.

        Rounded, as 1 - 0.95 is a little more than 0.05, and 95 of 100 keep a limit of 5 %.
        """
        return round(1 - self.value, 12)


def evaluate(
    module: nn.Module,
    split: Split,
    metric: Metric = "accuracy",
    *,
    weights: Mapping[str, Tensor] | None = None,
    batch_size: int | None = None,
    precision: Precision = "fp32",
) -> Accuracy:
    """Accuracy of a module in eval mode.

    "accuracy" is the share of images that are right; "balanced-accuracy" the mean over classes of each one's share
    (recall), so that a rare class counts as much as a common one; classes without an image in the split do not count.

    A share of k in n has the binomial standard error, sqrt(p (1 - p) / n), taken at Jeffreys' estimate
    p = (k + 1/2) / (n + 1): at k / n it would be 0 for k = n, and a lucky network certain of itself (Brown, Cai,
    DasGupta 2001). The error of a balanced accuracy adds those of its recalls in quadrature, over the number of
    classes.

    Args:
        module: Takes float images in 0..1 and returns logits (N, classes).
        split: At least one image.
        metric: What to measure.
        weights: Tensors by parameter or buffer name to use in place of the module's own, such as a moving average.
        batch_size: Images at a time; None: see `MOST_IMAGES`.
        precision: Of the forward pass; bf16 where a search can do with less than the last digit.

    Raises:
        DataError: The split is empty, or a label has no logit.
        SpecError: An unknown metric.
        TrainingError: A logit is infinite or NaN, or memory ran out.
        ValueError: The weights do not fit the module.
    """
    logits = predict_logits(module, split.images, weights=weights, batch_size=batch_size, precision=precision)
    return score(logits, split.labels, metric)


def score(logits: Tensor, labels: Tensor, metric: Metric = "accuracy") -> Accuracy:
    """Accuracy of class scores, whoever computed them.

    Args:
        logits: (N, classes).
        labels: int64 (N,), on any device.
        metric: What to measure; see :func:`evaluate`.

    Raises:
        DataError: There are no labels, or one has no logit.
        SpecError: An unknown metric.

    >>> score(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])).value
    0.5
    """
    if metric not in ("accuracy", "balanced-accuracy"):
        raise SpecError(f"metric is {metric!r}, but must be 'accuracy' or 'balanced-accuracy'")
    if len(labels) == 0:
        raise DataError("there are no images to score: the split is empty")
    labels = labels.cpu()
    refuse_labels(int(labels.max()), logits)
    predictions = logits.argmax(dim=1)
    groups = torch.zeros_like(labels) if metric == "accuracy" else labels
    count = torch.bincount(groups).double()
    right = torch.bincount(groups, weights=(predictions == labels).double())
    present = count > 0
    count, right = count[present], right[present]
    share = (right + 0.5) / (count + 1)
    variance = share * (1 - share) / count
    return Accuracy(
        value=float((right / count).mean()),
        stderr=float(variance.sum().sqrt()) / len(count),
        n=len(labels),
        predictions=predictions,
    )


def guess(labels: Tensor, metric: Metric = "accuracy") -> float:
    """Accuracy of naming the same class for every image, the best such class; a network worth keeping beats it.

    Args:
        labels: int64 (N,), at least one.
        metric: What counts.

    >>> guess(torch.tensor([0, 0, 0, 1])), guess(torch.tensor([0, 0, 0, 1]), "balanced-accuracy")
    (0.75, 0.5)
    """
    count = torch.bincount(labels.cpu())
    if metric == "balanced-accuracy":
        return 1 / int((count > 0).sum())
    return float(count.max() / count.sum())


@out_of_memory_is_an_error()
def predict_logits(
    module: nn.Module,
    images: Tensor,
    *,
    weights: Mapping[str, Tensor] | None = None,
    batch_size: int | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Logits of a module in eval mode, float32 (N, classes) on the CPU.

    Args:
        module: Takes float images in 0..1 and returns logits (N, classes).
        images: uint8 (N, C, H, W), on any device or memory mapped: only one batch at a time is fetched and moved.
        weights: Tensors by parameter or buffer name to use in place of the module's own.
        batch_size: Images at a time, which does not change the result beyond rounding; None: see `MOST_IMAGES`.
        precision: Of the forward pass.

    Raises:
        DataError: There are no images, or they are not uint8.
        TrainingError: A logit is infinite or NaN, or memory ran out.
        ValueError: The weights do not fit the module.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> predict_logits(net, torch.zeros(7, 1, 8, 8, dtype=torch.uint8), batch_size=3).shape
    torch.Size([7, 10])
    """
    if len(images) == 0:
        raise DataError("there are no images to predict: the split is empty")
    device = device_of(module)
    if batch_size is None:
        batch_size = min(MOST_IMAGES[device.type], max(1, MOST_PIXELS[device.type] // images[0, 0].numel()))
    replaced = fitting(weights or {}, tensors_of(module), "weights")
    parts = []
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    exact = full_precision() if precision == "fp32" else nullcontext()
    with torch.no_grad(), mode(module, training=False), reduced, exact:
        for batch in torch.split(images, batch_size):
            pixels = to_float(batch.to(device))
            parts.append(torch.func.functional_call(module, replaced, (pixels,)).float())
    logits = torch.cat(parts).cpu()
    if not logits.isfinite().all():
        bad = int((~logits.isfinite().all(dim=1)).sum())
        raise TrainingError(f"the network's logits are not finite for {bad} of {len(images)} images: it has diverged")
    return logits
