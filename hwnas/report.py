"""What a finished run shows, all read off the manifest: the table, ``front.csv`` and ``front.png``."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwnas import manifest as manifests
from hwnas.export import copy_predict
from hwnas.manifest import Manifest, Model, Network
from hwnas.plot import Point, draw
from hwnas.quantities import LATENCY, format_quantity, on_device, round_quantity
from spaces.wholefile import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from latency import Latency
    from latency.prediction import Sums


def write(folder: Path, manifest: Manifest, archive: Sequence[Point] = ()) -> None:
    """Write manifest, ``front.csv``, ``front.png`` and ``predict.py`` into a run folder.

    Args:
        folder: the run folder; the ONNX files are already in its ``front``.
        manifest: what to report.
        archive: what the search saw on the way, for the picture.

    Raises:
        OSError: the folder cannot be written.
    """
    manifests.write(manifest, folder / manifests.FRONT)
    write_whole(folder / "front.csv", frame(manifest).to_csv(index=False))
    draw(
        folder / "front.png",
        [*archive, *points(manifest)],
        data=manifest.data,
        device=f"{manifest.device}, {manifest.runtime}",
        metric=manifest.metric,
        limits=_first_limits(manifest),
    )
    copy_predict(folder)


def _first_limits(manifest: Manifest) -> dict[str, float]:
    """The limits as the picture knows them, whose latency is that of the first device."""
    first = {on_device(device): LATENCY for device in manifest.devices()[:1]}
    return {first.get(name, name): limit for name, limit in manifest.limits.items()}


def frame(manifest: Manifest) -> "pd.DataFrame":
    """The front as a table: one row a model, best validation accuracy first, then the reference rows.

    Units stand in the column names; the latency columns carry the device's name where there are several devices.
    """
    import pandas as pd  # a third of a second that `hwnas --help` need not wait for

    return pd.DataFrame([_row(network, manifest.devices()) for network in _ordered(manifest)])


def points(manifest: Manifest) -> list[Point]:
    """The front and the references as marks in the picture; latency is that of the first device."""
    first = manifest.devices()[:1]
    marks = []
    for network in _ordered(manifest):
        latency = network.latency.get(first[0]) if first else None
        front = isinstance(network, Model)
        marks.append(
            Point(
                kind="front" if front else "reference",
                accuracy=network.accuracy.val,
                latency_ms=(latency.p50_ms or latency.predicted_ms) if latency else None,
                params=network.params,
                macs=network.macs,
                label="" if front else f"{network.id}, {network.epochs:.2g} epochs",
            )
        )
    return marks


def table(manifest: Manifest) -> Table:
    """The front for a terminal, best validation accuracy first, references below a rule."""
    devices = manifest.devices()
    latencies = [_latency_header(device, devices) for device in devices]
    grid = _grid("val %", "±", "test %", *latencies, "params", "MACs", "epochs")
    grid.add_column("", overflow="fold")
    for network in _ordered(manifest):
        front = isinstance(network, Model)
        accuracy = network.accuracy
        grid.add_row(
            Path(network.file).stem if isinstance(network, Model) else network.id,
            f"{accuracy.val:.2%}".rstrip("%"),
            f"{accuracy.val_stderr:.2%}".rstrip("%"),
            "-" if accuracy.test is None else f"{accuracy.test:.2%}".rstrip("%"),
            *(milliseconds(network, device) for device in devices),
            f"{network.params:,}",
            round_quantity("macs", network.macs),
            f"{network.epochs:.3g}",
            _remark(network),
            style="" if front else "dim",
        )
    return grid


def milliseconds(network: Network, device: str) -> str:
    """Measured median on `device`, else ``~`` and the prediction, else a dash; three digits."""
    latency = network.latency.get(device)
    if latency is None:
        return "-"
    if latency.p50_ms is not None:
        return f"{latency.p50_ms:.3g}"
    return "-" if latency.predicted_ms is None else f"~{latency.predicted_ms:.3g}"


def example_limit(manifest: Manifest) -> str | None:
    """A limit on which the front can be tried out: what its middle network needs, rounded up; None for fewer than two.

    Latency where one device has it for all models, else parameters.
    """
    if len(manifest.models) < 2:
        return None
    devices = manifest.devices()
    costs = [model.latency[devices[0]].p50_ms for model in manifest.models if len(devices) == 1 and model.latency]
    name, values = "latency", [cost for cost in costs if cost is not None]
    if len(values) < len(manifest.models):
        name, values = "params", [float(model.params) for model in manifest.models]
    middle = sorted(values)[len(values) // 2]
    step = 10.0 ** (math.floor(math.log10(middle)) - 1)
    rounded = float(f"{math.ceil(middle / step) * step:.2g}")  # 0.0096, not 0.009600000000000001
    return f"{name}={format_quantity(name, rounded)}"


def check_table(networks: "pd.DataFrame") -> Table:
    """Predicted against measured latency for a terminal; `networks` is that of a `latency.profile.CheckReport`."""
    grid = _grid("kernels", "predicted ms", "measured ms", "error", "noise")
    for row in networks.to_dict("records"):
        grid.add_row(
            str(row["name"]),
            str(row["kernels"]),
            f"{row['predicted_ms']:.3g}",
            f"{row['measured_ms']:.3g}",
            f"{row['error']:+.1%}",
            f"{row['noise']:.1%}",
        )
    return grid


def launch_table(names: Sequence[str], sums: "Sequence[Sums]") -> Table:
    """Eager against graph, for a terminal: an eager network waits where launching its kernels takes longest."""
    grid = _grid("kernels", "eager ms", "as a graph ms", "")
    for name, each in zip(names, sums, strict=True):
        device = each.near_ms + each.far_ms
        bound = "launch-bound" if each.launch_ms > device else ""
        grid.add_row(name, str(each.kernels), f"{max(device, each.launch_ms):.3g}", f"{device:.3g}", bound)
    return grid


def batch_table(names: Sequence[str], batches: Sequence[int], latencies: "Sequence[Sequence[Latency]]") -> Table:
    """Predicted latencies by batch, for a terminal, with images per second; `latencies` has a row per batch."""
    grid = _grid(*(f"batch {batch}: ms (images/s)" for batch in batches))
    for name, *each in zip(names, *latencies, strict=True):
        cells = [
            f"{latency.ms:.3g} ({1e3 * batch / latency.ms:.3g})" for batch, latency in zip(batches, each, strict=True)
        ]
        grid.add_row(name, *cells)
    return grid


def console() -> Console:
    """Standard output; as wide as a table needs where nobody looks at it."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def prediction_table(names: Sequence[str], latencies: "Sequence[Latency]") -> Table:
    """Predicted latencies for a terminal."""
    grid = _grid("kernels", "estimated", "predicted ms", "interval")
    for name, latency in zip(names, latencies, strict=True):
        interval = f"{latency.low_ms:.3g} to {latency.high_ms:.3g}"
        grid.add_row(name, str(latency.kernels), str(latency.estimated), f"{latency.ms:.3g}", interval)
    return grid


