"""`Network`: an architecture and its tensors as a `torch.nn.Module`, and back."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.arch import Arch, Node
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
    Op,
    Pool,
    Zero,
)
from spaces.state import Tensors

#: Numbers in a cache line, which threads had better not share.
_LINE = 16

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "hardswish": F.hardswish, "silu": F.silu}


def activate(act: str | None, x: Tensor) -> Tensor:
    """Apply an activation by name; None leaves `x` as it is."""
    return x if act is None else _ACTIVATIONS[act](x)


def _overwriting(act: str | None, x: Tensor) -> Tensor:
    """The same for a tensor that nobody else needs, nor its own gradient: less memory to go through."""
    return F.relu_(x) if act == "relu" else activate(act, x)


class Layer(nn.Module):
    """One node: its tensors as parameters and buffers by their short names, its op as `forward`."""

    weight: Tensor
    bias: Tensor
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor
    std: Tensor

    def __init__(self, op: Op, own: dict[str, Tensor], trainable: set[str]) -> None:
        super().__init__()
        self.op = op
        self.filtered = nn.Identity()  # what a convolution makes, before its norm: for hooks
        for short, tensor in own.items():
            if short in trainable:
                self.register_parameter(short, nn.Parameter(tensor))
            else:
                self.register_buffer(short, tensor)

    def _norm(self, x: Tensor) -> Tensor:
        # On a CPU each thread sums the gradients of a channels-last map into a row of its own. Where rows are shorter
        # than a cache line the threads wait for each other, and a whole network is two times slower to train.
        if self.training and x.shape[1] < _LINE and x.device.type == "cpu" and torch.get_num_threads() > 1:
            x = x.contiguous()
        return F.batch_norm(
            x, self.mean, self.var, self.gamma, self.beta, training=self.training, momentum=0.1, eps=EPSILON
        )

    def _filtered(self, x: Tensor, op: Conv | DepthwiseConv) -> Tensor:
        bias, stride = None if op.norm or not op.bias else self.bias, op.stride
        if op.kernel == 1 and stride > 1:
            # Less work, and on a CPU oneDNN's gradient of this one writes outside its memory, in float32, for an odd
            # number of channels-last maps of 8 channels on two threads (seen with torch 2.15).
            x, stride = x[:, :, ::stride, ::stride], 1
        if isinstance(op, Conv):
            return F.conv2d(x, self.weight, bias, stride, op.kernel // 2)
        if x.device.type == "cpu":
            # Any other order is up to three times slower; and so is bf16, up to seven times, in the gradient.
            x = x.contiguous(memory_format=torch.channels_last)
        exempt = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False) if exempt else nullcontext():
            x = x.float() if exempt else x
            return F.conv2d(x, self.weight, bias, stride, op.kernel // 2, groups=x.shape[1])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Output of the node, (N, C, H, W) or (N, features)."""
        x = inputs[0]
        match self.op:
            case Conv() | DepthwiseConv() as op:
                x = self.filtered(self._filtered(x, op))
                return _overwriting(op.act, self._norm(x)) if op.norm else activate(op.act, x)
            case Add(act=act):
                return _overwriting(act, sum(inputs[1:], x))
            case Concat():
                return torch.cat(inputs, 1)
            case Act(act=act):
                return activate(act, x)
            case Norm():
                return self._norm(x)
            case Normalise():
                return (x - self.mean[:, None, None]) / self.std[:, None, None]
            case Pool(pool="max") as op:
                # An even window is not padded; rounding up then gives the last one that is cut off.
                return F.max_pool2d(x, op.kernel, op.stride, op.padding(0)[0], ceil_mode=op.kernel % 2 == 0)
            case Pool() as op:
                return F.avg_pool2d(
                    x, op.kernel, op.stride, op.padding(0)[0], ceil_mode=op.kernel % 2 == 0, count_include_pad=False
                )
            case Zero():
                return torch.zeros_like(x)
            case GlobalPool():
                return x.mean((2, 3))
            case Linear():
                return F.linear(x, self.weight, self.bias)
            case other:
                raise AssertionError(f"no forward for {other}")


class Network(nn.Module):
    """The module of an architecture: images in 0..1, shape (N, C, H, W), to class scores (N, classes).

    Its `state_dict` has exactly the keys of `arch.params`. The tensors are copied.
    """

    def __init__(self, arch: Arch, tensors: Tensors) -> None:
        super().__init__()
        self.arch = arch
        for node in arch.nodes[1:]:  # the first is the image itself
            # Not by `add_module`, which refuses what is an attribute already, such as a node named "forward".
            self._modules[node.name] = _layer(arch, node, tensors)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before softmax."""
        return self.features(images, (self.arch.output,))[0]

    def features(self, images: Tensor, names: Iterable[str]) -> list[Tensor]:
        """Outputs of some nodes, in one run of the network; no output is kept longer than needed."""
        names = list(names)
        outputs = {self.arch.nodes[0].name: images}
        unread = {name: len(readers) for name, readers in self.arch.consumers.items()}
        for name in names:
            unread[name] += 1
        layers = dict(self.named_children())
        for node in self.arch.nodes[1:]:
            outputs[node.name] = layers[node.name](*(outputs[source] for source in node.inputs))
            for source in node.inputs:
                unread[source] -= 1
                if not unread[source]:
                    outputs.pop(source, None)
        return [outputs[name] for name in names]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by ``"node.param"``: detached float32 copies on the CPU."""
        own = self.state_dict()
        return {key: own[key].detach().to("cpu", torch.float32, copy=True).contiguous() for key in self.arch.params}


def _layer(arch: Arch, node: Node, tensors: Tensors) -> Layer:
    params = node.op.params(arch.input_shapes(node.name))
    own = {short: tensors[f"{node.name}.{short}"].detach().clone() for short in params}
    return Layer(node.op, own, {short for short, param in params.items() if param.trainable})


@torch.no_grad()
def calibrate(arch: Arch, tensors: Tensors, nodes: Iterable[str], images: Tensor) -> Tensors:
    """Set some batch norms from a batch so that in training mode, too, each hands its input on as it is.

    Mean and variance become those of the batch, as the network in training mode sees it; gamma and beta undo them.
    Meant for the norms that :class:`~spaces.morphisms.Deepen` puts in, whose input reaches them through an identity. A
    step of its own, with data, and therefore no part of a transfer.

    Args:
        arch: The architecture.
        tensors: Its tensors; not changed.
        nodes: The nodes whose norm is set, those without a norm are passed over.
        images: Batch in 0..1, (N, C, H, W).

    Returns:
        All tensors, those of the norms new.
    """
    calibrated = dict(tensors)
    chosen = set(nodes)
    for node in arch.nodes:
        if node.name not in chosen or not isinstance(node.op, Conv | DepthwiseConv) or not node.op.norm:
            continue
        network = Network(arch, calibrated).train()
        (x,) = network.features(images, node.inputs)
        groups = x.shape[1] if isinstance(node.op, DepthwiseConv) else 1
        weight = calibrated[f"{node.name}.weight"]
        x = F.conv2d(x, weight, None, node.op.stride, node.op.kernel // 2, groups=groups)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        new = {"mean": mean, "var": variance, "gamma": (variance + EPSILON).sqrt(), "beta": mean.clone()}
        calibrated.update({f"{node.name}.{short}": tensor for short, tensor in new.items()})
    return calibrated
