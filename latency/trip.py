"""`Trip`: what came back from a device that ran a bundle, checked, and the table that it makes."""

import hashlib
import json
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from latency import workload
from latency.deployment import Bundled, Deployment, name_processor
from latency.kernels import Kernel
from latency.memory import MIDDLE_BYTES, PAUSES_MS, Memory
from latency.ortcpu import OrtCpu, read_graph
from latency.profile import CheckReport, judge
from latency.run_bundle import BUNDLE_FORMAT, timer_is_sound
from latency.stopwatch import BLOCK_BYTES, CLOCK_STEP
from latency.table import LatencyTable
from latency.tablefile import Row
from latency.timing import Protocol, summarise_network, summarise_passes
from latency.workload import weight_bytes
from spaces.errors import BundleError, LatencyError

MOST_BYTES = 64 << 20
"""Limit of a bundle, and of what comes back, unpacked."""

PROBE = "probe"
"""Name of the network that tells how far weights are."""

DISTANCES = {"m": MIDDLE_BYTES, "c": BLOCK_BYTES}
"""First letters of composites: how much is read between two uses of their weights."""

_MOST_SECONDS = 1e4  # of one run of anything
_MOST_FOOTPRINT = 1 << 50


@dataclass(frozen=True)
class Trip:
    """What came back from a device, checked.

    Attributes:
        number: 1 or 2.
        deployment: What it was measured on.
        version: The runtime there.
        driver: The operating system there.
        cores: Cores that the measuring process could use.
        job: What the device was asked.
        values: What it answered, by task.
        graphs: Optimised graphs by network (trip 1).
        given: The same networks as they were before (trip 1).
    """

    number: int
    deployment: Deployment
    version: str
    driver: str
    cores: int
    job: dict[str, Any]
    values: dict[str, Any]
    graphs: dict[str, onnx.ModelProto]
    given: dict[str, onnx.ModelProto]

    @property
    def warnings(self) -> list[str]:
        """What a user should know before trusting it."""
        if self.number == 1:
            names = {name: self.job["networks"][name]["name"] for name in self.values}
            return [f"the device refuses {names[name]}: {why}" for name, why in self.values.items()]
        timer = self.values["timer"]
        return [] if timer_is_sound(timer) else [f"time does not add up on the device, or its clock is coarse: {timer}"]


def read(path: Path) -> Trip:
    """What came back.

    Numbers and graphs are read, and every one is checked; nothing in it is run or unpickled.

    Raises:
        BundleError: If the file is not a result, or was cut short or changed.
    """
    if not path.is_file():
        raise BundleError(f"{path}: No such file; name the result.zip that run_bundle.py wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            if "bundle.json" in archive.namelist():
                raise ValueError("it is a bundle; what comes back is called result.zip")
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"unpacked it would be larger than {MOST_BYTES >> 20} MB")
            text = archive.read("result.json")
            if archive.read("digest").decode() != hashlib.sha256(text).hexdigest():
                raise ValueError("its content does not match its digest")
            result = json.loads(text)
            job = result["job"]
            if job["format"] != BUNDLE_FORMAT:
                raise ValueError(f"it is of format {job['format']}, this version of hwnas reads {BUNDLE_FORMAT}")
            files = {name: archive.read(f"{name}.onnx") for name in result["graphs"]}
            given = {name: archive.read(f"given/{name}.onnx") for name in result["graphs"]}
        if {name: hashlib.sha256(graph).hexdigest() for name, graph in files.items()} != result["graphs"]:
            raise ValueError("a graph does not match its digest")
        if any(hashlib.sha256(model).hexdigest() != job["files"][f"{name}.onnx"] for name, model in given.items()):
            raise ValueError("a network is not the one that was sent")
        deployment = Deployment("ort-cpu", name_processor(result["device"]), job["threads"], job["batch"])
        trip = Trip(
            job["trip"],
            deployment,
            str(result["version"]),
            str(result["device"]["system"]),
            int(result["device"]["cores"]),
            job,
            dict(result["values"]),
            {name: onnx.load_model_from_string(graph) for name, graph in files.items()},
            {name: onnx.load_model_from_string(graph) for name, graph in given.items()},
        )
        _validate(trip)
    except Exception as error:  # whatever a forged file brings about
        raise BundleError(
            f"{path} is not a whole, unchanged result of run_bundle.py: {error}; fetch it again"
        ) from error
    return trip


def table_of(trip: Trip, path: Path) -> tuple[LatencyTable, CheckReport | None]:
    """The table of the second trip, new or added to one that is there; and its check, if there were networks for one.

    Raises:
        TableError: If there is a table of another deployment or version, or it cannot be written.
    """
    runtime = OrtCpu(trip.deployment, Bundled(**trip.job["bundled"]))
    table = LatencyTable.open(runtime, path, Protocol(**trip.job["protocol"]))
    rows, networks = _rows(trip), trip.job["networks"]
    table.keep(rows.values(), _memory(trip), trip.driver, trip.cores)
    different = {frozenset(Counter(network["kernels"]).items()): name for name, network in networks.items()}
    networks = {name: networks[name] for name in different.values()}
    if len(networks) < 2:  # as for any check
        return table, None
    sums = [
        table.sums([rows[name].kernel for name in network["kernels"]], network["footprint"])
        for network in networks.values()
    ]
    measured = [summarise_network(_passes(trip, name)) for name in networks]
    return table, judge(table, [network["name"] for network in networks.values()], sums, measured)


