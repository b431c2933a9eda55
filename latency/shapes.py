"""The shape pass: from a graph to its kernels, every operand's shape known.

A runtime writes its optimised graph without shapes, and in operators of its own that ONNX's inference does not know.
So: one node at a time, ONNX's own inference where the operator is standard or computes shapes like a standard one,
a rule of ours for the few that change the layout. Results are cached by kernel, because networks repeat theirs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import onnx
from onnx import TypeProto, helper, shape_inference

from latency.kernels import Kernel, Operand, constant, dtype_name, make_kernel
from spaces.errors import LatencyError

_ONNX = "ai.onnx"
_NCHWC = "com.microsoft.nchwc"
_MICROSOFT = "com.microsoft"
# Operators of ONNX Runtime whose output has the shape that a standard operator gives: name and inputs that count.
_LIKE_STANDARD = {
    (_NCHWC, "Conv"): ("Conv", 3),
    (_NCHWC, "MaxPool"): ("MaxPool", 1),
    (_NCHWC, "AveragePool"): ("AveragePool", 1),
    (_NCHWC, "GlobalMaxPool"): ("GlobalMaxPool", 1),
    (_NCHWC, "GlobalAveragePool"): ("GlobalAveragePool", 1),
    (_MICROSOFT, "FusedConv"): ("Conv", 3),
    (_MICROSOFT, "FusedGemm"): ("Gemm", 3),
    (_MICROSOFT, "Gelu"): ("Relu", 1),
    (_MICROSOFT, "FastGelu"): ("Relu", 1),
    (_MICROSOFT, "QuickGelu"): ("Relu", 1),
    (_MICROSOFT, "BiasGelu"): ("Relu", 1),
}


@dataclass(frozen=True)
class Step:
    """A kernel in its place: which tensors of the graph it reads and writes.

    Attributes:
        kernel: The work.
        inputs: Names of the tensors read; empty for an optional input left out.
        outputs: Names of the tensors written; empty for an optional output left out.
    """

    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A graph as its kernels, in the order in which they run.

    Attributes:
        inputs: What a caller feeds, by name.
        steps: The kernels in their places.
        outputs: What a caller gets, by name.
    """

    inputs: dict[str, Operand]
    steps: tuple[Step, ...]
    outputs: dict[str, Operand]

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels without their places."""
        return [step.kernel for step in self.steps]

    @property
    def footprint(self) -> int:
        """Bytes that pass through the caches between two uses of the same weight: about one inference's.

        All weights, and the memory that activations take turns in: what is alive at most, and as much again, since a
        tensor is written where an earlier one lay and not where the last one did.
        """
        weights: dict[str, int] = {}
        last: dict[str, int] = {}
        for i, step in enumerate(self.steps):
            weights |= {step.inputs[j]: operand.nbytes for j, operand in step.kernel.constants.items()}
            last |= dict.fromkeys((*step.inputs, *step.outputs), i)
        alive, most = {name: operand.nbytes for name, operand in self.inputs.items()}, 0
        for i, step in enumerate(self.steps):
            written = zip(step.outputs, step.kernel.outputs, strict=True)
            alive |= {name: operand.nbytes for name, operand in written if operand}
            most = max(most, sum(alive.values()))
            for name in {*step.inputs, *step.outputs}:
                if last[name] == i:
                    alive.pop(name, None)
        return sum(weights.values()) + 2 * most


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model with its free first dimensions set to ``batch``; itself when there is nothing free.

    Raises:
        LatencyError: If it was exported for another batch, or leaves another dimension free.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for value in _graph_inputs(model.graph):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if not dims or 0 in dims[1:]:
            raise LatencyError(
                f"input {value.name!r} has the shape {_shape_text(value)}; all but the batch must be fixed numbers: "
                "export the model for one image size"
            )
        if dims[0] not in (0, batch):
            raise LatencyError(
                f"input {value.name!r} has the shape {_shape_text(value)}, but the deployment's batch is {batch}; "
                "export the model for that batch or with a free first dimension"
            )
        if dims[0] == 0:
            wanted[value.name] = (batch, *dims[1:])
    if not wanted:
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in wanted:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    # Stored shapes speak of the free batch still.
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def input_operands(graph: onnx.GraphProto) -> dict[str, Operand]:
    """What a caller feeds, by name; every dimension must be fixed (see ``fix_batch``)."""
    operands = {}
    for value in _graph_inputs(graph):
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        operands[value.name] = Operand(shape, dtype_name(tensor.elem_type, value.name))
    return operands


def trace(model: onnx.ModelProto) -> Program:
    """The graph's kernels, in order, with all shapes.

    Args:
        model: A network whose inputs have fixed shapes (see ``fix_batch``).

    Raises:
        LatencyError: If a node's shapes cannot be known: the message names the node and its operator.
    """
    model = _short_domains(model)
    graph = model.graph
    inputs = input_operands(graph)
    known = inputs | {tensor.name: constant(tensor) for tensor in graph.initializer}
    versions = {opset.domain: opset.version for opset in model.opset_import}
    blocked_channels = dict(_blocked_channels(graph, known))
    steps = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = constant(node.attribute[0].t)
            continue
        operands = tuple(known[name] if name else None for name in node.input)
        kernel = make_kernel(node, _since(node, versions), operands)
        if kernel.op == "ReorderInput":
            outputs: tuple[Operand | None, ...] = (_reordered(kernel, blocked_channels.get(node.output[0])),)
        else:
            present = tuple(bool(name) for name in node.output)
            outputs = infer_outputs(kernel, present)
        known.update((name, operand) for name, operand in zip(node.output, outputs, strict=True) if operand)
        steps.append(Step(replace(kernel, outputs=outputs), tuple(node.input), tuple(node.output)))
    return Program(inputs, tuple(steps), {value.name: known[value.name] for value in graph.output})


@lru_cache(maxsize=1 << 16)
def infer_outputs(kernel: Kernel, present: tuple[bool, ...]) -> tuple[Operand | None, ...]:
    """What a kernel writes.

    Args:
        kernel: The kernel; its own ``outputs`` are not read.
        present: For each output, whether it is wanted.

    Raises:
        LatencyError: If the operator is not known or its output's shape depends on the data.

    >>> line = "Conv@11 1x3x32x32 w:16x3x3x3 -> _ pads=1x1x1x1 strides=2x2"
    >>> infer_outputs(Kernel.parse(line), (True,))
    (Operand(shape=(1, 16, 16, 16), dtype='f32', constant=False, values=None),)
    """
    if kernel.op == "ReorderOutput":
        blocked = kernel.activations[0]
        batch, _, height, width = blocked.shape
        channels = kernel.attribute("channels", 0)
        assert isinstance(channels, int)
        last = kernel.attribute("channels_last", 0)
        return (Operand((batch, height, width, channels) if last else (batch, channels, height, width), blocked.dtype),)
    op, count = _LIKE_STANDARD.get((kernel.domain, kernel.op), (kernel.op, len(kernel.inputs)))
    if kernel.domain and (kernel.domain, kernel.op) not in _LIKE_STANDARD:
        raise LatencyError(f"operator {kernel.domain}.{kernel.op} is not supported: the shape of its output is unknown")
    schema = onnx.defs.get_schema(op, kernel.version if not kernel.domain else onnx.defs.onnx_opset_version(), "")
    inputs = kernel.inputs[:count]
    names = [f"i{i}" if operand else "" for i, operand in enumerate(inputs)]
    outputs = [f"o{i}" if wanted else "" for i, wanted in enumerate(present)]
    allowed: dict[str, Any] = {name: value for name, value in kernel.attributes if name in schema.attributes}
    node = helper.make_node(op, names, outputs, **allowed)
    types = {
        name: helper.make_tensor_type_proto(operand.proto_type, operand.shape)
        for name, operand in zip(names, inputs, strict=True)
        if operand
    }
    data = {
        name: helper.make_tensor(name, operand.proto_type, operand.shape, operand.values)
        for name, operand in zip(names, inputs, strict=True)
        if operand and operand.values is not None
    }
    try:
        inferred = shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", schema.since_version)]
        )
    except onnx.shape_inference.InferenceError as error:
        raise LatencyError(f"the shapes of {kernel} do not fit together: {error}") from error
    return tuple(_operand(kernel, name, inferred) if name else None for name in outputs)


def _operand(kernel: Kernel, name: str, inferred: dict[str, TypeProto]) -> Operand:
    tensor = inferred[name].tensor_type if name in inferred else TypeProto.Tensor()
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    if not tensor.HasField("shape") or -1 in shape:
        raise LatencyError(
            f"operator {kernel.op} is not supported here: the shape of its output depends on the data, in {kernel}"
        )
    return Operand(shape, dtype_name(tensor.elem_type, name))


def _short_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ONNX's own operators in the domain "", which may be written "ai.onnx" too."""
    if all(entry.domain != _ONNX for entry in (*model.opset_import, *model.graph.node)):
        return model
    short = onnx.ModelProto()
    short.CopyFrom(model)
    for entry in (*short.opset_import, *short.graph.node):
        entry.domain = "" if entry.domain == _ONNX else entry.domain
    return short


