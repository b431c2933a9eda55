"""Measures latencies with ONNX Runtime. This file needs nothing but onnxruntime and numpy.

As a part of hwnas it measures this machine; copied to a device inside a bundle it measures that one, in the same way.

Models come without their weights, which do not decide how long anything takes: every weight is a stretch of one block
of random numbers. Random, since a session keeps only one copy of weights that are equal once they are packed; and in
pages of ordinary size, as the weights of an application are.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

BLOCK_BYTES = 128 << 20  # more than the caches of most processors hold
LADDER = (2, 4, 8, 16, 32, 64)  # how many copies of a kernel are timed
CACHE_LINE = 64
LARGE_BYTES = 4096  # constants that decide what a kernel does are much smaller
CLOCK_STEP = 1e-9  # what no clock resolves: less is noise, or a kernel that did not run
ATTEMPTS = 5
PROBE_MS = 10.0
_NUMPY = {"float": "f4", "float16": "f2", "double": "f8", "int64": "i8", "int32": "i4", "int8": "i1", "uint8": "u1"}

Stopwatch = Callable[[], float]  # does its work once and returns the seconds it took
# A weight's name, the first of its floats in the block, its shape, and its scale: numbers of either sign within it, or
# where it is 0 those of the block as they are.
Weight = tuple[str, int, Sequence[int], float]


@lru_cache(maxsize=1)
def block() -> np.ndarray:
    """Numbers between 0.5 and 1.5, which a variance may be and which never decay into denormal ones."""
    numbers = np.frombuffer(mmap.mmap(-1, BLOCK_BYTES), np.float32)
    np.random.default_rng(0).random(out=numbers, dtype=np.float32)
    numbers += 0.5
    return numbers


def ones(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An array of ones that starts at the start of a cache line, as a runtime's own tensors do.

    Elsewhere a depthwise convolution takes a tenth longer.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    array = memory[start : start + size].view(dtype).reshape(shape)
    array[...] = 1
    return array


def session_options(threads: int, optimise: bool = False) -> ort.SessionOptions:
    """How every session is set up; the deployment's threads are those of one inference."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Saving a graph optimised for one processor warns that it is; that is what it is for.
    options.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    # With a plan of memory made in advance every copy would write to a place of its own, as kernels do not.
    options.enable_mem_pattern = optimise
    if not optimise:
        # Two sessions take turns; the idle one's threads would wait busily and take the cores from the other.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def session(model: bytes, weights: Sequence[Weight], options: ort.SessionOptions) -> ort.InferenceSession:
    """A session on a model's bytes, with weights from the block."""
    if weights:
        values = []
        for _, start, shape, scale in weights:
            size = int(np.prod(shape, dtype=np.int64))
            numbers = block()[start : start + size] if start + size <= len(block()) else ones([size], "f4")
            numbers = (numbers - 1) * np.float32(2 * scale) if scale else numbers
            values.append(ort.OrtValue.ortvalue_from_numpy(numbers.reshape(shape)))
        options.add_external_initializers([weight[0] for weight in weights], values)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(made: ort.InferenceSession) -> dict[str, np.ndarray]:
    """What a session reads: ones."""
    return {each.name: ones(each.shape, _NUMPY.get(each.type[7:-1], each.type[7:-1])) for each in made.get_inputs()}


def stopwatch(made: ort.InferenceSession, calls: int = 1) -> Stopwatch:
    """A function that runs a session so many times and returns the seconds it took."""
    images = feed(made)
    made.run(None, images)

    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            made.run(None, images)
        return time.perf_counter() - start

    return seconds


def repeat(budget_ms: float, *stopwatches: Stopwatch, least: int = 5, most: int = 200) -> list[list[float]]:
    """Run stopwatches in turn until the time is used up; seconds of every run, per stopwatch."""
    results: list[list[float]] = [[] for _ in stopwatches]
    end = time.perf_counter() + budget_ms / 1e3
    while len(results[0]) < least or (time.perf_counter() < end and len(results[0]) < most):
        for each, result in zip(stopwatches, results):
            result.append(each())
    return results


def warm(each: Stopwatch, budget_ms: float) -> float:
    """Run a stopwatch until caches, clock rates and allocators have settled; return the fastest run in seconds."""
    return min(repeat(budget_ms, each, least=2)[0])


def kernel_seconds(prepare: Callable[[int], Stopwatch], span_ms: float, kernel_ms: float) -> float | None:
    """Seconds of one kernel in a net of equal ones; ``prepare`` makes the stopwatch of so many copies.

    Returns None if more copies take no longer than one, however often it is tried.
    """
    for _ in range(ATTEMPTS):
        single = prepare(1)
        once = max(CLOCK_STEP, warm(single, 0))
        copies = max([LADDER[0], *(step for step in LADDER if step * once <= span_ms / 1e3)])
        several = prepare(1 + copies)
        several()
        alone, together = repeat(kernel_ms, single, several, least=3, most=40)
        seconds = (min(together) - min(alone)) / copies
        if seconds >= CLOCK_STEP:  # which NaN is not
            return seconds
    return None


