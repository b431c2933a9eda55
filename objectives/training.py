"""Training: a recipe, and the loop that follows it.

The loop trains any ``torch.nn.Module`` that takes float images in 0..1, shape (N, C, H, W), and returns logits
(N, classes). It knows nothing of architectures or search: weights are changed in place, momentum and moving averages go
in and come out as flat mappings from parameter name to tensor, so that a child can inherit all three from its parent.
"""

import itertools
import math
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from objectives.batches import batches, stream
from objectives.data import Split
from objectives.fastest import best_precision
from objectives.graphstep import FEWEST_STEPS, GraphStep, StepLike
from objectives.modules import device_of, fitting, mode, out_of_memory_is_an_error, seeded, tensors_of
from objectives.recipe import Precision, Recipe, learning_rate
from objectives.step import Step
from spaces.errors import TrainingError

CHECK_EVERY = 50
"""Steps between two looks at the loss: each look makes the host wait for the device."""


@dataclass(frozen=True, eq=False)
class Training:
    """What one run of ``train`` did, beyond changing the module's weights.

    Attributes:
        seconds: Wall time, measuring the precision included.
        steps: Optimiser steps taken.
        epochs: Passes over the split; fewer than the recipe's if the deadline came first.
        loss: Mean training loss over the last epoch, or what of it there was.
        precision: What the passes were computed in.
        captured: Whether steps were replayed from a CUDA graph.
        momentum: Momentum buffer of each parameter, by name.
        ema: Moving average of each parameter and buffer, by name; None where the recipe asks for none.
    """

    seconds: float
    steps: int
    epochs: float
    loss: float
    precision: Precision
    captured: bool
    momentum: dict[str, Tensor]
    ema: dict[str, Tensor] | None


@out_of_memory_is_an_error()
def train(
    module: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    momentum: Mapping[str, Tensor] | None = None,
    ema: Mapping[str, Tensor] | None = None,
    seen: int = 0,
    deadline: float | None = None,
) -> Training:
    """Train a module in place, on the device its parameters are on.

    On a CPU the same seed, precision and number of threads give the same weights bit by bit, unless a deadline is near:
    the learning rate follows the steps or the time, whichever is further, so that it has fallen when the time is up,
    too. The split may be on
    another device than the module, or memory mapped: each batch is fetched, moved and then augmented.

    Args:
        module: Takes float images in 0..1, shape (N, C, H, W), and returns logits (N, classes).
        split: At least two images, uint8 (N, C, H, W), and their labels, int64 (N,).
        recipe: How.
        teacher: A network to be near to, on the module's device; run in eval mode on the same augmented images.
        momentum: Buffers to start from, by parameter name; parameters it leaves out start at zero.
        ema: Averages to start from, by parameter or buffer name; what it leaves out starts at the present value.
        seen: Steps that the averages rest on already.
        deadline: ``time.monotonic()`` after which no further step is begun; at least one step is taken.

    Returns:
        What was done; momentum and averages are new tensors, the ones handed in are not changed.

    Raises:
        TrainingError: The loss or a weight became infinite or NaN, or memory ran out; the weights are then worthless.
        DataError: Fewer than two images, images that are not uint8, or a label the network has no logit for.
        ValueError: Momentum or averages do not fit the module, or averages are given and the recipe keeps none.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> digits = Split(torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 2)
    >>> train(net, digits, Recipe(epochs=3, batch_size=4, precision="fp32")).steps
    6
    """
    started = time.monotonic()
    if ema and recipe.ema is None:
        raise ValueError("averages were handed in, but recipe.ema is None; set a decay, or pass ema=None")
    precision = best_precision(module, split, recipe) if recipe.precision == "auto" else recipe.precision
    recipe = replace(recipe, precision=precision)
    device = device_of(module)
    if recipe.channels_last and device.type == "cuda":  # on a CPU the order of weights makes no difference
        module.to(memory_format=torch.channels_last)
    per_epoch, _ = batches(len(split.labels), recipe.batch_size)
    total = max(1, round(recipe.epochs * per_epoch))
    losses: list[float] = []
    unseen: list[Tensor] = []
    done = 0
    teaching = nullcontext() if teacher is None else mode(teacher, training=False)
    with mode(module, training=True), teaching, seeded(recipe.seed, device):
        update = Step(module, split, recipe, teacher, momentum)
        average = None if recipe.ema is None else _Average(module, recipe.ema, ema, seen)
        step: StepLike = update
        for images, labels in itertools.islice(stream(split, recipe, device), total):
            rate = learning_rate(recipe, max((done + 0.5) / total, _spent(started, deadline)))
            if device.type == "cuda" and done == 0 and total >= FEWEST_STEPS:
                step = GraphStep.captured(update, images, labels) or update
            unseen.append(step(images, labels, rate))
            if average is not None:
                average.follow(module)
            done += 1
            late = deadline is not None and time.monotonic() >= deadline
            epoch_ends = done % per_epoch == 0 or done == total or late
            if epoch_ends or len(unseen) == CHECK_EVERY:
                losses += _finite(unseen, done, total, recipe)
                unseen.clear()
            if epoch_ends:
                loss = statistics.fmean(losses)
                losses.clear()
            if late:
                break
    _refuse_broken_weights(module, done, recipe)
    return Training(
        seconds=time.monotonic() - started,
        steps=done,
        epochs=done / per_epoch,
        loss=loss,
        precision=precision,
        captured=isinstance(step, GraphStep),
        momentum=update.momentum(),
        ema=None if average is None else average.tensors,
    )


