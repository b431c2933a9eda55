"""`Latency`: what a network takes, added up from what its kernels take."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from latency.calibration import Calibration
from latency.estimate import Estimator
from latency.kernels import Kernel
from latency.memory import Memory
from latency.tablefile import Check

# Measured / predicted where nothing was checked. What a table leaves out makes networks slower than their kernels more
# often than faster.
UNCHECKED_LOW, UNCHECKED_HIGH = 0.85, 1.5
# Standard deviations on either side of the mean.
_NINE_IN_TEN = 1.645


@dataclass(frozen=True)
class Latency:
    """A predicted latency.

    Attributes:
        ms: Milliseconds for one inference of a batch.
        low_ms: Lower end of an interval that should hold nine networks in ten.
        high_ms: Its upper end.
        kernels: How many kernels the network runs.
        estimated: How many of them were not measured.
        table: The snapshot of the table that the prediction rests on.
    """

    ms: float
    low_ms: float
    high_ms: float
    kernels: int
    estimated: int
    table: str


@dataclass(frozen=True)
class Sums:
    """What the kernels of a network take together, in milliseconds.

    Attributes:
        near_ms: With weights near, at their fastest.
        median_ms: The same, by the medians of the passes.
        far_ms: What it adds that weights come from further away.
        launch_ms: What the processor takes to launch them.
        doubt_ms: Standard deviation of what was estimated.
        kernels: How many the network runs.
        estimated: How many of them are estimated.
    """

    near_ms: float
    median_ms: float
    far_ms: float
    launch_ms: float
    doubt_ms: float
    kernels: int
    estimated: int


def add_up(
    frame: pd.DataFrame,
    memory: Memory | None,
    kernels: Iterable[Kernel],
    footprint: int,
    estimator: Callable[[], Estimator],
) -> Sums:
    """What the kernels of a network take together.

    Args:
        frame: The rows of a table (see ``LatencyTable.frame``).
        memory: How far weights are on the device.
        kernels: Each as often as the network runs it.
        footprint: The network's (see ``Program.footprint``).
        estimator: Gives, where the frame lacks a kernel, what estimates it.
    """
    # Sorted, because a runtime orders independent kernels as it likes, and sums of floats depend on the order.
    counts = dict(sorted(Counter(kernels).items(), key=lambda entry: str(entry[0])))
    repeats = np.fromiter(counts.values(), float)
    columns = ["min_us", "median_us", "middle_us", "cold_us", "launch_us"]
    rows = frame.reindex([str(kernel) for kernel in counts])[columns].to_numpy()
    missing = np.flatnonzero(np.isnan(rows[:, 0]))
    doubt = 0.0
    if len(missing):
        listed = list(counts)
        us, distant, covariance = estimator().estimate([listed[i] for i in missing])
        launches = np.full(len(missing), frame["launch_us"].median())
        rows[missing] = np.column_stack([us, us, distant, launches])
        doubt = float(np.sqrt((repeats[missing] * us) @ covariance @ (repeats[missing] * us)))
    near, median, middle, cold, launch = (float(total) for total in repeats @ rows / 1e3)
    far = memory.extra(footprint, near, middle, cold) if memory else 0.0
    return Sums(near, median, far, launch, doubt / 1e3, int(repeats.sum()), int(repeats[missing].sum()))


def predict(sums: Sums, calibration: Calibration | None, check: Check | None, table: str) -> Latency:
    """A latency from its sums.

    Args:
        sums: What its kernels take.
        calibration: Of the table, if it has one.
        check: From which the interval comes; without one it is wide.
        table: The snapshot of the table.
    """
    # A device that is started kernel by kernel waits where launching takes longer.
    ms = max((calibration or Calibration()).total(sums.near_ms, sums.far_ms, sums.kernels), sums.launch_ms)
    if check:
        low, high = ms * min(1.0, check.low), ms * max(1.0, check.high)
    else:
        low, high = ms * UNCHECKED_LOW, max(sums.median_ms + sums.far_ms, ms) * UNCHECKED_HIGH
    unknown = float(np.exp(_NINE_IN_TEN * sums.doubt_ms / ms))
    return Latency(ms, low / unknown, high * unknown, sums.kernels, sums.estimated, table)