def _rows(trip: Trip) -> dict[str, Row]:
    """The rows of the table: kernels, timings, and what distant weights add in microseconds."""
    kernels = {name: Kernel.parse(line) for name, line in trip.job["kernels"].items()}
    timings = {name: summarise_passes(_passes(trip, name)) for name in kernels}
    distant = {letter: dict.fromkeys(kernels, 0.0) for letter in DISTANCES}
    for composite, names in trip.job["composites"].items():
        distant[composite[0]] |= {name: trip.values[composite][str(i)] for i, name in enumerate(names)}
    middle, cold = distant.values()
    for task, turns in trip.job["far"].items():
        name = task.removeprefix("f")
        cold[name] = max(0.0, 1e6 * trip.values[task] / turns - timings[name].min_us)
    return {
        name: Row(kernel, timings[name], min(middle[name], cold[name]), cold[name]) for name, kernel in kernels.items()
    }


def _passes(trip: Trip, task: str) -> list[Any]:
    turns = trip.job["rounds"] if task in trip.job["networks"] else trip.job["protocol"]["passes"]
    return [trip.values[f"{task}/{turn}"] for turn in range(turns)]


def _memory(trip: Trip) -> Memory:
    times: dict[str, list[float]] = {}
    for task, (kernel, _, nodes) in trip.job["probes"].items():
        times.setdefault(kernel, []).append(min(_passes(trip, task)) / nodes)
    paused = [
        [trip.values[f"{task}/{ms} ms"] / trip.job["probes"][task][2] for ms in pauses]
        for task, pauses in trip.job["pauses_ms"].items()
    ]
    return Memory.measured(workload.PROBED_MB, list(times.values()), PAUSES_MS, paused)


def _validate(trip: Trip) -> None:
    """Whether there is an answer to everything that was asked, and every number is one that can be.

    Raises:
        Exception: Of any class, if not: what is missing may show only as it is needed.
    """
    job = trip.job
    if not all(type(job[name]) is int for name in ("threads", "batch")):
        raise ValueError("threads and batch must be whole numbers")
    if not (trip.version.isprintable() and trip.driver.isprintable()):
        raise ValueError("the names of its runtime and system must be of one line")
    Protocol(**job["protocol"])
    if trip.number == 1:
        _validate_graphs(trip)
    elif trip.number == 2:
        _validate_times(trip)
        with TemporaryDirectory() as folder:  # a table that exists is touched only by what makes a good one
            table, _ = table_of(trip, Path(folder) / "table.csv")
            LatencyTable.open(table.runtime, table.path)
    else:
        raise ValueError(f"there is no trip {trip.number}")


def _validate_graphs(trip: Trip) -> None:
    networks = trip.job["networks"]
    if PROBE in trip.values:
        raise ValueError(f"the device refuses the simplest of networks: {trip.values[PROBE]}")
    if {*trip.graphs, *trip.values} != {*networks} or PROBE not in trip.graphs:
        raise ValueError("graphs are missing")
    if not all(isinstance(network["name"], str) and network["judge"] in (True, False) for network in networks.values()):
        raise ValueError("a network has no name")
    for graph in trip.graphs.values():
        with suppress(LatencyError):  # an operator that is not known: whoever packs its kernels says so
            read_graph(graph)


def _validate_times(trip: Trip) -> None:
    job = trip.job
    if (trip.deployment.device, trip.version) != (job["device"], job["bundled"]["version"]):
        raise ValueError(
            f"its networks were optimised by {job['bundled']['version']} on {job['device']}, their kernels timed by "
            f"{trip.version} on {trip.deployment.device}: both must be the same"
        )
    if job["rounds"] < 2 or not all(network["kernels"] for network in job["networks"].values()):
        raise ValueError("a network was not measured")
    if not all(0 < network["footprint"] <= _MOST_FOOTPRINT for network in job["networks"].values()):
        raise ValueError("a network's footprint is no number of bytes that can be")
    numbers = [value for name in (*job["kernels"], *job["probes"]) for value in _passes(trip, name)]
    numbers += [trip.values[name] for name in job["far"]]
    numbers += [trip.values[f"{name}/{ms} ms"] for name, pauses in job["pauses_ms"].items() for ms in pauses]
    rounds = [calls for name in job["networks"] for calls in _passes(trip, name)]
    if not all(len(calls) > 1 for calls in rounds):
        raise ValueError("a network was not measured")
    numbers += [value for calls in rounds for value in calls]
    if not all(isinstance(number, float) and CLOCK_STEP <= number <= _MOST_SECONDS for number in numbers):
        raise ValueError("a time is missing, or cannot be one")
    distant = {letter: set[str]() for letter in DISTANCES}
    for composite, names in job["composites"].items():
        extra = trip.values[composite]
        if extra is None:
            raise ValueError(f"{trip.version} there does not run independent nodes in order, so it cannot be measured")
        if not all(0 <= extra[str(i)] <= 1e6 * _MOST_SECONDS for i in range(len(names))):
            raise ValueError("what cold weights add cannot be that")
        distant[composite[0]] |= {*names}
    for name, line in job["kernels"].items():
        weights = weight_bytes(Kernel.parse(line))
        if weights > workload.NEAR_BYTES:
            known = f"f{name}" in job["far"]
        else:
            known = not weights or all(name in names for names in distant.values())
        if not known:
            raise ValueError(f"what cold weights add to {line} is missing")
    timer_is_sound(trip.values["timer"])  # sound or not, it must be there
