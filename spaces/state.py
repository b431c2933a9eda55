"""`State`: the tensors of a network, in slots, each a flat mapping ``"node.param" -> Tensor``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from spaces.arch import Arch, rename
from spaces.errors import ArchError
from spaces.ops import Normalise, Param

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class State:
    """Weights and what training left behind.

    Attributes:
        value: Parameters and buffers (batch-norm statistics, input normalisation).
        ema: Their exponential moving average; empty where none was kept.
        momentum: The optimiser's momentum of the trainable ones; empty before training.
    """

    value: Tensors
    ema: Tensors = field(default_factory=dict)
    momentum: Tensors = field(default_factory=dict)

    @property
    def best(self) -> Tensors:
        """What to evaluate and export: the moving average where there is one."""
        return self.ema or self.value

    def renamed(self, names: Mapping[str, str]) -> "State":
        """The same tensors under new node names, ``{old: new}``."""
        return State(*({rename(names, key): t for key, t in slot.items()} for slot in self.slots().values()))

    def slots(self) -> dict[str, Tensors]:
        """Slots by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def flat(self) -> dict[str, Tensor]:
        """One mapping for storage, ``"slot/node.param" -> Tensor``."""
        return {f"{slot}/{key}": tensor for slot, tensors in self.slots().items() for key, tensor in tensors.items()}

    @classmethod
    def from_flat(cls, flat: Tensors) -> "State":
        """The state that :meth:`flat` wrote."""
        slots: dict[str, dict[str, Tensor]] = {f.name: {} for f in fields(cls)}
        for key, tensor in flat.items():
            slot, _, name = key.partition("/")
            slots[slot][name] = tensor
        return cls(**slots)


def fresh_tensor(param: Param, generator: torch.Generator, shape: tuple[int, ...] | None = None) -> Tensor:
    """A new tensor as its op wants it to start, float64 on the CPU.

    Args:
        param: What the op says of it; ``"he"`` is He et al., ICCV 2015 (normal, fan-in).
        generator: Source of the random numbers.
        shape: Another shape than the whole tensor's, for some of its rows.
    """
    shape = param.shape if shape is None else shape
    if param.init == "he":
        return torch.randn(shape, dtype=torch.float64, generator=generator) * math.sqrt(2 / param.fan_in)
    return torch.full(shape, 1.0 if param.init == "ones" else 0.0, dtype=torch.float64)


def initial_state(
    arch: Arch, seed: int = 0, *, mean: list[float] | None = None, std: list[float] | None = None
) -> State:
    """Random weights, float32 on the CPU.

    Args:
        arch: The network.
        seed: Of all random numbers.
        mean: Per channel, of the training images in 0..1; kept in the `Normalise` node.
        std: Likewise.

    Raises:
        ArchError: The images have another number of channels, or cannot be normalised by such values.
    """
    for short, given, least in (("mean", mean, -math.inf), ("std", std, 0.0)):
        if given is not None and len(given) != arch.image.channels:
            raise ArchError(f"{short} has {len(given)} values, the images have {arch.image.channels} channels")
        if given is not None and not all(least < number < math.inf for number in given):
            raise ArchError(f"{short} is {given}, its values must be above {least} and finite")
    generator = torch.Generator().manual_seed(seed)
    value = {key: fresh_tensor(param, generator).float() for key, param in arch.params.items()}
    for node in arch.nodes:
        if isinstance(node.op, Normalise):
            for short, given in (("mean", mean), ("std", std)):
                if given is not None:
                    value[f"{node.name}.{short}"] = torch.tensor(given, dtype=torch.float32)
    return State(value)
