"""`Workload`: a model to put on the clock, without its weights; and how one is made of kernels."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, numpy_helper

from latency.kernels import Kernel, Operand
from latency.memory import MB, MIDDLE_BYTES
from latency.stopwatch import BLOCK_BYTES, CACHE_LINE, LADDER, LARGE_BYTES, Weight

CALL = "Call"
"""The kernel that stands for what a call of the runtime costs beside its kernels."""

NEAR_BYTES = MB
"""Weights of a kernel up to so many bytes are timed as near as in a small network."""

PROBED_MB = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""What the weights of a probe take turns within, in units of 2**20 bytes."""

COMPANY = Kernel.parse("MatMul@13 128x128 w:128x128 -> 128x128")
"""Dense arithmetic, which most networks are full of: some tens of microseconds on a fast core."""

# The second-level cache holds them, the first-level one does not.
_NEAR_SETS = 16
# Sessions of many kernels whose weights are to be far: those may take up a part of what is read in a run, the rest of
# which is read before them; what is to stay in the last-level cache must be used again before others drive it away;
# and not many kernels, since one that fails takes the others with it.
_PART_BYTES = {MIDDLE_BYTES: MIDDLE_BYTES // 2, BLOCK_BYTES: BLOCK_BYTES // 4}
_PART_MACS = {MIDDLE_BYTES: 50_000_000, BLOCK_BYTES: math.inf}
_MOST_KERNELS = 100
# Old enough for every runtime we support; a kernel of ONNX's own operators brings its version along.
_PLAIN_OPSET = 13
_IR_VERSION = 8
_BLOCK_FLOATS = BLOCK_BYTES // 4
_LINE_FLOATS = CACHE_LINE // 4
_PROBE_NODES = 32


@dataclass(frozen=True)
class Workload:
    """A model to time.

    Attributes:
        model: The model; the weights that are not in it are external ones.
        weights: Where they come from.
    """

    model: onnx.ModelProto
    weights: tuple[Weight, ...] = ()


class _Shelf:
    """Weights one behind the other in the block, from its start again where it ends."""

    def __init__(self) -> None:
        self.weights: list[Weight] = []
        self._used = 0

    def put(self, name: str, shape: Sequence[int], scale: float = 0.0) -> onnx.TensorProto:
        """A place for a weight; as a tensor whose numbers are handed to the session, not written into the model."""
        size = math.prod(shape)
        start = self._used if self._used + size <= _BLOCK_FLOATS else 0
        self._used = start + size + -size % _LINE_FLOATS
        return self.put_at(start, name, shape, scale)

    def put_at(self, start: int, name: str, shape: Sequence[int], scale: float = 0.0) -> onnx.TensorProto:
        """The same at a place of one's choice."""
        self.weights.append((name, start, tuple(shape), scale))
        return _elsewhere(name, shape)


class _Writer:
    """Collects nodes, and the weights that they read."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.shelf = _Shelf()
        self.inputs: dict[str, Operand] = {}
        self.opsets = {"": _PLAIN_OPSET}

    def kernel(self, kernel: Kernel, name: str, prefix: str, turn: int, after: str = "") -> None:
        """Add a run of a kernel: with its own inputs, and with the weights of one turn.

        ``after`` names a run of the same kernel whose output it reads, if it can.
        """
        self.opsets[kernel.domain] = kernel.version if kernel.domain else max(kernel.version, self.opsets[""])
        read = []
        for i, operand in enumerate(kernel.inputs):
            constant = operand is not None and operand.constant
            read.append(f"{prefix}i{i}_{turn}" if constant else f"{prefix}i{i}" if operand else "")
        if after and (overwritten := _overwritten(kernel)) is not None:
            read[overwritten] = f"{prefix}o0_{after}"
        written = [f"{prefix}o{i}_{name}" if operand else "" for i, operand in enumerate(kernel.outputs)]
        attributes: dict[str, Any] = dict(kernel.attributes)
        self.nodes.append(
            helper.make_node(kernel.op, read, written, name=f"{prefix}{name}", domain=kernel.domain, **attributes)
        )

    def operands(self, kernel: Kernel, prefix: str, turns: int) -> None:
        """Add what a kernel reads: its inputs once, its weights so many times."""
        self.inputs |= {f"{prefix}i{i}": operand for i, operand in kernel.activations.items()}
        for turn, (i, operand) in itertools.product(range(turns), kernel.constants.items()):
            name, steering = f"{prefix}i{i}_{turn}", operand.values is not None or operand.dtype != "f32"
            here = numpy_helper.from_array(operand.array(), name) if steering else self.shelf.put(name, operand.shape)
            self.tensors.append(here)

    def done(self, outputs: dict[str, Operand]) -> Workload:
        graph = helper.make_graph(self.nodes, "kernel", _values(self.inputs), _values(outputs), self.tensors)
        imports = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
        return Workload(model, tuple(self.shelf.weights))


def copies(kernel: Kernel, count: int, turns: int | None = None) -> Workload:
    """So many copies of a kernel side by side, the first one's outputs being the result.

    They share one input and write to one place, and take turns with several sets of weights.

    Args:
        kernel: The kernel.
        count: How many copies.
        turns: With how many sets of weights; None for as many as are near.
    """
    writer, turns = _Writer(), min(count, turns or near_sets(kernel))
    writer.operands(kernel, "", turns)
    for copy in range(count):
        writer.kernel(kernel, str(copy), "", copy % turns)
    return writer.done({f"o{i}_0": operand for i, operand in enumerate(kernel.outputs) if operand})


def in_company(kernel: Kernel, count: int) -> Workload:
    """So many copies of a kernel, as near as can be to how a network runs them; the result is that of ``COMPANY``.

    What a kernel reads was written just before, and what it writes goes where a tensor has been given back: a copy
    whose output is as large as an input reads the output of the one before, and may overwrite it, as the sum at the end
    of a residual block does. Weights are met once per inference: the copies take turns with several sets of them. And
    there is other work: a processor lowers its clock during dense arithmetic and for a while after, so that kernels
    that are less dense run up to a sixth faster in a loop over themselves.
    """
    writer, turns = _Writer(), min(count, near_sets(kernel))
    writer.operands(kernel, "", turns)
    writer.operands(COMPANY, "company_", 1)
    writer.kernel(COMPANY, "0", "company_", 0)
    for copy in range(count):
        writer.kernel(kernel, str(copy), "", copy % turns, after=str(copy - 1) if copy else "")
    return writer.done({f"company_o{i}_0": operand for i, operand in enumerate(COMPANY.outputs) if operand})


def call(kernel: Kernel) -> Workload:
    """A network that does nothing, with the inputs and outputs of a real one."""
    writer = _Writer()
    writer.inputs = {f"i{i}": operand for i, operand in kernel.activations.items()}
    outputs = {f"o{i}": operand for i, operand in enumerate(kernel.outputs) if operand}
    writer.nodes = [helper.make_node("Identity", [f"ready_{name}"], [name]) for name in outputs]
    writer.tensors = [numpy_helper.from_array(operand.array(), f"ready_{name}") for name, operand in outputs.items()]
    return writer.done(outputs)


def network(model: onnx.ModelProto) -> Workload:
    """A whole network without its weights: convolutions and matrices of a usual size, the rest as norms need it.

    Weights that are in the model and not small leave it.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    shelf = _Shelf()
    for tensor in graph.graph.initializer:
        shape, small = tensor.dims, 4 * math.prod(tensor.dims) <= LARGE_BYTES
        if tensor.data_type != onnx.TensorProto.FLOAT or (small and tensor.data_location == 0):
            continue
        scale = math.sqrt(6 / math.prod(shape[1:])) if len(shape) > 1 else 0.0  # keeps the size of what flows through
        tensor.CopyFrom(shelf.put(tensor.name, tuple(shape), scale))
    return Workload(graph, tuple(shelf.weights))


def near_sets(kernel: Kernel) -> int:
    """With how many sets of its weights a kernel is timed."""
    size = weight_bytes(kernel)
    if size == 0:
        return 1
    return min(_NEAR_SETS, NEAR_BYTES // size) if size <= NEAR_BYTES else -(-MIDDLE_BYTES // size)


def least_copies(kernel: Kernel) -> int:
    """How many copies it takes, as a step of ``LADDER``, for large weights to be as far as ``near_sets`` has them."""
    large = weight_bytes(kernel) > NEAR_BYTES
    return next(step for step in LADDER if not large or step >= near_sets(kernel))


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of a kernel's weights."""
    return sum(operand.nbytes for operand in kernel.constants.values())


def far(kernel: Kernel) -> tuple[Workload, int]:
    """A kernel with weights that come from memory: copies that take turns within the whole block; and how many."""
    turns = max(1, BLOCK_BYTES // weight_bytes(kernel))
    return copies(kernel, turns, turns), turns


def composites(kernels: Sequence[Kernel], nbytes: int) -> Iterator[tuple[list[Kernel], Workload]]:
    """Kernels side by side, each of them four times, as ``stopwatch.distant_us`` reads them, in sessions of some each.

    Args:
        kernels: With weights that can be near.
        nbytes: Read and written between two uses of the same weights: ``MIDDLE_BYTES`` or all of the block. What the
            kernels leave of it is read first.
    """
    groups: dict[int, list[Kernel]] = {}
    for kernel in kernels:  # a session has one version of ONNX's own operators
        groups.setdefault(0 if kernel.domain else kernel.version, []).append(kernel)
    for group in groups.values():
        for part in _parts(group, nbytes):
            writer = _Writer()
            for number, kernel in enumerate(part):
                writer.operands(kernel, f"{number}_", 2)
                for name, turn in (("other", 1), ("same0", 0), ("same1", 0), ("more", 1)):
                    writer.kernel(kernel, name, f"{number}_", turn)
            used = min(nbytes - MB, sum(map(_traffic, part)))
            rest = (nbytes - used) // 4
            # The end of the block, as the kernels have its start.
            writer.tensors.append(writer.shelf.put_at(_BLOCK_FLOATS - rest, "rest", [rest]))
            writer.nodes.append(helper.make_node("ReduceMax", ["rest"], ["largest"], "rest", keepdims=0))
            yield part, writer.done({"largest": Operand(())})


def probe_network(batch: int) -> onnx.ModelProto:
    """A network of two convolutions with weights of a quarter of a megabyte each, and little else to read."""
    shapes = {"w0": (128, 64, 3, 3), "w1": (512, 128, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["middle"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["middle", "w1"], ["result"]),
    ]
    tensors = [_elsewhere(name, shape) for name, shape in shapes.items()]
    inputs, outputs = _values({"image": Operand((batch, 64, 4, 4))}), _values({"result": Operand((batch, 512, 4, 4))})
    graph = helper.make_graph(nodes, "probe", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _PLAIN_OPSET)], ir_version=_IR_VERSION)


def probes(kernels: Sequence[Kernel]) -> Iterator[tuple[Kernel, float, int, Workload]]:
    """Kernels whose weights take turns within so many bytes: kernel, those in units of 2**20, nodes, and the model."""
    for kernel, mb in itertools.product(kernels, PROBED_MB):
        turns = max(1, int(mb * MB) // weight_bytes(kernel))
        nodes = turns * max(1, _PROBE_NODES // turns)
        yield kernel, mb, nodes, copies(kernel, nodes, turns)


def _overwritten(kernel: Kernel) -> int | None:
    """Which of its inputs a kernel's output may replace: the last one of its shape."""
    result = kernel.outputs[0]
    return next((i for i, operand in reversed(kernel.activations.items()) if operand == result), None)


def _elsewhere(name: str, shape: Sequence[int]) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="handed over")
    return tensor


def _parts(kernels: Iterable[Kernel], nbytes: int) -> Iterator[list[Kernel]]:
    part: list[Kernel] = []
    for kernel in kernels:
        more = [*part, kernel]
        small = (
            sum(map(_traffic, more)) <= _PART_BYTES[nbytes] and sum(each.macs for each in more) <= _PART_MACS[nbytes]
        )
        if part and not (small and len(more) <= _MOST_KERNELS):
            yield part
            more = [kernel]
        part = more
    if part:
        yield part


def _traffic(kernel: Kernel) -> int:
    """Bytes that a kernel's place in a composite reads and writes: two sets of weights, its input and its output."""
    flow = (*kernel.activations.values(), *kernel.outputs)
    return 2 * weight_bytes(kernel) + sum(operand.nbytes for operand in flow if operand)


def _values(operands: dict[str, Operand]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, op.proto_type, op.shape) for name, op in operands.items()]