def node_us(model: bytes, weights: Sequence[Weight], threads: int, runs: int) -> dict[str, list[float]]:
    """Microseconds of every node in every run but the first, by its name, in the order in which they run."""
    options = session_options(threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        made = session(model, weights, options)
        images = feed(made)
        for _ in range(1 + runs):
            made.run(None, images)
        events = json.loads(Path(made.end_profiling()).read_text())
    suffix = "_kernel_time"
    events = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(suffix)]
    found: dict[str, list[float]] = {}
    for event in sorted(events, key=lambda event: event["ts"]):
        found.setdefault(event["name"][: -len(suffix)], []).append(event["dur"])
    return {name: times[1:] for name, times in found.items()}


def cold_us(model: bytes, weights: Sequence[Weight], threads: int, runs: int = 10) -> dict[str, float] | None:
    """What each kernel of a composite session takes longer when its weights come from memory.

    A composite holds each kernel four times, named ``NUMBER_other``, ``NUMBER_same0``, ``NUMBER_same1`` and
    ``NUMBER_more``: whichever way the runtime walks through them, other weights than the kernel's come first, then the
    same ones twice, cold and warm. Returns microseconds by number, or None if the runtime went another way.
    """
    times = node_us(model, weights, threads, runs)
    order = list(times)
    found: dict[str, float] = {}
    for place, name in enumerate(order):
        number, _, copy = name.partition("_")
        if copy.startswith("same") and number not in found:
            before, after = order[place - 1] if place else "", order[place + 1] if place + 1 < len(order) else ""
            if not before.startswith(number + "_") or not after.startswith(number + "_same"):
                return None
            found[number] = max(0.0, _quiet(times[name]) - _quiet(times[after]))
    return {number: found[number] for number in sorted(found, key=int)}


