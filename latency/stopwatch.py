"""Stopwatches for ONNX Runtime: sessions, and what they take. This file needs nothing but onnxruntime and numpy.

It measures this machine, and inside a bundle any other, in the same way.

Models come without their weights, which do not decide how long anything takes: every weight is a stretch of one block
of random numbers. Random, since a session keeps only one copy of weights that are equal once they are packed; and in
pages of ordinary size, as the weights of an application are.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

BLOCK_BYTES = 128 << 20  # more than the caches of most processors hold
LADDER = (2, 4, 8, 16)  # how many copies of a kernel are timed
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


def after_pause(each: Stopwatch, pause_ms: float, runs: int = 7) -> float:
    """Seconds of a run that follows on one after so long a time without work: the lower quartile, as of networks."""
    found = []
    for _ in range(runs):
        each()
        end = time.perf_counter() + pause_ms / 1e3
        while time.perf_counter() < end:  # asleep, the processor would wake up with a low clock
            pass
        found.append(each())
    return float(np.percentile(found, 25))


def kernel_seconds(
    prepare: Callable[[int], Stopwatch], span_ms: float, kernel_ms: float, least: int = LADDER[0]
) -> float | None:
    """Seconds of one kernel among equal ones; ``prepare`` makes the stopwatch of so many copies and their company.

    ``least`` is a step of ``LADDER``, taken where no more fit in the span. Returns None if more copies take no longer
    than one, however often it is tried.
    """
    for _ in range(ATTEMPTS):
        single, several = prepare(1), prepare(1 + LADDER[0])
        once = (several() - single()) / LADDER[0]
        copies = max([least, *(step for step in LADDER if step * once <= span_ms / 1e3)])
        if copies > LADDER[0]:
            several = prepare(1 + copies)
            several()
        alone, together = repeat(kernel_ms, single, several, least=2, most=40)
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


def distant_us(model: bytes, weights: Sequence[Weight], threads: int, runs: int = 6) -> dict[str, float] | None:
    """What each kernel of a composite session takes longer with all the rest of it between two uses of its weights.

    A composite holds each kernel four times, named ``NUMBER_other``, ``NUMBER_same0``, ``NUMBER_same1`` and
    ``NUMBER_more``: whichever way the runtime walks through them, other weights than the kernel's come first, then the
    same ones twice, distant and near. Returns microseconds by number, or None if the runtime went another way.
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


def device_facts() -> dict[str, Any]:
    """What tells this device from others."""
    cpuinfo = Path("/proc/cpuinfo")
    brand = ""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        brand = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpuinfo": cpuinfo.read_text(errors="replace") if cpuinfo.exists() else "",
        "brand": brand or platform.processor(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }
