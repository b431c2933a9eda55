"""Small networks, and a runtime whose kernels take exactly what a test says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency.deployment import Bundled, Deployment
from latency.kernels import Kernel
from latency.memory import Memory
from latency.shapes import Program, fix_batch, trace
from latency.stopwatch import Stopwatch


class Net:
    """Writes an ONNX network node by node; every method returns the name of the tensor it made."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def floats(self, *shape: int) -> str:
        return self.weight(self.rng.normal(size=shape, scale=0.3).astype(np.float32))

    def add(self, op: str, *inputs: str, domain: str = "", **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def conv(self, x: str, before: int, after: int, kernel: int = 3, **attributes) -> str:
        group = attributes.get("group", 1)
        weights = self.floats(after, before // group, kernel, kernel), self.floats(after)
        return self.add("Conv", x, *weights, pads=[kernel // 2] * 4, **attributes)

    def model(self, output: str, shape, result, *, opset: int = 17, elem: int = TensorProto.FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", elem, shape)],
            [helper.make_tensor_value_info(output, elem, result)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def cnn(width: int = 16, size: int = 16, *, batch: int | str = 1, opset: int = 17) -> onnx.ModelProto:
    """A network with every operator that the project's own exporter writes."""
    net = Net(seed=width)
    x = net.add("Sub", "image", net.floats(1, 3, 1, 1))
    x = net.add("Mul", x, net.floats(1, 3, 1, 1))
    x = net.add("Relu", net.conv(x, 3, width))
    y = net.conv(net.add("HardSwish", net.conv(x, width, width)), width, width)
    x = net.add("Relu", net.add("Add", y, x))
    gate = net.add("GlobalAveragePool", x)
    gate = net.add("Sigmoid", net.conv(net.add("Relu", net.conv(gate, width, 4, 1)), 4, width, 1))
    x = net.add("Mul", net.conv(x, width, width, 5, group=width), gate)
    scale = [net.weight(np.full(width, value, np.float32)) for value in (1.5, 0.5, 0.25, 2.0)]
    x = net.add("BatchNormalization", x, *scale)
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    x = net.add("Concat", net.add("MaxPool", x, **window), net.add("AveragePool", x, **window), axis=1)
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    x = net.add("Softmax", net.add("Gemm", x, net.floats(10, 2 * width), net.floats(10), transB=1))
    model = net.model(x, [batch, 3, size, size], [batch, 10], opset=opset)
    onnx.checker.check_model(model)
    return model


@dataclass
class ScriptedRuntime:
    """A runtime by the book: a kernel takes what the script says, a call costs 5 us more.

    It notes what it is asked for: networks, and kernels when they are to run once, with which a measurement begins.
    """

    deployment: Deployment = field(default_factory=lambda: Deployment("ort-cpu", "Scripted 1 neon"))
    version: str = "scripted 1.0"
    bundled: Bundled | None = None
    driver: str = "none"
    here: bool = True
    seconds: Callable[[Kernel], float] = lambda kernel: 1e-6 * len(str(kernel))
    far: Callable[[Kernel], float] = lambda kernel: 0.0
    launching: Callable[[Kernel], float] = lambda kernel: 0.0
    near_and_far: Memory | None = None
    asked: list[str] = field(default_factory=list)

    def lower(self, model: onnx.ModelProto) -> Program:
        return trace(fix_batch(model, self.deployment.batch))

    def kernel(self, kernel: Kernel, copies: int) -> Stopwatch:
        if copies == 1:
            self.asked.append(kernel.op)
        total = 5e-6 + copies * self.seconds(kernel)
        return lambda: total

    def launch(self, kernels: Sequence[Kernel]) -> list[float]:
        return [1e6 * self.launching(kernel) for kernel in kernels]

    def distant(self, kernels: Sequence[Kernel], near_us: Sequence[float]) -> list[tuple[float, float]]:
        return [(0.5e6 * self.far(kernel), 1e6 * self.far(kernel)) for kernel in kernels]

    def memory(self) -> Memory | None:
        return self.near_and_far

    def network(self, model: onnx.ModelProto) -> Stopwatch:
        self.asked.append(model.graph.name)
        total = 5e-6 + sum(self.seconds(kernel) for kernel in self.lower(model).kernels)
        return lambda: total


@pytest.fixture
def net() -> type[Net]:
    return Net


@pytest.fixture
def make_cnn() -> Callable[..., onnx.ModelProto]:
    return cnn


@pytest.fixture
def scripted() -> type[ScriptedRuntime]:
    return ScriptedRuntime