def _quiet(times: Sequence[float]) -> float:
    """Mean of the lower half: the profiler counts in whole microseconds."""
    return float(np.mean(sorted(times)[: len(times) // 2 + 1]))


# What follows runs a bundle.

BUNDLE_FORMAT = 1
DEGREE = 64  # how many copies the timer is tried with


def main() -> int:
    """Run the bundle that lies beside this file; start it again after an interruption, and it goes on."""
    folder = Path(__file__).resolve().parent
    try:
        job = json.loads((folder / "bundle.json").read_text())
        for name, digest in job["files"].items():
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} is not as it was packed")
    except (OSError, ValueError, KeyError) as error:
        print(f"This bundle is damaged: {error}. Unpack it again, all of it, into an empty folder.")
        return 1
    if job["format"] != BUNDLE_FORMAT:
        print(
            f"bundle.json is of format {job['format']}, this runner of format {BUNDLE_FORMAT}: unpack the bundle again."
        )
        return 1
    print(f"onnxruntime {ort.__version__}, threads: {job['threads']}, trip {job['trip']} of 2")
    if job["trip"] == 1:
        values, graphs = _optimise(folder, job)
    else:
        values, graphs = _measure(folder, job), {}
    _pack(folder, job, values, graphs)
    print(f"Done: {folder / 'result.zip'}. Where the bundle came from:  hwnas unbundle result.zip -o TABLE.csv")
    return 0


class _Progress:
    """What is done, a line of JSON each, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path, bundle: str) -> None:
        head = {"bundle": bundle, "version": ort.__version__}
        self.values: dict[str, Any] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        if lines[:1] != [json.dumps(head)]:
            path.write_text(json.dumps(head) + "\n")
            lines = []
        whole = []
        for line in lines[1:]:
            try:
                task, value = json.loads(line)
            except ValueError:  # cut off as the device went down
                break
            self.values[task] = value
            whole.append(line)
        path.write_text("".join(f"{line}\n" for line in [json.dumps(head), *whole]))
        self._file = path.open("a")

    def run(self, tasks: Sequence[tuple[str, Callable[[], object]]]) -> None:
        """Do what is not done yet, in order."""
        missing = [(name, task) for name, task in tasks if name not in self.values]
        began = shown = time.monotonic()
        for done, (name, task) in enumerate(missing, start=1):
            self.values[name] = task()
            self._file.write(json.dumps([name, self.values[name]]) + "\n")
            self._file.flush()
            now = time.monotonic()
            if now - shown > 2 or done == len(missing):
                left = (now - began) / done * (len(missing) - done)
                print(
                    f"\r{len(tasks) - len(missing) + done} of {len(tasks)}, about {left:.0f} s left   ",
                    end="",
                    flush=True,
                )
                shown = now
        if missing:
            print()


def _optimise(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Trip 1: what the runtime of this device makes of each network, or why it does not."""
    weights = json.loads((folder / "weights.json").read_text())
    refused: dict[str, Any] = {}
    graphs: dict[str, bytes] = {}
    for name in job["networks"]:
        try:
            graphs[name] = optimised_graph((folder / f"{name}.onnx").read_bytes(), weights[name], job["threads"])
        except Exception as error:  # whatever an old version refuses: that network is left out, and it is said why
            refused[name] = f"{type(error).__name__}: {error}"
        print(f"\r{len(graphs) + len(refused)} of {len(job['networks'])} networks", end="", flush=True)
    print()
    return refused, graphs


def optimised_graph(model: bytes, weights: Sequence[Weight], threads: int, level: str = "all") -> bytes:
    """The graph that a runtime makes of a model before it runs it, large weights left out."""
    options = session_options(threads, optimise=True)
    if level == "extended":  # all but layouts that suit the processor
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        aside = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{aside}_file_name", "weights")
        options.add_session_config_entry(f"{aside}_min_size_in_bytes", str(LARGE_BYTES))
        session(model, weights, options)
        return path.read_bytes()


def _measure(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Trip 2: kernels, in passes over all of them with everything built anew; what cold weights add; whole networks."""
    weights = json.loads((folder / "weights.json").read_text())
    protocol, threads = job["protocol"], job["threads"]
    progress = _Progress(folder / "progress.jsonl", _digest(folder / "bundle.json"))

    def load(name: str) -> tuple[bytes, list[Weight]]:
        return (folder / f"{name}.onnx").read_bytes(), weights.get(name, [])

    def prepare(name: str, copies: int) -> Stopwatch:
        if name in job["calls"]:
            return stopwatch(session(*load(f"{name}_1"), session_options(threads)), copies)
        return stopwatch(session(*load(f"{name}_{copies}"), session_options(threads)))

    def network(name: str) -> list[float]:
        each = stopwatch(session(*load(name), session_options(threads, optimise=True)))
        warm(each, protocol["network_ms"] / 4)
        return repeat(protocol["network_ms"], each)[0]

    def kernel(name: str) -> float | None:
        return kernel_seconds(lambda copies: prepare(name, copies), protocol["span_ms"], protocol["kernel_ms"])

    def cold(name: str) -> dict[str, float] | None:
        return cold_us(*load(name), threads)

    def shortest(name: str, budget_ms: float) -> float:
        each = stopwatch(session(*load(name), session_options(threads)))
        return min(repeat(budget_ms, each, least=2)[0])

    tasks: list[tuple[str, Callable[[], object]]] = [("timer", lambda: timer(partial(prepare, "timer")))]
    for turn in range(protocol["passes"]):
        tasks += [(f"{name}/{turn}", partial(kernel, name)) for name in job["kernels"]]
        tasks += [(f"{name}/{turn}", partial(shortest, name, PROBE_MS)) for name in job["probes"]]
    tasks += [(name, partial(cold, name)) for name in job["composites"]]
    tasks += [(name, partial(shortest, name, 0)) for name in job["far"]]
    for turn in range(job["rounds"]):
        tasks += [(f"{name}/{turn}", partial(network, name)) for name in job["networks"]]
    progress.run(tasks)
    if not timer_is_sound(progress.values["timer"]):
        print(f"Beware: this device's clock or speed is not steady: {progress.values['timer']}")
    return progress.values


def timer(prepare: Callable[[int], Stopwatch]) -> dict[str, float]:
    """Whether time adds up: a kernel by few copies of it and by many; how many of the copies run; the clock's step."""
    single, few, many = prepare(1), prepare(1 + DEGREE // 4), prepare(1 + DEGREE)
    alone, some, most = (min(each) for each in repeat(200, single, few, many, least=20))
    return {"step": clock_step(), "few": (some - alone) / (DEGREE // 4), "many": (most - alone) / DEGREE}


def timer_is_sound(found: dict[str, float]) -> bool:
    """Whether the two agree within a quarter, and the clock tells microseconds apart."""
    return 0 < found["step"] <= 1e-6 and 0 < 0.8 * found["many"] <= found["few"] <= 1.25 * found["many"]


def clock_step() -> float:
    """The smallest step of the clock, in seconds, as it is seen."""
    steps = []
    for _ in range(1000):
        start = end = time.perf_counter()
        while end == start:
            end = time.perf_counter()
        steps.append(end - start)
    return min(steps)


def device_facts() -> dict[str, Any]:
    """What tells this device from others."""
    cpuinfo = Path("/proc/cpuinfo")
    brand = ""
    if platform.system() == "Darwin":
        brand = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        ).stdout.strip()
    return {
        "cpuinfo": cpuinfo.read_text(errors="replace") if cpuinfo.exists() else "",
        "brand": brand or platform.processor(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }


def _pack(folder: Path, job: dict[str, Any], values: dict[str, Any], graphs: dict[str, bytes]) -> None:
    result = {
        "job": job,
        "device": device_facts(),
        "version": f"onnxruntime {ort.__version__}",
        "values": values,
        "graphs": {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()},
    }
    text = json.dumps(result).encode()
    part = folder / "result.zip.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.json", text)
        archive.writestr("digest", hashlib.sha256(text).hexdigest())
        for name, graph in graphs.items():
            archive.writestr(f"{name}.onnx", graph)
            archive.write(folder / f"{name}.onnx", f"given/{name}.onnx")
    part.replace(folder / "result.zip")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
