"""The picture of a run: accuracy against latency, parameters and MACs, in one image that explains itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COSTS = {"latency": ("latency_ms", "latency (ms)"), "params": ("params", "parameters"), "macs": ("macs", "MACs")}
_TICKS = (0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 93, 95, 97, 98, 99, 99.5, 99.8, 99.9, 99.95)
_SMALLEST_ERROR = 4e-4  # the axis is logarithmic in the error, which may be 0 on a small validation split
_FRONT, _REFERENCE, _ARCHIVE, _LIMIT = "#0b6e99", "#c44e1f", "#b9c4cc", "#8a1c3b"


@dataclass(frozen=True)
class Point:
    """One network in the picture.

    Attributes:
        kind: ``archive`` (seen by the search), ``front`` (final) or ``reference`` (a stock network).
        accuracy: on the validation split, a fraction.
        latency_ms: measured, or for the archive predicted; None where unknown: it is left out of that panel.
        params: number of parameters.
        macs: multiply-accumulate operations.
        label: written beside a reference.
    """

    kind: Literal["archive", "front", "reference"]
    accuracy: float
    latency_ms: float | None
    params: float
    macs: float
    label: str = ""


def draw(
    path: Path,
    points: Sequence[Point],
    *,
    data: str,
    device: str,
    metric: str = "accuracy",
    limits: Mapping[str, float] | None = None,
) -> Path:
    """Draw `points` as three panels that share the axis of accuracies, and save them as a PNG.

    The accuracy axis is logarithmic in the error, so that 98 % and 99 % stand as far apart as 80 % and 90 %. The line
    joins the networks of the front that are best within their panel; the others are best in a trade-off that the panel
    does not show.

    Args:
        path: file to write.
        points: networks; those of the archive are drawn pale.
        data: name of the data, for the title.
        device: where latency was measured, for the title.
        metric: what "accuracy" is, for the axis.
        limits: ``latency`` (ms), ``params`` and ``macs`` limits, drawn as lines.

    Raises:
        OSError: the file cannot be written.
    """
    # matplotlib takes most of a second to import; Figure instead of pyplot needs neither a display nor a global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(_COSTS), sharey=True)
    for axes, (name, (attribute, label)) in zip(panels, _COSTS.items(), strict=True):
        placed = [(cost, point) for point in points if (cost := getattr(point, attribute))]
        _panel(axes, placed, label, (limits or {}).get(name))
    panels[0].set_ylabel(f"validation {metric} (%)")
    seen = [point.accuracy for point in points]
    shown = [point.accuracy for point in points if point.kind != "archive"] or seen
    _accuracy_axis(panels[0], [*shown, *sorted(seen)[-1:]])
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{data} on {device}", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return path


def _panel(axes: "Axes", placed: Sequence[tuple[float, Point]], label: str, limit: float | None) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(color="#e8ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not placed:
        axes.set_xticks([])
        axes.text(0.5, 0.55, "not known", transform=axes.transAxes, ha="center", color="#7a868d")
        return
    archive, front, marked = (
        [(cost, _height(point.accuracy)) for cost, point in placed if point.kind == kind]
        for kind in ("archive", "front", "reference")
    )
    filled = {"s": 44, "color": _FRONT, "edgecolors": "white", "linewidths": 0.8, "zorder": 4}
    hollow = {"s": 42, "marker": "D", "facecolors": "white", "edgecolors": _REFERENCE, "linewidths": 1.6, "zorder": 3}
    _scatter(axes, archive, "seen by the search", s=12, color=_ARCHIVE, linewidths=0, zorder=1)
    axes.plot(*zip(*_best(front), strict=True) if front else [], color=_FRONT, linewidth=1.6, zorder=2)
    _scatter(axes, front, "front, trained to the end", **filled)
    _scatter(axes, marked, "reference, same recipe", **hollow)
    if limit is not None:
        axes.axvline(limit, color=_LIMIT, linestyle=(0, (4, 3)), linewidth=1.3, label="limit", zorder=2)
    span = _cost_axis(axes, [cost for cost, _ in placed] + ([limit] if limit else []), named=bool(marked))
    _names(axes, [(cost, point) for cost, point in placed if point.label], span)


def _scatter(axes: "Axes", marks: Sequence[tuple[float, float]], label: str, **style: Any) -> None:
    if marks:  # an empty one would still show in the legend
        axes.scatter(*zip(*marks, strict=True), label=label, **style)


def _names(axes: "Axes", labelled: Sequence[tuple[float, Point]], span: float) -> None:
    """Write labels to the right of their marks, or below where another mark stands in the way."""
    from matplotlib.patheffects import withStroke

    for cost, point in labelled:
        height = _height(point.accuracy)
        crowded = any(
            1 <= other / cost < span**0.2 and abs(_height(rival.accuracy) - height) < 0.05
            for other, rival in labelled
            if rival is not point
        )
        axes.annotate(
            point.label,
            (cost, height),
            xytext=(0, -14) if crowded else (7, -3),
            textcoords="offset points",
            ha="center" if crowded else "left",
            fontsize=8,
            color=_REFERENCE,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )


def _cost_axis(axes: "Axes", costs: Sequence[float], named: bool) -> float:
    """Limits and ticks of a logarithmic axis; returns largest / smallest cost, at least 2."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    low, high = min(costs), max(costs)
    span = max(high / low, 2.0)
    room = 0.24 if named else 0.05  # for names to the right of the last mark
    axes.set_xlim(low / span**0.05, high * span**room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 300 else (1.0,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if high >= 1000 else FuncFormatter(lambda cost, _: f"{cost:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return span


def _accuracy_axis(axes: "Axes", accuracies: Sequence[float]) -> None:
    """Label heights by the accuracy they stand for; the view holds `accuracies`, what lies below falls out of it."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    heights = [_height(accuracy) for accuracy in accuracies] or [0.0, 1.0]
    margin = 0.08 * (max(heights) - min(heights)) or 0.1
    low, high = min(heights) - margin, max(heights) + margin
    axes.set_ylim(low, high)
    ticks: list[int | float] = []
    for tick in _TICKS:
        if low <= _height(tick / 100) <= high and (
            not ticks or _height(tick / 100) - _height(ticks[-1] / 100) > (high - low) / 9
        ):
            ticks.append(tick)
    axes.yaxis.set_major_locator(FixedLocator([_height(tick / 100) for tick in ticks]))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))


def _height(accuracy: float) -> float:
    return -math.log10(max(1 - accuracy, _SMALLEST_ERROR))


def _best(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (cost, height) that no other beats in both, from cheap to dear.

    >>> _best([(1, 5), (2, 4), (3, 6), (3, 5.5)])
    [(1, 5), (3, 6)]
    """
    best: list[tuple[float, float]] = []
    for cost, height in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        if not best or height > best[-1][1]:
            best.append((cost, height))
    return best
