"""Stock networks trained by the same recipe on the same data, so that a user sees whether the search paid."""

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from objectives import cost
from objectives.data import Data
from spaces.errors import ExportError
from spaces.network import Network
from spaces.onnx import to_onnx
from spaces.plain import PlainSpace
from spaces.space import Space
from spaces.state import initial_state

#: Channels that the first stage of a plain reference may have; each later stage has twice those of the one before.
PLAIN_WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

#: torchvision's networks shrink the map by 32 on the way.
SMALLEST_IMAGE = 32


@dataclass(frozen=True)
class Reference:
    """A stock network.

    Attributes:
        name: For tables.
        build: A new, untrained module: images in 0..1 to class scores.
        export: The trained module as ONNX, for a batch size; an ExportError where that cannot be written.
        params: Trainable parameters.
        macs: Multiply-accumulates for one image.
        peak_memory: Bytes of activations; None where the graph is not ours.
    """

    name: str
    build: Callable[[int], nn.Module]
    export: Callable[[nn.Module, int], onnx.ModelProto]
    params: int
    macs: int
    peak_memory: int | None


def references(space: Space[Any], data: Data, macs: Sequence[float]) -> list[Reference]:
    """Three plain chains of two convolutions a stage; torchvision's two where the images are large enough.

    The plain ones are scaled to the front, for an answer at equal cost: to the smallest, the middle (geometric mean)
    and the largest of its networks.

    Args:
        space: Gives the number of stages, if it is the plain one.
        data: What they are trained on.
        macs: Multiply-accumulates of each network of the front, at least one.
    """
    chains = space if isinstance(space, PlainSpace) else PlainSpace(data.shape, len(data.classes))
    plain = [_plain(chains, width, data) for width in PLAIN_WIDTHS]
    chosen: set[int] = set()
    for target in (min(macs), statistics.geometric_mean(macs), max(macs)):
        free = [i for i in range(len(plain)) if i not in chosen]
        chosen.add(min(free, key=lambda i: abs(math.log(plain[i].macs / target))))
    found = [plain[i] for i in sorted(chosen)]
    if min(data.shape[1:]) >= SMALLEST_IMAGE:
        found += [_torchvision(name, data) for name in ("mobilenet_v3_small", "resnet18")]
    return found


def _plain(space: PlainSpace, width: int, data: Data) -> Reference:
    arch = space.plain([width * 2**stage for stage in range(space.stages)], [2] * space.stages)

    def build(seed: int) -> nn.Module:
        return Network(arch, initial_state(arch, seed, mean=list(data.mean), std=list(data.std)).value)

    def export(module: nn.Module, batch: int) -> onnx.ModelProto:
        assert isinstance(module, Network)
        return to_onnx(arch, module.tensors(), batch=batch)

    return Reference(f"plain-{width}", build, export, cost.params(arch), cost.macs(arch), cost.peak_memory(arch))


class _Normalised(nn.Module):
    """A torchvision network behind the input normalisation; grey images count as colour."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, data: Data) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(data.mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(data.std).reshape(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images - self.mean) / self.std
        scores: torch.Tensor = self.network(x.expand(-1, 3, -1, -1))
        return scores


def _torchvision(name: str, data: Data) -> Reference:
    import torchvision  # a second to import, only for references

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = torchvision.models.get_model(name, weights=None, num_classes=len(data.classes))
        return _Normalised(network, data)

    def export(module: nn.Module, batch: int) -> onnx.ModelProto:
        images = torch.zeros(batch, *data.shape)
        model = module.cpu().eval()
        try:
            with warnings.catch_warnings():  # that its own code is dated is no matter of the user's (torch 2.9 to 2.11)
                warnings.simplefilter("ignore", FutureWarning)
                program = torch.onnx.export(
                    model, (images,), input_names=["image"], output_names=["logits"], dynamo=True, verbose=False
                )
        except Exception as error:  # torch's exporter, and what it imports, raise errors of many kinds
            raise ExportError(f"torch cannot export {name}: {type(error).__name__}: {error}") from error
        assert program is not None
        return program.model_proto

    module = build(0)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Reference(name, build, export, params, _macs(module, data), None)


def _macs(module: nn.Module, data: Data) -> int:
    """Convolutions and linear layers; a multiply-accumulate is two of torch's operations."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, *data.shape))
    return int(counter.get_total_flops()) // 2
