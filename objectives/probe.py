"""`Probe`: an untrained network on one mini-batch; what several zero-cost proxies look at is computed once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.arch import Arch
from spaces.network import Layer, Network
from spaces.ops import Conv, DepthwiseConv, Linear
from spaces.state import Tensors


class Probe:
    """Batch norms count as in training: by the mini-batch. Everything is computed when it is first asked for.

    Args:
        arch: The network.
        tensors: Its initial tensors.
        images: Mini-batch in 0..1, (N, C, H, W), on the device that computes.
        labels: Their classes, (N,).

    Attributes:
        weights: Of the convolutions and linear layers in order, each a `torch.nn.Parameter`.
    """

    def __init__(self, arch: Arch, tensors: Tensors, images: Tensor, labels: Tensor) -> None:
        self.arch = arch
        self.tensors = tensors
        self.images = images.detach().requires_grad_()
        self.labels = labels
        self.network = Network(arch, tensors).to(images.device).train()
        self.weights = weights_of(self.network)

    @cached_property
    def _pass(self) -> tuple[Tensor, list[Tensor]]:
        """Class scores (N, classes), and outputs of the activations in order."""
        active: list[Tensor] = []
        with watching(self.network, activated=active.append):
            scores = self.network(self.images)
        return scores, active

    @cached_property
    def agreement(self) -> Tensor:
        """In how many activations each two images agree on being above 0, (N, N), float64.

        One that several layers read counts for each of them: were it computed before each, the network would be the
        same.
        """
        found = torch.zeros(len(self.images), len(self.images), dtype=torch.float64, device=self.images.device)
        readers = [len(self.arch.consumers[node.name]) for node in self.arch.nodes if getattr(node.op, "act", None)]
        for output, count in zip(self._pass[1], readers, strict=True):
            code = (output.detach() > 0).flatten(1).float()
            both, on = code @ code.T, code.sum(1)
            found += count * (2 * both - on[:, None] - on + code.shape[1])
        return found

    @cached_property
    def jacobian(self) -> Tensor:
        """Gradient of the sum of all class scores by the pixels, (N, C * H * W), float64."""
        scores, *_ = self._pass
        (found,) = gradients_of(scores.sum(), [self.images], keep=True)
        return found.flatten(1).double()

    @cached_property
    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        scores, active = self._pass
        loss = F.cross_entropy(scores, self.labels)
        found = gradients_of(loss, [*self.weights, *active], keep=True)
        return found[: len(self.weights)], found[len(self.weights) :]

    @property
    def gradients(self) -> list[Tensor]:
        """Of the loss by each of `weights`."""
        return self._gradients[0]

    @property
    def active(self) -> list[tuple[Tensor, Tensor]]:
        """Outputs of the activations, (N, channels, H, W), and the loss's gradients by them."""
        return list(zip(self._pass[1], self._gradients[1], strict=True))

    def parts(self, count: int) -> list[list[Tensor]]:
        """Gradients by each of `weights` of the loss on each of so many parts of the mini-batch."""
        found = []
        for images, labels in zip(self.images.detach().chunk(count), self.labels.chunk(count), strict=True):
            loss = F.cross_entropy(self.network(images), labels)
            found.append(gradients_of(loss, self.weights))
        return found


def weights_of(network: Network) -> list[nn.Parameter]:
    """Of the convolutions and linear layers, in order."""
    layers = [layer for layer in network.children() if isinstance(layer, Layer)]
    kinds = Conv | DepthwiseConv | Linear
    return [layer.get_parameter("weight") for layer in layers if isinstance(layer.op, kinds)]


def gradients_of(
    value: Tensor, tensors: Sequence[Tensor], *, keep: bool = False, differentiable: bool = False
) -> list[Tensor]:
    """Of a scalar by each of some tensors; zero where it does not depend on one.

    Args:
        value: The scalar.
        tensors: What it may depend on.
        keep: Whether there will be others of the same pass.
        differentiable: Whether there will be gradients of these.
    """
    found = torch.autograd.grad(
        value, tensors, retain_graph=keep or differentiable, create_graph=differentiable, allow_unused=True
    )
    return [
        torch.zeros_like(one) if gradient is None else gradient for one, gradient in zip(tensors, found, strict=True)
    ]


@contextmanager
def watching(
    network: Network,
    *,
    filtered: Callable[[Tensor], Any] | None = None,
    activated: Callable[[Tensor], Any] | None = None,
) -> Iterator[None]:
    """Show what flows through a network meanwhile.

    Args:
        network: Which.
        filtered: Is shown the output of each convolution, before its norm.
        activated: Is shown the output of each activation.
    """
    handles = []
    for layer in network.children():
        assert isinstance(layer, Layer)
        if filtered is not None and isinstance(layer.op, Conv | DepthwiseConv):
            handles.append(layer.filtered.register_forward_hook(_showing(filtered)))
        if activated is not None and getattr(layer.op, "act", None):
            handles.append(layer.register_forward_hook(_showing(activated)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _showing(show: Callable[[Tensor], Any]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        show(output)

    return hook
