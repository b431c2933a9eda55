"""Bundles: a latency table for a device that has onnxruntime and numpy, and not this project.

Two trips, because which kernels a network runs depends on the device. First the device optimises networks and returns
the graphs; then it times their kernels, what cold weights add, its memory, and some networks whole, for the check.
A bundle is a zip file with ``run_bundle.py`` in it; what comes back is a ``trip``.
"""

import hashlib
import inspect
import json
import re
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from latency import run_bundle, stopwatch, workload
from latency.deployment import Bundled, Deployment, instructions
from latency.kernels import Kernel
from latency.memory import MB, MIDDLE_BYTES, PAUSES_MS
from latency.ortcpu import LEVELS, OrtCpu, read_graph
from latency.run_bundle import BUNDLE_FORMAT, DEGREE
from latency.shapes import Program, fix_batch
from latency.stopwatch import LADDER
from latency.timing import Protocol
from latency.trip import DISTANCES, MOST_BYTES, PROBE, Trip
from latency.workload import Workload, weight_bytes
from spaces.errors import BundleError, LatencyError, SpecError

_ROUNDS = 6


def pack(
    path: Path,
    models: Sequence[onnx.ModelProto],
    judges: Sequence[onnx.ModelProto] = (),
    *,
    threads: int = 1,
    batch: int = 1,
    protocol: Protocol | None = None,
) -> None:
    """Write the bundle of the first trip.

    Args:
        path: The zip file.
        models: Networks whose kernels are wanted.
        judges: Networks that are measured whole, too, to judge the table by.
        threads: Threads that one inference may use on the device.
        batch: Images per inference.
        protocol: How things are timed; None for the default.

    Raises:
        BundleError: If it would be larger than ``MOST_BYTES``, or cannot be written, or would replace another file.
        LatencyError: If a network cannot be bundled.
        SpecError: If threads or batch are less than 1.
    """
    for name, value in (("threads", threads), ("batch", batch)):
        if value < 1:
            raise SpecError(f"{name}={value} must be at least 1")
    protocol = protocol or Protocol()
    named = {f"n{i}": model for i, model in enumerate((*models, *judges))}
    works = {name: workload.network(fix_batch(model, batch)) for name, model in named.items()}
    works[PROBE] = workload.network(workload.probe_network(batch))
    job = {
        "trip": 1,
        "threads": threads,
        "batch": batch,
        "protocol": asdict(protocol),
        "networks": {
            name: {"name": work.model.graph.name, "judge": i >= len(models) and name != PROBE}
            for i, (name, work) in enumerate(works.items())
        },
    }
    _write(path, job, works)


def pack_kernels(path: Path, trip: Trip) -> int:
    """Write the bundle of the second trip, from what came back from the first; how many kernels it has.

    Raises:
        BundleError: If it would be too large, or cannot be written.
        LatencyError: If a graph has an operator that is not known.
    """
    programs = {name: read_graph(graph) for name, graph in trip.graphs.items()}
    lines: dict[Kernel, str] = {}
    for program in programs.values():
        for kernel in program.kernels:
            lines.setdefault(kernel, f"k{len(lines)}")
    works: dict[str, Workload] = {}
    far: dict[str, int] = {}
    for kernel, name in lines.items():
        if kernel.op == workload.CALL:
            works[f"{name}_1"] = workload.call(kernel)
            continue
        works |= {f"{name}_{1 + count}": workload.in_company(kernel, 1 + count) for count in (0, *LADDER)}
        if weight_bytes(kernel) > workload.NEAR_BYTES:
            works[f"f{name}"], far[f"f{name}"] = workload.far(kernel)
    composites: dict[str, list[str]] = {}
    small = [kernel for kernel in lines if 0 < weight_bytes(kernel) <= workload.NEAR_BYTES]
    for letter, nbytes in DISTANCES.items():
        for i, (part, work) in enumerate(workload.composites(small, nbytes)):
            works[f"{letter}{i}"], composites[f"{letter}{i}"] = work, [lines[kernel] for kernel in part]
    probed = [kernel for kernel in programs[PROBE].kernels if kernel.constants]
    probes: dict[str, tuple[str, float, int]] = {}
    for i, (kernel, mb, nodes, work) in enumerate(workload.probes(probed)):
        works[f"p{i}"], probes[f"p{i}"] = work, (lines[kernel], mb, nodes)
    works |= {f"timer_{count}": workload.copies(probed[0], count) for count in (1, 1 + DEGREE // 4, 1 + DEGREE)}
    networks = {}
    for name, program in programs.items():
        if trip.job["networks"][name]["judge"]:
            networks[name] = {
                "name": trip.job["networks"][name]["name"],
                "kernels": [lines[kernel] for kernel in program.kernels],
                "footprint": program.footprint,
            }
            works[name] = workload.network(trip.graphs[name])
    job = {
        "trip": 2,
        "threads": trip.job["threads"],
        "batch": trip.job["batch"],
        "protocol": trip.job["protocol"],
        "rounds": _ROUNDS,
        "device": trip.deployment.device,
        "kernels": {name: str(kernel) for kernel, name in lines.items()},
        "least": {name: workload.least_copies(kernel) for kernel, name in lines.items()},
        "calls": [name for kernel, name in lines.items() if kernel.op == workload.CALL],
        "far": far,
        "composites": composites,
        "probes": probes,
        "pauses_ms": {name: PAUSES_MS for name, (_, mb, _) in probes.items() if mb * MB == MIDDLE_BYTES},
        "networks": networks,
        "bundled": asdict(_bundled(trip, programs)),
    }
    _write(path, job, works)
    return len(lines)


def _bundled(trip: Trip, programs: dict[str, Program]) -> Bundled:
    """How this machine's runtime can be made to give the same graphs as the device's, if it can."""
    here = OrtCpu(Deployment.here(batch=trip.deployment.batch))
    wanted = {name: sorted(map(str, program.kernels)) for name, program in programs.items()}
    with suppress(LatencyError):  # this machine's runtime may not take a network that the device's does
        for level in LEVELS:
            found = {name: sorted(map(str, here.lower_at(level, trip.given[name]).kernels)) for name in wanted}
            if found == wanted:
                return Bundled(trip.version, here.version, level, instructions(here.deployment.device))
    return Bundled(trip.version)


def _runner() -> str:
    """The two files that measure on a device as one, which needs nothing of this project."""
    both = f"{inspect.getsource(stopwatch)}\n\n{inspect.getsource(run_bundle)}"
    joined, imports = re.subn(r"^from latency\.stopwatch import (?:\([^)]*\)|.*)\n", "", both, flags=re.M)
    assert imports == 1
    return joined


def _write(path: Path, job: dict[str, Any], works: dict[str, Workload]) -> None:
    files = {f"{name}.onnx": work.model.SerializeToString() for name, work in works.items()}
    files["weights.json"] = json.dumps({name: work.weights for name, work in works.items()}).encode()
    files["run_bundle.py"] = _runner().encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["bundle.json"] = json.dumps({"format": BUNDLE_FORMAT, **job, "files": digests}).encode()
    size = sum(map(len, files.values()))
    if size > MOST_BYTES:
        raise BundleError(
            f"{path} would be {size >> 20} MB large, unpacked; the limit is {MOST_BYTES >> 20}: take fewer networks"
        )
    try:
        if path.exists() and not _is_bundle(path):
            raise BundleError(f"{path} is there and no bundle; choose another file, such as {path.stem}-bundle.zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    except OSError as error:
        raise BundleError(f"cannot write the bundle {path}: {error}; choose another file") from error


def _is_bundle(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "bundle.json" in archive.namelist()
