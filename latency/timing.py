"""Timing: how kernels and whole networks are measured, whatever the runtime.

What is sought is the *quiet* latency, the one without other programs' noise. Noise comes in spells of seconds, so the
same thing measured ten times in a row is ten times wrong together. Hence everything is measured in several passes over
*all* the work, with everything built anew in each, and minima are taken over passes.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from latency.kernels import Kernel
from latency.stopwatch import ATTEMPTS, Stopwatch, kernel_seconds, repeat, warm
from latency.workload import least_copies
from spaces.errors import LatencyError, SpecError

if TYPE_CHECKING:
    from latency.runtimes import Runtime


@dataclass(frozen=True)
class Protocol:
    """How long and how often things are measured.

    A kernel takes (T(1 + K copies) - T(1)) / K, which leaves out what a call costs beside the kernels.

    Attributes:
        passes: Passes over all the work.
        span_ms: The K copies together take at most so long, if two of them do; K is at most 16.
        kernel_ms: Time given to a kernel in a pass.
        network_ms: Time given to a whole network in a pass.

    Raises:
        SpecError: If a number is not positive.
    """

    passes: int = 5
    span_ms: float = 0.25
    kernel_ms: float = 3.0
    network_ms: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SpecError(f"{name}={value} of the timing protocol must be above 0")


@dataclass(frozen=True)
class Timing:
    """What a kernel takes.

    Attributes:
        min_us: The smallest of the passes' results, in microseconds: the quiet latency.
        median_us: Their median.
        spread: (largest - smallest) / median.
        passes: How many there were.
    """

    min_us: float
    median_us: float
    spread: float
    passes: int


@dataclass(frozen=True)
class Measured:
    """What a whole network takes, one call after another.

    Attributes:
        quiet_ms: The smallest of the rounds' lower quartiles: the latency without other programs' noise, which is what
            predictions are held against.
        p50_ms: Median of all calls, in milliseconds.
        p95_ms: 95th percentile of all calls.
        min_ms: The fastest call.
        rounds: The lower quartile of each round.
    """

    quiet_ms: float
    p50_ms: float
    p95_ms: float
    min_ms: float
    rounds: tuple[float, ...]


def time_kernels(runtime: "Runtime", kernels: Sequence[Kernel], protocol: Protocol | None = None) -> list[Timing]:
    """Measure kernels, interleaved over all of them.

    Args:
        runtime: The runtime whose kernels they are; its device must be here.
        kernels: What to measure.
        protocol: How; None for the default.

    Returns:
        A timing per kernel, in the same order, each above 0.

    Raises:
        LatencyError: If more of a kernel takes no longer than one of it: as a row it would be free for ever.
    """
    protocol = protocol or Protocol()
    results: list[list[float]] = [[] for _ in kernels]
    for _ in range(protocol.passes):
        for kernel, result in zip(kernels, results, strict=True):
            result.append(_kernel_seconds(runtime, kernel, protocol))
    return [summarise_passes(result) for result in results]


def measure_many(
    runtime: "Runtime", models: Sequence[onnx.ModelProto], protocol: Protocol | None = None, rounds: int = 6
) -> list[Measured]:
    """Measure whole networks, interleaved over all of them, so that a noisy spell hits all alike.

    Args:
        runtime: What runs them; its device must be here.
        models: The networks.
        protocol: How long; None for the default.
        rounds: Passes over all networks.

    Returns:
        A measurement per network, in the same order.
    """
    protocol = protocol or Protocol()
    calls: list[list[list[float]]] = [[] for _ in models]
    for _ in range(rounds):
        for model, passes in zip(models, calls, strict=True):
            stopwatch = runtime.network(model)
            warm(stopwatch, protocol.network_ms / 4)
            passes.append(repeat(protocol.network_ms, stopwatch)[0])
    return [summarise_network(passes) for passes in calls]


def clock(work: Callable[[], object]) -> Stopwatch:
    """A stopwatch for work that is done when it returns."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def _kernel_seconds(runtime: "Runtime", kernel: Kernel, protocol: Protocol) -> float:
    seconds = kernel_seconds(
        lambda copies: runtime.kernel(kernel, copies), protocol.span_ms, protocol.kernel_ms, least_copies(kernel)
    )
    if seconds is None:
        raise LatencyError(
            f"'{kernel}' could not be timed: more of it takes no longer than one, in {ATTEMPTS} attempts; "
            "try again when the machine is quieter"
        )
    return seconds


def summarise_passes(seconds: Sequence[float]) -> Timing:
    """A kernel's timing from its seconds in each pass."""
    median = statistics.median(seconds)
    # Rounded as the table's file is, so that a table read back is the table that was written.
    return Timing(
        round(min(seconds) * 1e6, 3),
        round(median * 1e6, 3),
        round((max(seconds) - min(seconds)) / median, 4),
        len(seconds),
    )


def summarise_network(passes: Sequence[Sequence[float]]) -> Measured:
    """A network's measurement from the seconds of its calls in each pass."""
    calls = sorted(1e3 * seconds for single in passes for seconds in single)
    rounds = tuple(1e3 * statistics.quantiles(single, n=4)[0] for single in passes)
    return Measured(min(rounds), statistics.median(calls), calls[int(0.95 * (len(calls) - 1))], calls[0], rounds)
