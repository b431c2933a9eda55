"""ONNX Runtime on the processor."""

import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from latency.deployment import Deployment, processor
from latency.kernels import CACHE_LINE, Kernel, Operand, aligned_ones
from latency.shapes import fix_batch, input_operands, trace
from latency.timing import Stopwatch, clock
from spaces.errors import LatencyError

_CALL = "Call"
# How many copies of its weights a kernel is timed with. Those of a small network all stay in the second-level cache but
# not in the first; those of a network with a kernel too large for that come from further away, whatever else it has.
_WEIGHT_SETS = 16
_NEAR_BYTES = 1 << 20
_BLOCK_FLOATS = 1 << 23
_LINE_FLOATS = CACHE_LINE // 4
# Constants that decide what a kernel does are much smaller.
_LARGE_BYTES = 4096
# Old enough for every runtime we support; a kernel of ONNX's own operators brings its version along.
_PLAIN_OPSET = 13
_IR_VERSION = 8
# The runtime raises one class per status code, without a base of their own.
_ORT_ERRORS = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)


class OrtCpu:
    """ONNX Runtime on the processor.

    Kernels are read off the runtime's own optimised graph: which operators fuse and which layouts they use depends on
    channel counts, instruction set and version, and guessing it costs a factor of 2 to 4 in error.
    A session's call costs microseconds beside its kernels, which small networks feel; it is a kernel of its own,
    ``Call``, the last of every network.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.version = f"onnxruntime {ort.__version__}"

    @cached_property
    def here(self) -> bool:
        """Whether the deployment's processor is this machine's."""
        return self.deployment.device == processor()

    def lower(self, model: onnx.ModelProto) -> list[Kernel]:
        """The kernels of the optimised graph, independent ones in any order, then the call.

        The model may lack its weights (external ones that were not loaded): they do not decide which kernels run.

        Raises:
            LatencyError: If the network cannot be run, or an operator's shapes cannot be known.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = self._options(optimise=True)
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            # Apart from the graph, weights need not be read back.
            aside = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{aside}_file_name", "weights")
            options.add_session_config_entry(f"{aside}_min_size_in_bytes", str(_LARGE_BYTES))
            absent = [each for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
            if absent:
                stand_ins = [ort.OrtValue.ortvalue_from_numpy(_ones(tuple(each.dims))) for each in absent]
                options.add_external_initializers([each.name for each in absent], stand_ins)
            self._session(fix_batch(model, self.deployment.batch), options)
            program = trace(onnx.load(options.optimized_model_filepath, load_external_data=False))
        call = Kernel(_CALL, tuple(program.inputs.values()), tuple(program.outputs.values()))
        return [*program.kernels, call]

    def kernel(self, kernel: Kernel, copies: int) -> Stopwatch:
        """Prepare to time so many copies of a kernel in one run of a session, or so many calls for ``Call``.

        Tensors are as near as in a network. What a kernel reads was written just before: all copies share one input.
        What it writes goes where an earlier kernel's output has been given back: each copy takes the buffer of the one
        before. Weights are met once per inference: the copies take turns with several sets of them.

        Raises:
            LatencyError: If the runtime refuses the kernel.
        """
        options = self._options(optimise=False)
        if kernel.op == _CALL:
            model, calls = _call_model(kernel), copies
        elif self._ran_of_nine_copies == 9:
            model, calls = copies_model(kernel, copies, options), 1
        else:
            raise LatencyError(
                f"{self.version} ran {self._ran_of_nine_copies} of 9 equal kernels, so kernels cannot be timed by "
                "copies; install another version"
            )
        session = self._session(model, options)
        feed = {f"i{i}": operand.array() for i, operand in kernel.activations.items()}
        with self._refusing(str(kernel)):
            session.run(None, feed)

        def work() -> None:
            for _ in range(calls):
                session.run(None, feed)

        return clock(work)

    def network(self, model: onnx.ModelProto) -> Stopwatch:
        """Prepare to time ``session.run`` on one batch, as an application calls it.

        Raises:
            LatencyError: If the runtime refuses the network.
        """
        fixed = fix_batch(model, self.deployment.batch)
        session = self._session(fixed, self._options(optimise=True))
        feed = {name: operand.array() for name, operand in input_operands(fixed.graph).items()}
        with self._refusing(f"the network {model.graph.name!r}"):
            session.run(None, feed)
        return clock(lambda: session.run(None, feed))

    def _options(self, *, optimise: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.deployment.threads
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

    def _session(self, model: onnx.ModelProto, options: ort.SessionOptions) -> ort.InferenceSession:
        with self._refusing(f"the network {model.graph.name!r}"):
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except _ORT_ERRORS as error:
            raise LatencyError(f"{self.version} refuses {what}: {error}") from error

    @cached_property
    def _ran_of_nine_copies(self) -> int:
        """Of nine equal nodes of which one result is wanted, how many the runtime runs, by its own profile.

        Were it to merge copies or leave some out, kernels would seem to cost nothing.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = self._options(optimise=False)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            kernel = Kernel.parse("Relu@14 1x8x4x4 -> 1x8x4x4")
            session = self._session(copies_model(kernel, 9, options), options)
            session.run(None, {"i0": kernel.activations[0].array()})
            events = json.loads(Path(session.end_profiling()).read_text())
        return sum(event.get("cat") == "Node" and event["name"].endswith("_kernel_time") for event in events)


def copies_model(kernel: Kernel, copies: int, options: ort.SessionOptions) -> onnx.ModelProto:
    """Copies of a kernel side by side, the first one's first output being the result.

    The weights are not in the model: they are views of one block of memory that ``options`` brings in, which saves
    writing and reading megabytes for every kernel.
    """
    size = sum(operand.nbytes for operand in kernel.constants.values())
    sets = min(copies, _WEIGHT_SETS, _NEAR_BYTES // size if 0 < size <= _NEAR_BYTES else _WEIGHT_SETS)
    weights: list[onnx.TensorProto] = []
    names, values, used = [], [], 0
    for (i, operand), turn in itertools.product(kernel.constants.items(), range(sets)):
        name, size = f"i{i}_{turn}", math.prod(operand.shape)
        if operand.values is not None or operand.dtype != "f32" or size > _BLOCK_FLOATS:
            weights.append(numpy_helper.from_array(operand.array(), name))
            continue
        used = used if used + size <= _BLOCK_FLOATS else 0
        names.append(name)
        values.append(ort.OrtValue.ortvalue_from_numpy(_block()[used : used + size].reshape(operand.shape)))
        weights.append(_elsewhere(name, operand))
        used += size + -size % _LINE_FLOATS
    if names:
        options.add_external_initializers(names, values)
    attributes: dict[str, Any] = dict(kernel.attributes)
    nodes = []
    for copy in range(copies):
        read = [_input_name(i, operand, copy % sets) for i, operand in enumerate(kernel.inputs)]
        written = [f"o{i}_{copy}" if operand else "" for i, operand in enumerate(kernel.outputs)]
        nodes.append(helper.make_node(kernel.op, read, written, domain=kernel.domain, **attributes))
    inputs = {f"i{i}": operand for i, operand in kernel.activations.items()}
    outputs = {f"o{i}_0": operand for i, operand in enumerate(kernel.outputs) if operand}
    return _model(nodes, inputs, outputs, weights, {kernel.domain: kernel.version})


def _call_model(kernel: Kernel) -> onnx.ModelProto:
    """A network that does nothing, with the inputs and outputs of a real one."""
    inputs = {f"i{i}": operand for i, operand in kernel.activations.items()}
    outputs = {f"o{i}": operand for i, operand in enumerate(kernel.outputs) if operand}
    nodes = [helper.make_node("Identity", [f"ready_{name}"], [name]) for name in outputs]
    weights = [numpy_helper.from_array(operand.array(), f"ready_{name}") for name, operand in outputs.items()]
    return _model(nodes, inputs, outputs, weights, {})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Operand],
    outputs: dict[str, Operand],
    weights: list[onnx.TensorProto],
    opsets: dict[str, int],
) -> onnx.ModelProto:
    def values(operands: dict[str, Operand]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, op.proto_type, op.shape) for name, op in operands.items()]

    graph = helper.make_graph(nodes, "kernel", values(inputs), values(outputs), weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in ({"": _PLAIN_OPSET} | opsets).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)


def _input_name(i: int, operand: Operand | None, turn: int) -> str:
    if operand is None:
        return ""
    return f"i{i}_{turn}" if operand.constant else f"i{i}"


def _elsewhere(name: str, operand: Operand) -> onnx.TensorProto:
    """A weight whose numbers are handed to the session, not written into the model."""
    tensor = onnx.TensorProto(name=name, data_type=operand.proto_type, dims=operand.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="handed over")
    return tensor


def _ones(shape: tuple[int, ...]) -> np.ndarray:
    """Float32 ones, as part of one block where they fit in."""
    size = math.prod(shape)
    return (_block()[:size] if size <= _BLOCK_FLOATS else np.ones(size, np.float32)).reshape(shape)


@cache
def _block() -> np.ndarray:
    return aligned_ones(_BLOCK_FLOATS, np.dtype(np.float32))
