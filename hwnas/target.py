"""`Target`: a device on which latency counts, and the table that knows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from hwnas import manifest as manifests
from hwnas.quantities import LATENCY, on_device
from hwnas.spec import Spec
from latency import Deployment, LatencyTable, cache_path, make_runtime, measure_many
from latency.tablefile import read
from objectives import cost
from objectives.base import Objective
from spaces.errors import SpecError
from spaces.wholefile import write_whole


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        objective: What its latency is called: `latency`, or `latency.NAME` where a specification names devices.
        device: The key of its latencies in a manifest.
        table: Its kernels.
        estimates: Whether kernels that the table lacks are estimated.
    """

    objective: str
    device: str
    table: LatencyTable
    estimates: bool = False

    @property
    def here(self) -> bool:
        """Whether networks can be measured on it now."""
        return self.table.runtime.here

    def cheap(self) -> Objective:
        """Its latency as something to minimise."""
        return cost.latency(self.table, self.objective, allow_estimates=self.estimates)

    def latencies(self, files: Sequence[onnx.ModelProto]) -> list[manifests.Latency]:
        """Predicted, and measured where the device is here."""
        predicted = self.table.predict_many(files, allow_estimates=self.estimates)
        found = [
            manifests.Latency(
                predicted_ms=one.ms,
                low_ms=one.low_ms,
                high_ms=one.high_ms,
                estimated_kernels=one.estimated,
                table=one.table,
            )
            for one in predicted
        ]
        if not self.here:
            return found
        measured = measure_many(self.table.runtime, files, self.table.header.protocol)
        return [
            known.model_copy(update={"p50_ms": one.p50_ms, "p95_ms": one.p95_ms})
            for known, one in zip(found, measured, strict=True)
        ]


def targets(spec: Spec, folder: Path, note: Callable[[str], None]) -> list[Target]:
    """The devices of a specification: those whose tables it names, or this machine.

    Each has a table of its own in the run folder, so that a study's predictions do not change under it. One of this
    machine grows as the search meets new kernels, and so does the table that it came from.

    Args:
        spec: Names the devices.
        folder: The run folder.
        note: Is told if a table that several studies share cannot be used.

    Raises:
        SpecError: The tables are of different batches.
        TableError: A table cannot be read, or used here.
    """
    if not spec.latency:
        deployment = Deployment.here(**dict(spec.deployment))
        runtime = make_runtime(deployment)
        table = LatencyTable.open(runtime, folder / TABLE_FILE, shared=cache_path(runtime), note=note)
        return [Target(LATENCY, deployment.key, table)]
    found = [
        Target(on_device(name), name, table, spec.allow_estimates and not table.runtime.here)
        for name, file in spec.latency.items()
        for table in [_open(Path(file), folder / f"{name}-{TABLE_FILE}", note)]
    ]
    batches = {target.device: target.table.header.deployment.batch for target in found}
    if len(set(batches.values())) > 1:
        listed = ", ".join(f"{name}: {batch}" for name, batch in batches.items())
        raise SpecError(f"latency: the tables are of different batches ({listed}), but a file has one; take equal ones")
    return found


TABLE_FILE = "latency.csv"
"""A study's own table, in its run folder; that of a device that the specification names has the name before it."""


def _open(file: Path, own: Path, note: Callable[[str], None]) -> LatencyTable:
    header, _ = read(own if own.exists() else file)
    runtime = make_runtime(header.deployment, header.bundled)
    if runtime.here:
        return LatencyTable.open(runtime, own, shared=file, note=note)
    if not own.exists():
        write_whole(own, file.read_bytes())
    return LatencyTable.open(runtime, own)
