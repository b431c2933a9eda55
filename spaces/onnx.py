"""An architecture and its tensors as an ONNX model, written straight from both.

Input ``image``: float32 (N, C, H, W), raw pixels in 0..1. Output ``logits``: (N, classes), before softmax. The batch
norm of a convolution is folded into it, which is exact; a `Norm` node stays a Mul and an Add, even right behind a
convolution. The input normalisation stays nodes of its own, too: folded into a zero-padded convolution it would be
wrong at the borders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from spaces.arch import Arch, Node, canonicalise, rename
from spaces.ops import (
    EPSILON,
    Act,
    Add,
    Concat,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Linear,
    Norm,
    Normalise,
    Pool,
    Shape,
    Zero,
)
from spaces.state import Tensors

#: The oldest operator set that has all we write, and a file version every runtime since 2022 reads.
OPSET = 17
IR_VERSION = 8

#: What a model without weights still holds: constants of so few values may steer an operator.
SMALL = 64

#: Their value there; neither 0 nor 1, as adding the one or multiplying by the other may be optimised away.
MADE_UP = 0.5

Array = npt.NDArray[np.floating[Any]]


def to_onnx(
    arch: Arch, tensors: Tensors | None, *, batch: int | None = 1, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """The ONNX model of a network in evaluation mode.

    Networks that differ only in names and order give the same bytes.

    Args:
        arch: The network.
        tensors: Its parameters and buffers (`State.best`). None leaves weights out, for whoever asks what the graph
            costs: constants of more than `SMALL` values are declared as external and are nowhere, the rest is made up.
        batch: Images at a time; None leaves it open.
        metadata: Written into the file as it is.
    """
    graph = _Graph(weightless=tensors is None)
    if tensors is None:
        canonical = arch.canonical()
        values = {key: np.broadcast_to(np.float32(MADE_UP), param.shape) for key, param in canonical.params.items()}
    else:
        # Without marks, branches alike but for their weights would stand in any order.
        arrays = {key: tensor.detach().numpy() for key, tensor in tensors.items()}
        canonical, names = canonicalise(arch, lambda name: _bytes(arrays, arch, arch[name]))
        values = {rename(names, key): array for key, array in arrays.items()}
    for node in canonical.nodes[1:]:
        shape, *_ = canonical.input_shapes(node.name)
        _write(graph, node, shape, {short: values[f"{node.name}.{short}"] for short in _shorts(canonical, node)})
    graph.nodes[-1].output[0] = "logits"
    image = canonical.image
    n: int | str = "N" if batch is None else batch
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "hwnas",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [n, image.channels, image.height, image.width])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [n, canonical.classes])],
        ),
        producer_name="hwnas",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    model.graph.initializer.extend(graph.constants)  # here, as the graph is copied into the model
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _shorts(arch: Arch, node: Node) -> list[str]:
    return list(node.op.params(arch.input_shapes(node.name)))


def _bytes(arrays: Mapping[str, Array], arch: Arch, node: Node) -> bytes:
    return b"".join(arrays[f"{node.name}.{short}"].tobytes() for short in _shorts(arch, node))


@dataclass
class _Graph:
    """Nodes and constants written so far. The value of node ``n3`` is called ``n3``, that of the first ``image``."""

    weightless: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Array) -> str:
        if self.weightless and value.size > SMALL:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="nowhere")
        else:
            tensor = numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
        self.constants.append(tensor)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def activation(self, act: str | None, source: str, output: str) -> None:
        """The activation, if any; without one `source` and `output` are the same name."""
        match act:
            case "relu":
                self.add("Relu", [source], output)
            case "hardswish":
                self.add("HardSwish", [source], output)
            case "silu":
                self.add("Mul", [source, self.add("Sigmoid", [source], f"{output}/sigmoid")], output)


def _write(graph: _Graph, node: Node, shape: Shape, arrays: Mapping[str, Array]) -> None:
    """One node; `shape` is that of its first input."""
    name, op = node.name, node.op
    inputs = ["image" if source == "n0" else source for source in node.inputs]
    act = getattr(op, "act", None)
    before_act = f"{name}/sum" if act else name
    match op:
        case Normalise():
            mean = graph.constant(f"{name}.mean", arrays["mean"].reshape(1, -1, 1, 1))
            std = graph.constant(f"{name}.std", arrays["std"].reshape(1, -1, 1, 1))
            graph.add("Div", [graph.add("Sub", [*inputs, mean], f"{name}/centred"), std], name)
        case Conv() | DepthwiseConv():
            filters = _folded(arrays) if op.norm else arrays
            constants = [graph.constant(f"{name}.{short}", values) for short, values in filters.items()]
            group = arrays["weight"].shape[0] if isinstance(op, DepthwiseConv) else 1
            graph.add("Conv", inputs + constants, before_act, group=group, **_window(op))
            graph.activation(act, before_act, name)
        case Add():
            total, *rest = inputs
            for i, other in enumerate(rest, start=1):
                total = graph.add("Add", [total, other], before_act if i == len(rest) else f"{name}/{i}")
            graph.activation(act, before_act, name)
        case Concat():
            graph.add("Concat", inputs, name, axis=1)
        case Act():
            graph.activation(act, inputs[0], name)
        case Norm():
            factor, shift = (
                graph.constant(f"{name}.{short}", values.reshape(1, -1, 1, 1))
                for short, values in zip(("scale", "shift"), _affine(arrays), strict=True)
            )
            graph.add("Add", [graph.add("Mul", [*inputs, factor], f"{name}/scaled"), shift], name)
        case Pool(pool="max"):
            graph.add("MaxPool", inputs, name, **_pooled(op, shape))
        case Pool():
            graph.add("AveragePool", inputs, name, count_include_pad=0, **_pooled(op, shape))
        case Zero():
            graph.add("Mul", [*inputs, graph.constant(f"{name}.zero", np.zeros(1, np.float32))], name)
        case GlobalPool():
            graph.add("Flatten", [graph.add("GlobalAveragePool", inputs, f"{name}/mean")], name, axis=1)
        case Linear():
            constants = [graph.constant(f"{name}.{short}", arrays[short]) for short in ("weight", "bias")]
            graph.add("Gemm", inputs + constants, name, transB=1)
        case other:
            raise AssertionError(f"no ONNX for {other}")


def _folded(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Weight and bias of a convolution and its norm in one; the products are float64 and never stored as such."""
    scale, bias = _affine(arrays)
    weight = np.empty(arrays["weight"].shape, np.float32)
    np.multiply(arrays["weight"], scale[:, None, None, None], out=weight, casting="same_kind")
    return {"weight": weight, "bias": bias}


def _affine(arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """A norm as scale and shift, in float64: they are rounded once, when written."""
    gamma, beta, mean, var = (arrays[short].astype(np.float64) for short in ("gamma", "beta", "mean", "var"))
    scale = gamma / np.sqrt(var + EPSILON)
    return scale, beta - mean * scale


def _window(op: Conv | DepthwiseConv) -> dict[str, Any]:
    return {"kernel_shape": [op.kernel] * 2, "strides": [op.stride] * 2, "pads": [op.kernel // 2] * 4}


def _pooled(op: Pool, shape: Shape) -> dict[str, Any]:
    before, after = zip(*(op.padding(size) for size in shape[1:]), strict=True)
    return {"kernel_shape": [op.kernel] * 2, "strides": [op.stride] * 2, "pads": [*before, *after]}