def _grid(*headers: str) -> Table:
    """A table of networks, with numbers below the headers."""
    grid = Table(box=None, header_style="bold", padding=(0, 1), pad_edge=False)
    grid.add_column("network", no_wrap=True)
    for header in headers:
        grid.add_column(header, justify="right", no_wrap=True)
    return grid


def _ordered(manifest: Manifest) -> list[Network]:
    groups: tuple[Sequence[Network], ...] = (manifest.models, manifest.references)
    return [network for group in groups for network in sorted(group, key=lambda network: -network.accuracy.val)]


def _row(network: Network, devices: Sequence[str]) -> dict[str, object]:
    accuracy = network.accuracy
    row: dict[str, object] = {
        "kind": "front" if isinstance(network, Model) else "reference",
        "network": network.id,
        "val_accuracy_percent": _percent(accuracy.val),
        "val_stderr_percent": _percent(accuracy.val_stderr),
        "test_accuracy_percent": _percent(accuracy.test),
        "onnx_test_accuracy_percent": _percent(accuracy.onnx_test),
        "params": network.params,
        "macs": network.macs,
        "peak_memory_kib": None if network.peak_memory is None else round(network.peak_memory / 1024, 1),
    }
    for device in devices:
        latency = network.latency.get(device, manifests.Latency())
        suffix = f".{device}" if len(devices) > 1 else ""
        for name, value in latency.model_dump(exclude={"table", "estimated_kernels"}).items():
            row[f"latency_{name}{suffix}"] = None if value is None else float(f"{value:.4g}")
    row["epochs"] = round(network.epochs, 2)
    row["over_limits"] = " ".join(network.over_limits) if isinstance(network, Model) else None
    row["file"] = f"{manifests.FRONT}/{network.file}" if isinstance(network, Model) else None
    return row


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def _latency_header(device: str, devices: Sequence[str]) -> str:
    return "ms" if len(devices) == 1 else f"ms {device}"


def _remark(network: Network) -> Text:
    if not isinstance(network, Model):
        return Text("reference")
    return Text(f"over {', '.join(network.over_limits)}" if network.over_limits else "", style="red")
