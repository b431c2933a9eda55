"""How much a channel matters, from the weights alone: the share it has in the variance of what reads it."""

from math import pi, sqrt

import torch
from torch import Tensor

from spaces.arch import Arch
from spaces.channels import Segment, axes
from spaces.ops import Concat, Conv, DepthwiseConv, Linear, Norm, Role
from spaces.state import Tensors


def least_important(arch: Arch, segment: Segment, count: int, tensors: Tensors) -> set[int]:
    """The channels of a segment, by their number within it, that matter least."""
    order = importance(arch, segment, tensors).argsort(stable=True)
    return set(order[:count].tolist())


def importance(arch: Arch, segment: Segment, tensors: Tensors) -> Tensor:
    """Per channel of a segment, its part in the variance of every dense reader's sums, added up over the readers.

    Batch norm makes a channel's spread known without data: it is gamma, and after a ReLU that of a rectified normal
    distribution. A channel whose spread is small is nearly constant, and constants are absorbed by the next norm.
    Inputs of a sum count as independent.

    Returns:
        Non-negative float64 tensor (segment.size,).
    """
    found = axes(arch)
    spreads = _spreads(arch, tensors)
    total = torch.zeros(segment.size, dtype=torch.float64)
    for node in arch.nodes:
        if node.op.role is not Role.MAKES or segment not in found[node.inputs[0]]:
            continue
        power = _power(tensors[f"{node.name}.weight"].double())
        parts = power.sum(0) * spreads[node.inputs[0]].square()
        parts = parts / parts.sum().clamp(min=torch.finfo(torch.float64).tiny)
        offset = 0
        for part in found[node.inputs[0]]:
            if part == segment:
                total += parts[offset : offset + part.size]
            offset += part.size
    return total


def _spreads(arch: Arch, tensors: Tensors) -> dict[str, Tensor]:
    """Standard deviation of every channel of every node, as far as the weights tell."""
    spreads: dict[str, Tensor] = {}
    for node in arch.nodes:
        inputs = [spreads[source] for source in node.inputs]
        op = node.op
        own = {short: tensors[f"{node.name}.{short}"].double() for short in op.params(arch.input_shapes(node.name))}
        if op.role is Role.SOURCE:
            spread = torch.ones(arch.shapes[node.name][0], dtype=torch.float64)
        elif isinstance(op, Concat):
            spread = torch.cat(inputs)
        elif op.role is Role.TIES:
            spread = torch.stack(inputs).square().sum(0).sqrt()
        elif "gamma" in own:
            rectified = isinstance(op, Conv | DepthwiseConv) and op.act is not None
            spread = _rectified(own["beta"], own["gamma"].abs()) if rectified else own["gamma"].abs()
        elif isinstance(op, Conv | Linear):
            spread = torch.mv(_power(own["weight"]), inputs[0].square()).sqrt()
        elif isinstance(op, DepthwiseConv):
            spread = own["weight"].flatten(1).norm(dim=1) * inputs[0]
        else:
            assert not isinstance(op, Norm)
            spread = inputs[0]
        spreads[node.name] = spread
    return spreads


def _power(weight: Tensor) -> Tensor:
    """Squared weight between each output and input channel, (out, in)."""
    power: Tensor = weight.square().reshape(*weight.shape[:2], -1).sum(2)
    return power


def _rectified(mean: Tensor, std: Tensor) -> Tensor:
    """Standard deviation of max(0, x), x normal; the other activations are near enough to it."""
    std = std.clamp(min=1e-12)
    z = mean / std
    density = (-z.square() / 2).exp() / sqrt(2 * pi)
    above = torch.special.ndtr(z)
    first = mean * above + std * density
    second = (mean.square() + std.square()) * above + mean * std * density
    spread: Tensor = (second - first.square()).clamp(min=0).sqrt()
    return spread
