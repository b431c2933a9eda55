"""Profiling: building a table for networks, and checking whether it is to be trusted."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from scipy.stats import kendalltau

from latency.calibration import Calibration
from latency.prediction import UNCHECKED_HIGH, UNCHECKED_LOW, Sums
from latency.runtimes import Runtime
from latency.table import LatencyTable, now
from latency.tablefile import Check
from latency.timing import Measured, Protocol, measure_many
from spaces.errors import LatencyError

_ROUNDS = 6
_DRIFT = 0.05  # by so much a machine is faster or slower from one minute to the next: no reason for a calibration
_ENOUGH = 19  # networks, for bounds that nine in ten lie within to be among those observed


@dataclass(frozen=True)
class CheckReport:
    """Predictions of a table held against measurements of whole networks.

    Attributes:
        check: The result in numbers, as the table's header keeps it.
        networks: A row per network: ``name``, ``kernels``, ``predicted_ms`` (if calibrated anew, to the others),
            ``measured_ms`` (quiet), ``p50_ms``, ``p95_ms``, ``error`` (predicted / measured - 1) and ``noise``
            (relative difference between two measurements of it).
        calibration: To all networks, if the table was calibrated anew.
    """

    check: Check
    networks: pd.DataFrame
    calibration: Calibration | None = None

    def __str__(self) -> str:
        check, fitted = self.check, ""
        if self.calibration:
            found = self.calibration
            fitted = (
                ". Each was predicted by a calibration to the others; to all: "
                f"{found.near} x near, {found.far} x distant weights, {found.handover_us} us x kernels"
            )
        few = "" if check.networks >= _ENOUGH else f" (a guess: fewer than {_ENOUGH} networks cannot tell)"
        tau = "undefined" if check.kendall_tau is None else f"{check.kendall_tau:.3f}"
        return (
            f"{check.networks} networks: mean error {check.mape:.1%} (noise floor {check.noise_floor:.1%}), "
            f"{check.within_5:.0%} within 5 %, {check.within_10:.0%} within 10 %, Kendall tau {tau}; "
            f"nine in ten measure between {check.low:.2f} and {check.high:.2f} times their prediction{few}{fitted}"
        )


def profile(
    runtime: Runtime,
    models: Sequence[onnx.ModelProto],
    path: Path | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Build a table that holds every kernel of some networks, or extend the one that is there.

    Args:
        runtime: The runtime to measure with.
        models: Networks whose kernels are wanted.
        path: The table's file; None for the one under the user's cache directory.
        protocol: How a new table measures; a table that exists goes on as it began.
        progress: Called with the number of kernels done and of all that are missing.

    Raises:
        TableError: If the file is damaged, of another deployment or version, or cannot be written.
        LatencyError: If a network cannot be lowered or a kernel not be timed.
    """
    table = LatencyTable.open(runtime, path, protocol)
    table.extend((kernel for model in models for kernel in runtime.lower(model).kernels), progress)
    return table


def check(
    table: LatencyTable, models: Sequence[onnx.ModelProto], rounds: int = _ROUNDS, *, recalibrate: bool = True
) -> CheckReport:
    """Hold a table's predictions against measurements of whole networks, and keep the result in its header.

    The networks are measured interleaved, as the kernels are. Kernels that the table lacks are measured first.
    From then on the table's intervals hold nine in ten networks of the kind that was checked; for that, take at least
    19 of them at random. Fewer, such as several of the same kernels, which count as one, never make the intervals
    narrower than they are without a check.

    Args:
        table: The table, of this machine.
        models: Networks, best ones that the table was not built for, drawn as those that it will predict.
        rounds: Passes over the networks.
        recalibrate: Whether a calibration that the table has is replaced by one to these networks. Otherwise it is only
            where that errs on one side for nine in ten, by more than 5 %: it then comes from networks of another kind.

    Raises:
        LatencyError: If there are fewer than two different networks, or the table is not of this machine.
    """
    if not table.runtime.here:
        raise LatencyError(
            f"a check measures networks, and this machine is not {table.header.deployment}; run it there"
        )
    if rounds < 2:
        raise LatencyError(f"rounds={rounds}, but the noise floor compares odd rounds with even ones: take at least 2")
    lowered = [(model, table.runtime.lower(model)) for model in models]
    different = {frozenset(Counter(program.kernels).items()): (model, program) for model, program in lowered}
    if len(different) < 2:
        raise LatencyError(f"a check needs at least 2 different networks, not {len(different)}; name more of them")
    models, programs = zip(*different.values(), strict=True)
    table.extend(kernel for program in programs for kernel in program.kernels)
    protocol = table.header.protocol
    # Many short rounds: noise comes in spells, and a study waits for its check.
    measured = measure_many(table.runtime, models, replace(protocol, network_ms=protocol.network_ms / 3), rounds)
    sums = [table.sums(program.kernels, program.footprint) for program in programs]
    return judge(table, [model.graph.name for model in models], sums, measured, recalibrate=recalibrate)


