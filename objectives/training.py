"""Training: a recipe, and the loop that follows it.

The loop trains any ``torch.nn.Module`` that takes float images in 0..1, shape (N, C, H, W), and returns logits
(N, classes). It knows nothing of architectures or search: weights are changed in place, momentum and moving averages go
in and come out as flat mappings from parameter name to tensor, so that a child can inherit all three from its parent.
"""

import copy
import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from objectives.augment import shifted, to_float
from objectives.data import Split
from objectives.recipe import Precision, Recipe, learning_rate
from spaces.errors import DataError, TrainingError

Alternative = TypeVar("Alternative", bound=Hashable)

WORTH_A_THREAD = 1.25
"""A number of threads this much slower than the fastest is still preferred, being smaller."""

MEASURE_SECONDS = 3.0
"""After so long no further round is measured: where steps are slow, one round says enough."""

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
        momentum: Momentum buffer of each parameter, by name.
        ema: Moving average of each parameter and buffer, by name; None where the recipe asks for none.
    """

    seconds: float
    steps: int
    epochs: float
    loss: float
    precision: Precision
    momentum: dict[str, Tensor]
    ema: dict[str, Tensor] | None


@contextmanager
def out_of_memory_is_an_error() -> Iterator[None]:
    """Turn running out of memory, on any device, into a ``TrainingError`` that costs only this network."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises a bare RuntimeError: only its allocator's text tells.
        told = any(text in str(error) for text in ("DefaultCPUAllocator", "not enough memory", "std::bad_alloc"))
        if not told and not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"out of memory: {first}; use a smaller batch_size or limit the network's size") from error


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
    on_epoch: Callable[[float, float], None] | None = None,
) -> Training:
    """Train a module in place, on the device its parameters are on.

    On a CPU the same seed, precision and number of threads give the same weights bit by bit. The split may be on
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
        on_epoch: Called with the epochs done and their mean loss after each epoch; what it raises passes through.

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
    per_epoch, _ = batches(len(split.labels), recipe.batch_size)
    total = max(1, round(recipe.epochs * per_epoch))
    losses: list[float] = []
    unseen: list[Tensor] = []
    done = 0
    teaching = nullcontext() if teacher is None else mode(teacher, training=False)
    with mode(module, training=True), teaching, _seeded(recipe.seed, device):
        update = _Update(module, split, recipe, teacher, momentum)
        average = None if recipe.ema is None else _Average(module, recipe.ema, ema, seen)
        for images, labels in itertools.islice(_stream(split, recipe, device), total):
            unseen.append(update(images, labels, learning_rate(recipe, (done + 0.5) / total)))
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
                if on_epoch is not None:
                    on_epoch(done / per_epoch, loss)
            if late:
                break
    _refuse_broken_weights(module, done, recipe)
    return Training(
        seconds=time.monotonic() - started,
        steps=done,
        epochs=done / per_epoch,
        loss=loss,
        precision=precision,
        momentum=update.momentum(),
        ema=None if average is None else average.tensors,
    )


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


def best_threads(step: Callable[[], object], *, rounds: int = 5) -> int:
    """Smallest number of CPU threads that is not much slower than the fastest, measured.

    More threads have to save a fifth of the time: if the cores are wanted elsewhere later, they cost many times that.

    Threads beyond the cores that are really free can make a small network several times slower, and no call of the
    operating system says how many are free. So 1, 2, 4, .. and all visible cores take turns, and medians are compared.
    ``torch.set_num_threads`` is left as it was: the caller decides.

    Args:
        step: A real training step, such as ``training_step`` gives; it must return only when its work is done.
        rounds: Timed turns each count gets, unless ``MEASURE_SECONDS`` are over before.

    >>> weight = torch.zeros(8, 8)
    >>> 1 <= best_threads(lambda: weight @ weight) <= (os.cpu_count() or 1)
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})

    def turn(count: int) -> None:
        torch.set_num_threads(count)
        step()

    before = torch.get_num_threads()
    try:
        seconds = _medians({count: functools.partial(turn, count) for count in counts}, rounds)
    finally:
        torch.set_num_threads(before)
    return min(count for count in counts if seconds[count] <= WORTH_A_THREAD * min(seconds.values()))


_precisions: dict[tuple[Hashable, ...], Precision] = {}


@out_of_memory_is_an_error()
def best_precision(module: nn.Module, split: Split, recipe: Recipe, *, rounds: int = 5) -> Precision:
    """The faster of bf16 and fp32 for a training step of this kind, measured; fp32 if they are within 5 %.

    Whether a processor computes in bf16 or only pretends to is best asked of the clock. The answer is kept for the life
    of the process, by device, threads, image shape and batch size, so that the candidates of a search all train alike.
    """
    device = device_of(module)
    _, size = batches(len(split.labels), recipe.batch_size)
    key = (device, torch.get_num_threads(), tuple(split.images.shape[1:]), size)
    if key not in _precisions:
        with _seeded(recipe.seed, device):
            steps = {p: training_step(module, split, replace(recipe, precision=p)) for p in get_args(Precision)}
            seconds = _medians(steps, rounds)
        _precisions[key] = "bf16" if seconds["bf16"] < 0.95 * seconds["fp32"] else "fp32"
    return _precisions[key]


def training_step(module: nn.Module, split: Split, recipe: Recipe) -> Callable[[], None]:
    """A real training step on a copy of the module, to be timed: fetch, augment, forward, backward, update.

    The step returns only when the device has finished.
    """
    module = copy.deepcopy(module).train()
    device = device_of(module)
    update = _Update(module, split, recipe, None, None)
    stream = _stream(split, recipe, device)

    def step() -> None:
        update(*next(stream), recipe.lr).item()

    return step


class _Update:
    """One optimiser step. Nothing in it waits for the device: steps can queue up, or be captured once and replayed."""

    def __init__(
        self,
        module: nn.Module,
        split: Split,
        recipe: Recipe,
        teacher: nn.Module | None,
        momentum: Mapping[str, Tensor] | None,
    ) -> None:
        self.module, self.recipe, self.teacher = module, recipe, teacher
        self.device = device_of(module)
        self.highest_label = int(split.labels.max())
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        decayed = [p for p in self.named.values() if p.ndim > 1]
        others = [p for p in self.named.values() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        if recipe.momentum > 0:
            given = fitting(momentum or {}, self.named, "momentum")
            for name, parameter in self.named.items():
                buffer = given[name].clone() if name in given else torch.zeros_like(parameter)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.module(images).float()
            with torch.no_grad():
                target = None if self.teacher is None else self.teacher(images).float()
        refuse_labels(self.highest_label, logits)
        loss = _loss(logits, labels, target, self.recipe)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.named.values(), self.recipe.clip)
        self.optimizer.step()
        return loss.detach()

    def momentum(self) -> dict[str, Tensor]:
        """The momentum buffers by parameter name; empty where the recipe has no momentum."""
        state = self.optimizer.state
        return {name: state[p]["momentum_buffer"] for name, p in self.named.items() if "momentum_buffer" in state[p]}


class _Average:
    """Exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float, start: Mapping[str, Tensor] | None, seen: int) -> None:
        present = tensors_of(module)
        given = fitting(start or {}, present, "ema")
        self.decay, self.steps = decay, seen
        self.tensors = {name: given.get(name, now).clone() for name, now in present.items()}

    def follow(self, module: nn.Module) -> None:
        self.steps += 1
        # Over the last tenth at most: the average of few steps would mostly be their random start.
        decay = min(self.decay, self.steps / (9 + self.steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.tensors.values()), list(tensors_of(module).values()), self.steps)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Detached floating-point parameters and buffers, by name."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


def fitting(given: Mapping[str, Tensor], present: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors handed in, moved to the device of their namesakes, whose shapes they must have."""
    for name, tensor in given.items():
        if name not in present:
            known = ", ".join(sorted(present))
            raise ValueError(f"{what} is given for {name!r}, which the module does not have; it has {known}")
        if tensor.shape != present[name].shape:
            raise ValueError(
                f"{what} of {name!r} has shape {tuple(tensor.shape)}, the module's {tuple(present[name].shape)}"
            )
    return {name: tensor.to(present[name]) for name, tensor in given.items()}


