"""Costs that follow from the structure: parameters, multiply-accumulates, peak memory; and latency from a table."""

from collections.abc import Callable, Sequence
from math import prod

from latency import LatencyTable
from objectives.base import Estimate, Objective
from spaces.arch import Arch
from spaces.onnx import to_onnx

#: Activations are counted as float32.
BYTES_PER_VALUE = 4

#: How often a step of training holds each activation, about: itself, its gradient, what a layer makes on the way.
TRAINED_COPIES = 3


def params(arch: Arch) -> int:
    """Number of trainable parameters.

    >>> from spaces.arch import chain
    >>> from spaces.ops import Conv, GlobalPool, Input, Linear
    >>> params(chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10)))  # 108 + 8, 40 + 10
    166
    """
    return arch.n_params


def macs(arch: Arch) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one image."""
    return sum(node.op.macs(arch.input_shapes(node.name)) for node in arch.nodes)


def peak_memory(arch: Arch) -> int:
    """Most bytes of activations alive at once for one image, nodes run in canonical order.

    While a node runs, its inputs, its output and everything a later node reads are alive. An activation or a sum is
    not counted as done in place: runtimes differ in that.
    """
    last_reader = {source: node.name for node in arch.nodes for source in node.inputs}
    alive = peak = 0
    sizes = {name: BYTES_PER_VALUE * prod(shape) for name, shape in arch.shapes.items()}
    for node in arch.nodes:
        alive += sizes[node.name]
        peak = max(peak, alive)
        alive -= sum(sizes[source] for source in dict.fromkeys(node.inputs) if last_reader[source] == node.name)
    return peak


def training_memory(arch: Arch, batch_size: int) -> int:
    """About how many bytes one training step takes: all activations, kept for the backward pass, and gradients."""
    return TRAINED_COPIES * batch_size * BYTES_PER_VALUE * sum(prod(shape) for shape in arch.shapes.values())


def _structural(count: Callable[[Arch], int]) -> Callable[[Sequence[Arch]], list[Estimate]]:
    return lambda archs: [Estimate.exact(count(arch)) for arch in archs]


PARAMS = Objective("params", _structural(params))
MACS = Objective("macs", _structural(macs))
PEAK_MEMORY = Objective("peak_memory", _structural(peak_memory))


def latency(table: LatencyTable, name: str = "latency", *, allow_estimates: bool = False) -> Objective:
    """Milliseconds for one batch, from a table of the target device; kernels it lacks are measured on the way.

    Weights do not matter to a kernel's time, so the network is lowered without.

    Args:
        table: Of the device.
        name: Of the objective, where there are several devices.
        allow_estimates: Whether kernels that the table lacks are estimated, and not measured.
    """

    def estimate(archs: Sequence[Arch]) -> list[Estimate]:
        batch = table.runtime.deployment.batch
        models = [to_onnx(arch, None, batch=batch) for arch in archs]
        predicted = table.predict_many(models, allow_estimates=allow_estimates)
        return [Estimate(found.ms, found.low_ms, found.high_ms) for found in predicted]

    return Objective(name, estimate)