def judge(
    table: LatencyTable,
    names: Sequence[str],
    sums: Sequence[Sums],
    measured: Sequence[Measured],
    *,
    recalibrate: bool = True,
) -> CheckReport:
    """Hold a table against measurements of networks; see ``check``.

    Where the table is calibrated anew, each network is predicted by a calibration to the others. The result is kept in
    the table's header, unless one is there of more networks.
    """
    parts = [each.near_ms for each in sums], [each.far_ms for each in sums], [each.kernels for each in sums]
    quiet = [result.quiet_ms for result in measured]
    known, calibration = table.header.calibration, None
    if known is not None:
        predicted = [known.total(*each) for each in zip(*parts, strict=True)]
        low, high = _interval(np.divide(quiet, predicted))
        recalibrate = recalibrate or not low - _DRIFT <= 1 <= high + _DRIFT
    if recalibrate or known is None:
        calibration, predicted = Calibration.fitted(*parts, quiet), Calibration.left_out(*parts, quiet)
    predicted = [max(one, each.launch_ms) for one, each in zip(predicted, sums, strict=True)]
    networks = pd.DataFrame(
        {
            "name": names,
            "kernels": [each.kernels for each in sums],
            "predicted_ms": predicted,
            "measured_ms": quiet,
            "p50_ms": [result.p50_ms for result in measured],
            "p95_ms": [result.p95_ms for result in measured],
        }
    )
    networks["error"] = networks["predicted_ms"] / networks["measured_ms"] - 1
    networks["noise"] = [noise(result.rounds) for result in measured]
    result = summarise(networks)
    before = table.header.check
    if before is None or before.networks <= result.networks:
        table.record(result, calibration)
    return CheckReport(result, networks, calibration)


def summarise(networks: pd.DataFrame) -> Check:
    """The numbers of a check from its networks (columns ``predicted_ms``, ``measured_ms``, ``noise``).

    >>> frame = pd.DataFrame({"predicted_ms": [1.0, 2.0], "measured_ms": [1.0, 2.5], "noise": [0.01, 0.03]})
    >>> result = summarise(frame)
    >>> round(result.mape, 3), result.within_5, result.kendall_tau, result.noise_floor
    (0.1, 0.5, 1.0, 0.02)
    """
    predicted, measured = networks["predicted_ms"].to_numpy(float), networks["measured_ms"].to_numpy(float)
    error = np.abs(predicted / measured - 1)
    tau = float(kendalltau(predicted, measured).statistic)
    low, high = _interval(measured / predicted)
    return Check(
        networks=len(networks),
        mape=float(error.mean()),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        kendall_tau=None if math.isnan(tau) else tau,
        noise_floor=float(networks["noise"].mean()),
        low=low,
        high=high,
        date=now(),
    )


def _interval(ratios: np.ndarray) -> tuple[float, float]:
    """Bounds that hold the next network with a probability of 90 %, whatever the distribution (split conformal).

    With fewer than 19 networks no observed value is a bound of that kind; the default bounds then join in.
    """
    ordered, n = np.sort(ratios), len(ratios)
    rank = (n + 1) // 20
    if n >= _ENOUGH:
        return float(ordered[rank - 1]), float(ordered[n - rank])
    return min(UNCHECKED_LOW, float(ordered[0])), max(UNCHECKED_HIGH, float(ordered[-1]))


def noise(rounds: Sequence[float]) -> float:
    """How far apart the quiet latencies of the odd and of the even rounds are: the same network, measured twice."""
    first, second = min(rounds[0::2]), min(rounds[1::2])
    return 2 * abs(first - second) / (first + second)
