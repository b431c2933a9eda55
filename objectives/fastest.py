"""The fastest way to train here: threads and precision, measured on real steps, not assumed."""

import functools
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TypeVar, get_args

import torch
from torch import nn

from latency.deployment import usable_cores
from objectives.batches import batches
from objectives.data import Split
from objectives.modules import device_of, out_of_memory_is_an_error, seeded
from objectives.recipe import Precision, Recipe
from objectives.timedstep import training_step

Alternative = TypeVar("Alternative", bound=Hashable)

WORTH_A_THREAD = 1.25
"""A number of threads this much slower than the fastest is still preferred, being smaller."""

MEASURE_SECONDS = 3.0
"""After so long no further round is measured: where steps are slow, one round says enough."""


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
    >>> 1 <= best_threads(lambda: weight @ weight) <= usable_cores()
    True
    """
    cores = usable_cores()
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
        with seeded(recipe.seed, device):
            steps = {p: training_step(module, split, replace(recipe, precision=p)) for p in get_args(Precision)}
            seconds = _medians(steps, rounds)
        _precisions[key] = "bf16" if seconds["bf16"] < 0.95 * seconds["fp32"] else "fp32"
    return _precisions[key]


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
