"""Runs a bundle on a device: what ``hwnas bundle`` packs there, in one file with ``stopwatch.py``."""

import hashlib
import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

from latency.stopwatch import (
    PROBE_MS,
    Stopwatch,
    Weight,
    after_pause,
    device_facts,
    distant_us,
    kernel_seconds,
    node_us,
    optimised_graph,
    repeat,
    session,
    session_options,
    stopwatch,
    warm,
)

BUNDLE_FORMAT = 2
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
    cores = device_facts()["cores"]
    if job["threads"] > cores:
        print(f"The bundle wants {job['threads']} threads, and this process may use {cores} cores; pack one for fewer.")
        return 1
    print(f"onnxruntime {ort.__version__}, threads: {job['threads']}, trip {job['trip']} of 2")
    if job["trip"] == 1:
        values, graphs = _optimise(folder, job)
    else:
        try:
            values, graphs = _measure(folder, job), {}
        except KeyboardInterrupt:
            print("\nInterrupted. What is measured is kept: run this again to go on.")
            return 1
        except _Unsteady as error:
            print(f"\n{error}. What is measured is kept: run this again when the device is quieter.")
            return 1
    _pack(folder, job, values, graphs)
    print(f"Done: {folder / 'result.zip'}. Where the bundle came from:  hwnas unbundle result.zip -o TABLE.csv")
    return 0


class _Unsteady(Exception):
    """A kernel could not be timed."""


class _Progress:
    """What is done, a line of JSON each, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path, bundle: str) -> None:
        head = {"bundle": bundle, "version": ort.__version__}
        self.values: dict[str, Any] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        if lines[:1] != [json.dumps(head)]:
            lines = []
        whole = []
        for line in lines[1:]:
            try:
                task, value = json.loads(line)
            except ValueError:  # cut off as the device went down
                break
            self.values[task] = value
            whole.append(line)
        part = path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in [json.dumps(head), *whole]))
        part.replace(path)
        self._path = path

    def run(self, tasks: Sequence[tuple[str, Callable[[], object]]]) -> None:
        """Do what is not done yet, in order."""
        missing = [(name, task) for name, task in tasks if name not in self.values]
        began = shown = time.monotonic()
        with self._path.open("a") as file:
            for done, (name, task) in enumerate(missing, start=1):
                self.values[name] = task()
                file.write(json.dumps([name, self.values[name]]) + "\n")
                file.flush()
                now = time.monotonic()
                if now - shown > 2 or done == len(missing):
                    left = (now - began) / done * (len(missing) - done)
                    known = len(tasks) - len(missing) + done
                    print(f"\r{known} of {len(tasks)}, about {left:.0f} s left   ", end="", flush=True)
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


def _measure(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Trip 2: kernels, passes over all of them with everything built anew; what distant weights add; whole networks."""
    weights = json.loads((folder / "weights.json").read_text())
    protocol, threads = job["protocol"], job["threads"]
    progress = _Progress(folder / "progress.jsonl", _digest(folder / "bundle.json"))
    if "timer" in progress.values and not timer_is_sound(progress.values["timer"]):
        del progress.values["timer"]  # perhaps it was but a noisy moment

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

    def kernel(name: str) -> float:
        found = kernel_seconds(
            lambda copies: prepare(name, copies), protocol["span_ms"], protocol["kernel_ms"], job["least"][name]
        )
        if found is None:
            raise _Unsteady(f"{job['kernels'][name]} could not be timed: more of it takes no longer than one")
        return found

    def distant(name: str) -> dict[str, float] | None:
        return distant_us(*load(name), threads)

    def shortest(name: str, budget_ms: float) -> float:
        each = stopwatch(session(*load(name), session_options(threads)))
        return min(repeat(budget_ms, each, least=2)[0])

    def paused(name: str, pause_ms: float) -> float:
        return after_pause(stopwatch(session(*load(name), session_options(threads))), pause_ms)

    tasks: list[tuple[str, Callable[[], object]]] = [
        ("timer", lambda: timer(partial(prepare, "timer"), load(f"timer_{1 + DEGREE}"), threads))
    ]
    for turn in range(protocol["passes"]):
        tasks += [(f"{name}/{turn}", partial(kernel, name)) for name in job["kernels"]]
        tasks += [(f"{name}/{turn}", partial(shortest, name, PROBE_MS)) for name in job["probes"]]
    tasks += [(name, partial(distant, name)) for name in job["composites"]]
    tasks += [(name, partial(shortest, name, 0)) for name in job["far"]]
    tasks += [
        (f"{name}/{ms} ms", partial(paused, name, ms)) for name, all_ms in job["pauses_ms"].items() for ms in all_ms
    ]
    for turn in range(job["rounds"]):
        tasks += [(f"{name}/{turn}", partial(network, name)) for name in job["networks"]]
    progress.run(tasks)
    if not timer_is_sound(progress.values["timer"]):
        print(f"Beware: this device's clock or speed is not steady: {progress.values['timer']}")
    return progress.values


def timer(
    prepare: Callable[[int], Stopwatch], many_copies: tuple[bytes, list[Weight]], threads: int
) -> dict[str, float]:
    """Whether time adds up: a kernel by few copies of it and by many; how many of the copies run; the clock's step."""
    single, few, many = prepare(1), prepare(1 + DEGREE // 4), prepare(1 + DEGREE)
    alone, some, most = (min(each) for each in repeat(200, single, few, many, least=20))
    ran = len(node_us(*many_copies, threads, runs=1))
    few_us, many_us = 1e6 * (some - alone) / (DEGREE // 4), 1e6 * (most - alone) / DEGREE
    return {"step": clock_step(), "few_us": few_us, "many_us": many_us, "ran": ran}


def timer_is_sound(found: dict[str, float]) -> bool:
    """Whether the two agree within a quarter, every copy ran, and the clock tells microseconds apart."""
    steady = 0 < 0.8 * found["many_us"] <= found["few_us"] <= 1.25 * found["many_us"]
    return steady and found["ran"] == 1 + DEGREE and 0 < found["step"] <= 1e-6


def clock_step() -> float:
    """The smallest step of the clock, in seconds, as it is seen."""
    steps = []
    for _ in range(1000):
        start = end = time.perf_counter()
        while end == start:
            end = time.perf_counter()
        steps.append(end - start)
    return min(steps)


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