class _Average:
    """Exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float, start: Mapping[str, Tensor] | None, seen: int) -> None:
        present = tensors_of(module)
        given = fitting(start or {}, present, "ema")
        self.decay, self.steps = decay, seen
        self.tensors = {name: given.get(name, now).clone() for name, now in present.items()}

    def follow(self, module: nn.Module) -> None:
        self.steps += 1
        # Over the last fifth at most: the average of few steps would mostly be their random start.
        decay = min(self.decay, self.steps / (4 + self.steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.tensors.values()), list(tensors_of(module).values()), self.steps)


def _spent(started: float, deadline: float | None) -> float:
    """Share of the time until the deadline that is over, at most 1; 0 without one."""
    if deadline is None:
        return 0.0
    return min(1.0, (time.monotonic() - started) / max(deadline - started, 1e-9))


def _remedy(recipe: Recipe) -> str:
    clip = "set clip" if recipe.clip is None else f"a smaller clip than {recipe.clip:g}"
    rates = f"lr than {recipe.lr:g}" + ("" if recipe.muon_lr is None else f" or muon_lr than {recipe.muon_lr:g}")
    return f"train with a smaller {rates}, or {clip}"


def _finite(losses: list[Tensor], done: int, total: int, recipe: Recipe) -> list[float]:
    """The losses of the last steps as numbers, in one transfer."""
    values: list[float] = torch.stack(losses).tolist()
    for step, value in enumerate(values, start=done - len(values) + 1):
        if not math.isfinite(value):
            lr = learning_rate(recipe, (step - 0.5) / total)
            raise TrainingError(
                f"diverged: the loss was {value} at step {step} of {total}, at a learning rate of {lr:.3g}; "
                + _remedy(recipe)
            )
    return values


def _refuse_broken_weights(module: nn.Module, done: int, recipe: Recipe) -> None:
    """A finite loss does not prove the weights finite: the last update comes after it."""
    sums = {name: tensor.sum() for name, tensor in tensors_of(module).items()}
    if not torch.stack([total.isfinite() for total in sums.values()]).all():
        names = [name for name, total in sums.items() if not total.isfinite()]
        raise TrainingError(
            f"diverged: after step {done} {', '.join(names[:3])} {'is' if len(names) == 1 else 'are'} not finite; "
            + _remedy(recipe)
        )