def _since(node: onnx.NodeProto, versions: dict[str, int]) -> int:
    """The operator-set version in which the node's operator last changed, so that opsets 17 and 18 share kernels."""
    if node.domain:
        return 1
    if not onnx.defs.has(node.op_type):
        raise LatencyError(f"operator {node.op_type} of node {node.name or node.output[0]!r} is not in ONNX")
    return int(onnx.defs.get_schema(node.op_type, versions.get("", 1)).since_version)


def _blocked_channels(graph: onnx.GraphProto, known: dict[str, Operand]) -> Iterator[tuple[str, int]]:
    """Channels, padded to the runtime's block, that each blocked convolution reads."""
    for node in graph.node:
        if (node.domain, node.op_type) == (_NCHWC, "Conv"):
            group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            yield node.input[0], known[node.input[1]].shape[1] * group


def _reordered(kernel: Kernel, channels: int | None) -> Operand:
    """The output of ReorderInput.

    Only a convolution may read padded channels, and its weights tell how many; all else needs whole blocks.
    """
    plain = kernel.activations[0]
    last = kernel.attribute("channels_last", 0)
    batch, own, height, width = (plain.shape[i] for i in ((0, 3, 1, 2) if last else (0, 1, 2, 3)))
    return Operand((batch, channels or own, height, width), plain.dtype)


def _graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are not weights: old files list their weights among the inputs too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _shape_text(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"[{', '.join(str(dim.dim_value or dim.dim_param or '?') for dim in dims)}]"
