"""Eager PyTorch as a runtime: each operator of an ONNX network as the PyTorch call an application would make."""

from collections.abc import Callable
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from latency.kernels import Kernel
from latency.shapes import trace
from spaces.errors import LatencyError

TorchFunction = Callable[..., torch.Tensor]

_PLAIN: dict[str, TorchFunction] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "MatMul": torch.matmul,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax((2, 3), keepdim=True),
}


def torch_function(kernel: Kernel) -> TorchFunction:
    """The PyTorch function of a kernel that is one of ONNX's own operators.

    It takes the kernel's inputs in order, None for those left out. Whatever steers the kernel, such as the shape of a
    Reshape, is read off the kernel and not off a tensor, so that the function never waits for the device.

    Raises:
        LatencyError: If the operator, or a setting of it, has no counterpart here.

    >>> relu = torch_function(Kernel.parse("Relu@14 1x2 -> 1x2"))
    >>> relu(torch.tensor([[-1.0, 2.0]])).tolist()
    [[0.0, 2.0]]
    """
    if kernel.domain == "" and kernel.op in _PLAIN:
        return _PLAIN[kernel.op]
    get: Callable[[str, Any], Any] = kernel.attribute
    match kernel.op if kernel.domain == "" else "":
        case "Conv":
            stride, padding, dilation, groups = (
                get("strides", 1),
                _padding(kernel),
                get("dilations", 1),
                get("group", 1),
            )
            return lambda x, w, b=None: F.conv2d(x, w, b, stride, padding, dilation, groups)
        case "BatchNormalization":
            eps = get("epsilon", 1e-5)
            return lambda x, scale, shift, mean, var: F.batch_norm(x, mean, var, scale, shift, eps=eps)
        case "MaxPool":
            window, stride, padding, dilation = (
                get("kernel_shape", ()),
                get("strides", 1),
                _padding(kernel),
                get("dilations", 1),
            )
            ceil = bool(get("ceil_mode", 0))
            return lambda x: F.max_pool2d(x, window, stride, padding, dilation, ceil)
        case "AveragePool":
            window, stride, padding = get("kernel_shape", ()), get("strides", 1), _padding(kernel)
            ceil, count_padding = bool(get("ceil_mode", 0)), bool(get("count_include_pad", 0))
            return lambda x: F.avg_pool2d(x, window, stride, padding, ceil, count_padding)
        case "Gemm":
            alpha, beta = get("alpha", 1.0), get("beta", 1.0)
            flip_a, flip_b = bool(get("transA", 0)), bool(get("transB", 0))

            def gemm(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
                a, b = a.T if flip_a else a, b.T if flip_b else b
                return a @ b * alpha if c is None else torch.addmm(c, a, b, alpha=alpha, beta=beta)

            return gemm
        case "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze":
            shape = kernel.outputs[0].shape if kernel.outputs[0] else ()
            return lambda x, *_: x.reshape(shape)
        case "Concat":
            axis = get("axis", 1)
            return lambda *parts: torch.cat(parts, axis)
        case "Softmax":
            axis = get("axis", -1)
            return lambda x: torch.softmax(x, axis)
        case "Clip":
            low, high = (_number(kernel, i) for i in (1, 2))
            return lambda x, *_: torch.clamp(x, low, high)
        case "HardSigmoid":
            alpha, beta = get("alpha", 0.2), get("beta", 0.5)
            return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)
        case "LeakyRelu":
            slope = get("alpha", 0.01)
            return lambda x: F.leaky_relu(x, slope)
        case "ReduceMean":
            axes = get("axes", None) or (
                kernel.inputs[1].values if len(kernel.inputs) > 1 and kernel.inputs[1] else None
            )
            keep = bool(get("keepdims", 1))
            return lambda x, *_: x.mean(axes, keepdim=keep)
        case "Transpose":
            order = get("perm", None)
            return lambda x: x.permute(order)
    raise LatencyError(f"operator {kernel.op} has no counterpart in eager PyTorch here; it stands in {kernel}")


class EagerNetwork:
    """An ONNX network that runs operator by operator in PyTorch.

    Args:
        model: The network; its inputs have fixed shapes.
        place: Puts a tensor where, and as what, the network runs.

    Raises:
        LatencyError: If an operator has no counterpart here.
    """

    def __init__(self, model: onnx.ModelProto, place: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.program = trace(model)
        self._functions = [torch_function(kernel) for kernel in self.program.kernels]
        self._weights = {
            tensor.name: place(torch.from_numpy(numpy_helper.to_array(tensor).copy()))
            for tensor in (*model.graph.initializer, *_constants(model))
        }
        last_use = {name: i for i, step in enumerate(self.program.steps) for name in (*step.outputs, *step.inputs)}
        kept = {*self._weights, *self.program.outputs, ""}
        # Tensors go back to the allocator after their last use, as the variables of a forward method do.
        self._dead_after: list[list[str]] = [[] for _ in self.program.steps]
        for name, i in last_use.items():
            if name not in kept:
                self._dead_after[i].append(name)

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Run the network: tensors in the order of its inputs to tensors in the order of its outputs."""
        known: dict[str, torch.Tensor | None] = {"": None} | self._weights
        known.update(zip(self.program.inputs, inputs, strict=True))
        for step, function, dead in zip(self.program.steps, self._functions, self._dead_after, strict=True):
            known[step.outputs[0]] = function(*(known[name] for name in step.inputs))
            for name in dead:
                del known[name]
        return [tensor for name in self.program.outputs if (tensor := known[name]) is not None]


def _constants(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Tensors of Constant nodes, each named like the node's output."""
    tensors = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            tensors.append(tensor)
    return tensors


def _padding(kernel: Kernel) -> tuple[int, int] | int:
    """Padding of height and width, equal on both sides.

    Raises:
        LatencyError: If the operator is not two-dimensional or pads one side more than the other.
    """
    pads: Any = kernel.attribute("pads", (0, 0, 0, 0))
    if len(kernel.activations[0].shape) != 4 or pads[:2] != pads[2:] or kernel.attribute("auto_pad", "") != "":
        raise LatencyError(
            f"eager PyTorch here knows {kernel.op} in two dimensions with equal padding only, not {kernel}"
        )
    return pads[0], pads[1]


def _number(kernel: Kernel, i: int) -> float | None:
    operand = kernel.inputs[i] if i < len(kernel.inputs) else None
    return operand.values[0] if operand and operand.values else None