def _stream(split: Split, recipe: Recipe, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
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
    for epoch in itertools.count():
        order = torch.randperm(count, generator=generator)
        rows = torch.randint(-down, down + 1, (count,), generator=generator)
        columns = torch.randint(-right, right + 1, (count,), generator=generator)
        # Each image is seen from its other side in every second epoch (Keller Jordan's airbench, 2024).
        views = torch.stack([rows, columns, mirror ^ (recipe.flip and epoch % 2 == 1)]).to(device)
        here, there = order.to(source), order.to(device)
        for start in range(0, steps * size, size):
            batch = slice(start, start + size)
            images = split.images[here[batch]].to(device)
            if down or right or recipe.flip:
                down_by, right_by, flipped = views[:, there[batch]]
                images = shifted(images, down_by, right_by, flipped.bool())
            yield to_float(images, layout), labels[there[batch]]


def _loss(logits: Tensor, labels: Tensor, target: Tensor | None, recipe: Recipe) -> Tensor:
    """Cross-entropy with smoothed labels, mixed with the distance to the teacher's softened answer if there is one."""
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if target is None:
        return loss
    soft, aim = (F.log_softmax(values / recipe.temperature, dim=1) for values in (logits, target))
    distance = F.kl_div(soft, aim, reduction="batchmean", log_target=True) * recipe.temperature**2
    return (1 - recipe.distill_weight) * loss + recipe.distill_weight * distance


def refuse_labels(highest: int, logits: Tensor) -> None:
    """Raise a ``DataError`` unless there is a logit for every label up to the highest.

    Left to itself, a CUDA device would answer such a label with an assertion that ends the process's use of it.
    """
    if highest >= logits.shape[1]:
        raise DataError(
            f"there is a label {highest}, but the network has logits for classes 0 .. {logits.shape[1] - 1}: "
            "build it for as many classes as the data has"
        )


def _finite(losses: list[Tensor], done: int, total: int, recipe: Recipe) -> list[float]:
    """The losses of the last steps as numbers, in one transfer."""
    values: list[float] = torch.stack(losses).tolist()
    for step, value in enumerate(values, start=done - len(values) + 1):
        if not math.isfinite(value):
            lr = learning_rate(recipe, (step - 0.5) / total)
            raise TrainingError(
                f"diverged: the loss was {value} at step {step} of {total}, at a learning rate of {lr:.3g}; "
                f"train with a smaller lr than {recipe.lr:g}, or set clip"
            )
    return values


def _refuse_broken_weights(module: nn.Module, done: int, recipe: Recipe) -> None:
    """A finite loss does not prove the weights finite: the last update comes after it."""
    sums = {name: tensor.sum() for name, tensor in tensors_of(module).items()}
    if not torch.stack([total.isfinite() for total in sums.values()]).all():
        names = [name for name, total in sums.items() if not total.isfinite()]
        raise TrainingError(
            f"diverged: after step {done} {', '.join(names[:3])} {'is' if len(names) == 1 else 'are'} not finite; "
            f"train with a smaller lr than {recipe.lr:g}, or set clip"
        )


def _medians(alternatives: Mapping[Alternative, Callable[[], object]], rounds: int) -> dict[Alternative, float]:
    """Median seconds of each alternative; they take turns, so that a busy moment hits all of them alike."""
    seconds: dict[Alternative, list[float]] = {name: [] for name in alternatives}
    started = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - started > MEASURE_SECONDS:
            break
        for name, run in alternatives.items():
            run()  # not timed: caches and thread pools settle
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are; the CPU for a module without any."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Train or eval mode for a while, then each submodule's own again."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was in before:
            part.training = was


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what a module may draw from the global generators (dropout, say), and give them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
