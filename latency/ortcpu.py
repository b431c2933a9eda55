"""ONNX Runtime on the processor."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from latency import workload
from latency.deployment import Bundled, Deployment, instructions, processor
from latency.kernels import Kernel
from latency.memory import MB, MIDDLE_BYTES, PAUSES_MS, Memory
from latency.shapes import Program, Step, fix_batch, trace
from latency.stopwatch import (
    BLOCK_BYTES,
    PROBE_MS,
    Stopwatch,
    after_pause,
    device_facts,
    distant_us,
    node_us,
    optimised_graph,
    repeat,
    session,
    session_options,
    stopwatch,
)
from latency.workload import Workload, weight_bytes
from spaces.errors import LatencyError

_COLD_RUNS = 2
_PROBE_PASSES = 3
# The runtime raises one class per status code, without a base of their own.
_ORT_ERRORS = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)


_VERSION = f"onnxruntime {ort.__version__}"

LEVELS = ("all", "extended")
"""Optimisations: all of them, and all but layouts that suit the processor."""


class OrtCpu:
    """ONNX Runtime on the processor.

    Kernels are read off the runtime's own optimised graph: which operators fuse and which layouts they use depends on
    channel counts, instruction set and version, and guessing it costs a factor of 2 to 4 in error.
    A session's call costs microseconds beside its kernels, which small networks feel; it is a kernel of its own,
    ``Call``, the last of every network.
    """

    def __init__(self, deployment: Deployment, bundled: Bundled | None = None) -> None:
        self.deployment = deployment
        self.bundled = bundled
        self.version = bundled.version if bundled else _VERSION

    @property
    def driver(self) -> str:
        """The operating system: nothing else lies between."""
        return str(device_facts()["system"])

    @cached_property
    def here(self) -> bool:
        """Whether the deployment's processor, and this version of the runtime, are this machine's."""
        return self.deployment.device == processor() and self.version == _VERSION

    def lower(self, model: onnx.ModelProto) -> Program:
        """The optimised graph, independent kernels in any order, then the call.

        The model may lack its weights (external ones that were not loaded): they do not decide which kernels run.

        Raises:
            LatencyError: If the network cannot be run, an operator's shapes cannot be known, or the runtime is another
                one whose graphs cannot be had here.
        """
        if self.here or self.bundled is None:
            return self.lower_at("all", model)
        wanted = self.bundled
        if wanted.by != _VERSION or (wanted.level == "all" and instructions(processor()) != wanted.instructions):
            means = f"{wanted.by} on a processor with {wanted.instructions}" if wanted.by else "that device"
            raise LatencyError(
                f"which kernels {self.version} runs on {self.deployment.device} can be found by {means} only, and this "
                f"is {_VERSION} on {processor()}; take the networks there: hwnas bundle BUNDLE.zip --for MODEL.onnx"
            )
        return self.lower_at(wanted.level, model)

    def lower_at(self, level: str, model: onnx.ModelProto) -> Program:
        """What this machine's runtime makes of a network with one of ``LEVELS`` of optimisations.

        Raises:
            LatencyError: If the network cannot be run, or an operator's shapes cannot be known.
        """
        work = workload.network(fix_batch(model, self.deployment.batch))
        any_numbers = [(name, 0, shape, 0.0) for name, _, shape, _ in work.weights]
        with self._refusing(f"the network {model.graph.name!r}"):
            graph = optimised_graph(work.model.SerializeToString(), any_numbers, self.deployment.threads, level)
        return read_graph(onnx.load_model_from_string(graph))

    def kernel(self, kernel: Kernel, copies: int) -> Stopwatch:
        """Prepare to time so many copies of a kernel, in company, in one run of a session; or so many of ``Call``.

        Raises:
            LatencyError: If the runtime refuses the kernel.
        """
        with self._refusing(str(kernel)):
            if kernel.op == workload.CALL:
                return stopwatch(self._session(workload.call(kernel)), copies)
            self._must_run_copies()
            return stopwatch(self._session(workload.in_company(kernel, copies)))

    def launch(self, kernels: Sequence[Kernel]) -> list[float]:
        """Nothing: what a call costs is a kernel of its own."""
        return [0.0] * len(kernels)

    def distant(self, kernels: Sequence[Kernel], near_us: Sequence[float]) -> list[tuple[float, float]]:
        """What kernels take longer when their weights are not near: with ``MIDDLE_BYTES`` between, and from memory.

        Small weights: a session holds many kernels, and the runtime's own profile, in whole microseconds, tells a
        kernel's first run from its next. Large ones are timed in the middle already; many sets of them take turns
        within more than the caches hold.

        Raises:
            LatencyError: If the runtime refuses a kernel.
        """
        small = [kernel for kernel in kernels if 0 < weight_bytes(kernel) <= workload.NEAR_BYTES]
        middle, cold = (dict.fromkeys(kernels, 0.0) for _ in range(2))
        for found, nbytes in ((middle, MIDDLE_BYTES), (cold, BLOCK_BYTES)):
            for part, work in workload.composites(small, nbytes):
                with self._refusing(f"{len(part)} kernels in one session"):
                    times = distant_us(work.model.SerializeToString(), work.weights, self.deployment.threads)
                if times is None:
                    raise LatencyError(f"{self.version} runs independent nodes in disorder; install another version")
                found.update({kernel: times[str(number)] for number, kernel in enumerate(part)})
        for kernel, near in zip(kernels, near_us, strict=True):
            if weight_bytes(kernel) > workload.NEAR_BYTES:
                work, turns = workload.far(kernel)
                with self._refusing(str(kernel)):
                    each = stopwatch(self._session(work))
                    cold[kernel] = max(0.0, 1e6 * min(each() for _ in range(_COLD_RUNS)) / turns - near)
        return [(min(middle[kernel], cold[kernel]), cold[kernel]) for kernel in kernels]

    def memory(self) -> Memory:
        """How far weights are, as kernels feel it whose weights take turns within more and more bytes, or rest."""
        kernels = self.lower(workload.probe_network(self.deployment.batch)).kernels
        probes = list(workload.probes([kernel for kernel in kernels if kernel.constants]))
        times: dict[Kernel, dict[float, float]] = {}
        for kernel, mb, nodes, model in probes * _PROBE_PASSES:
            each = min(repeat(PROBE_MS, stopwatch(self._session(model)), least=2)[0]) / nodes
            known = times.setdefault(kernel, {})
            known[mb] = min(each, known.get(mb, each))
        paused = [
            [after_pause(stopwatch(self._session(model)), ms) / nodes for ms in PAUSES_MS]
            for _, mb, nodes, model in probes
            if mb * MB == MIDDLE_BYTES
        ]
        return Memory.measured(
            workload.PROBED_MB, [list(known.values()) for known in times.values()], PAUSES_MS, paused
        )

    def network(self, model: onnx.ModelProto) -> Stopwatch:
        """Prepare to time ``session.run`` on one batch, as an application calls it.

        Raises:
            LatencyError: If the runtime refuses the network.
        """
        fixed = fix_batch(model, self.deployment.batch)
        with self._refusing(f"the network {model.graph.name!r}"):
            return stopwatch(self._session(Workload(fixed), optimise=True))

    def _session(self, model: Workload, *, optimise: bool = False) -> ort.InferenceSession:
        options = session_options(self.deployment.threads, optimise)
        return session(model.model.SerializeToString(), model.weights, options)

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except _ORT_ERRORS as error:
            raise LatencyError(f"{self.version} refuses {what}: {error}") from error

    def _must_run_copies(self) -> None:
        """Were the runtime to merge equal nodes or leave some out, kernels would seem to cost nothing."""
        if self._ran_of_nine_copies != 9:
            raise LatencyError(
                f"{self.version} ran {self._ran_of_nine_copies} of 9 equal kernels, so kernels cannot be timed by "
                "copies; install another version"
            )

    @cached_property
    def _ran_of_nine_copies(self) -> int:
        """Of nine equal nodes of which no result is wanted, how many the runtime runs, by its own profile."""
        nine = workload.in_company(Kernel.parse("GlobalAveragePool@1 1x8x4x4 -> 1x8x1x1"), 9)
        return len(node_us(nine.model.SerializeToString(), nine.weights, self.deployment.threads, runs=1)) - 1


def read_graph(graph: onnx.ModelProto) -> Program:
    """The kernels of an optimised graph, then the call.

    Raises:
        LatencyError: If an operator's shapes cannot be known.
    """
    program = trace(graph)
    call = Kernel(workload.CALL, tuple(program.inputs.values()), tuple(program.outputs.values()))
    return replace(program, steps=(*program.steps, Step(call, tuple(program.inputs), tuple(program.outputs))))
