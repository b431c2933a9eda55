"""Operations: what a node of an architecture computes, as data.

Each op states its output shape, its tensors, its multiply-accumulates and its *channel role*, which is all that the
rest of the project needs to know about it. Shapes leave out the batch: ``(channels, height, width)``, or
``(features,)`` after :class:`GlobalPool`. Spatial ops pad "same": a stride of ``s`` turns ``h`` into ``ceil(h / s)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from math import prod
from typing import Any, ClassVar

from spaces.errors import ArchError
from spaces.record import check_types, from_json

Shape = tuple[int, ...]

#: Activations. Every one of them maps zero to zero.
ACTIVATIONS = ("relu", "hardswish", "silu")

#: Added to the variance in every batch norm; a network and its exported file use the same one.
EPSILON = 1e-5


class Role(Enum):
    """What an op does to the channels of its inputs."""

    SOURCE = "source"  # the image: fixed
    MAKES = "makes"  # new channels, mixed from all input channels
    KEEPS = "keeps"  # output channel i depends on input channel i alone
    TIES = "ties"  # channel i of every input is the same channel
    STACKS = "stacks"  # the channels of the inputs, one after the other


@dataclass(frozen=True)
class Param:
    """One tensor of an op: its shape, which dimension is which channel axis, and how it starts.

    Attributes:
        shape: The tensor's shape.
        axes: Per dimension ``"out"``, ``"in"`` or ``""`` (a dimension that is no channel axis).
        init: ``"he"`` (He normal, fan-in), ``"zeros"`` or ``"ones"``.
        trainable: False for buffers (batch-norm statistics, the input normalisation).
    """

    shape: Shape
    axes: tuple[str, ...]
    init: str
    trainable: bool = True

    @property
    def fan_in(self) -> int:
        """Inputs that one output value is summed over."""
        return prod(self.shape[1:])


def _norm_params(channels: int) -> dict[str, Param]:
    out = ("out",)
    return {
        "gamma": Param((channels,), out, "ones"),
        "beta": Param((channels,), out, "zeros"),
        "mean": Param((channels,), out, "zeros", trainable=False),
        "var": Param((channels,), out, "ones", trainable=False),
    }


def _positive(op: object, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ArchError(f"{type(op).__name__}: {name} is {value!r}, it must be a whole number of at least 1")


def _strided(size: int, stride: int) -> int:
    return -(-size // stride)


@dataclass(frozen=True)
class Op:
    """Base of all operations; a subclass states its role and overrides what differs from the identity."""

    role: ClassVar[Role] = Role.KEEPS

    def __post_init__(self) -> None:
        check_types(self, ArchError)

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output, given those of the inputs; raises :class:`ArchError` where they do not fit."""
        return inputs[0]

    def params(self, inputs: Sequence[Shape]) -> dict[str, Param]:
        """Tensors by their short name."""
        return {}

    def macs(self, inputs: Sequence[Shape]) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image, as fvcore counts them."""
        return 0

    def to_json(self) -> dict[str, Any]:
        """A plain mapping, ``{"op": name, **fields}``.

        Fields that can be given by keyword only were added later; left out at their default, they change no hash.
        """
        kept = [f.name for f in fields(self) if not f.kw_only or getattr(self, f.name) != f.default]
        return {"op": type(self).__name__, **{name: getattr(self, name) for name in kept}}


@dataclass(frozen=True)
class Input(Op):
    """The image, float in 0..1."""

    channels: int
    height: int
    width: int
    role: ClassVar[Role] = Role.SOURCE

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, channels=self.channels, height=self.height, width=self.width)

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """``(channels, height, width)``."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True)
class Normalise(Op):
    """The input normalisation ``(x - mean) / std``.

    A node of its own: folded into a zero-padded convolution it would be wrong at the borders.
    """

    def params(self, inputs: Sequence[Shape]) -> dict[str, Param]:
        """``mean`` and ``std`` per channel, never trained."""
        shape = (inputs[0][0],)
        return {
            "mean": Param(shape, ("out",), "zeros", trainable=False),
            "std": Param(shape, ("out",), "ones", trainable=False),
        }

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """The input's, which must be a map."""
        _spatial(self, inputs[0])
        return inputs[0]


@dataclass(frozen=True)
class _Filter(Op):
    """What dense and depthwise convolutions share: kernel, stride, and what follows: norm or bias, and activation.

    Attributes:
        kernel: Side of the window.
        stride: Step of the window.
        norm: Whether a batch norm follows.
        act: The activation after it, or None.
        bias: Whether there is a bias where no norm follows; with one it would change nothing.
    """

    kernel: int = 3
    stride: int = 1
    norm: bool = True
    act: str | None = "relu"
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, kernel=self.kernel, stride=self.stride)
        if self.kernel % 2 == 0:
            raise ArchError(f"{type(self).__name__}: kernel is {self.kernel}, it must be odd")
        if self.norm and not self.bias:
            raise ArchError(f"{type(self).__name__}: bias is False, but the norm has a shift; set norm to False, too")
        _known_activation(self, self.act)

    def _weight(self, channels: int) -> Param:
        raise NotImplementedError

    def params(self, inputs: Sequence[Shape]) -> dict[str, Param]:
        """``weight``, then ``gamma, beta, mean, var`` of the batch norm, or ``bias`` where there is one."""
        weight = self._weight(inputs[0][0])
        channels = weight.shape[0]
        bias = {"bias": Param((channels,), ("out",), "zeros")} if self.bias else {}
        return {"weight": weight, **(_norm_params(channels) if self.norm else bias)}

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """``(out channels, ceil(h / stride), ceil(w / stride))``."""
        _spatial(self, inputs[0])
        channels, height, width = inputs[0]
        return (self._weight(channels).shape[0], _strided(height, self.stride), _strided(width, self.stride))

    def macs(self, inputs: Sequence[Shape]) -> int:
        """Output values times the inputs each is summed over."""
        return prod(self.out_shape(inputs)) * self._weight(inputs[0][0]).fan_in


@dataclass(frozen=True)
class Conv(_Filter):
    """Dense convolution, then batch norm and activation where present; a bias only without norm.

    >>> Conv(channels=16, stride=2).out_shape([(3, 32, 32)])
    (16, 16, 16)
    """

    channels: int = 0
    role: ClassVar[Role] = Role.MAKES

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, channels=self.channels)

    def _weight(self, channels: int) -> Param:
        return Param((self.channels, channels, self.kernel, self.kernel), ("out", "in", "", ""), "he")


@dataclass(frozen=True)
class DepthwiseConv(_Filter):
    """One filter per channel, then batch norm and activation where present.

    >>> DepthwiseConv(kernel=5).params([(8, 4, 4)])["weight"].shape
    (8, 1, 5, 5)
    """

    def _weight(self, channels: int) -> Param:
        return Param((channels, 1, self.kernel, self.kernel), ("out", "", "", ""), "he")


@dataclass(frozen=True)
class Norm(Op):
    """Batch norm on its own (Ioffe and Szegedy, ICML 2015)."""

    def params(self, inputs: Sequence[Shape]) -> dict[str, Param]:
        """``gamma, beta, mean, var``."""
        return _norm_params(inputs[0][0])

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """The input's, which must be a map."""
        _spatial(self, inputs[0])
        return inputs[0]


@dataclass(frozen=True)
class Act(Op):
    """An activation on its own."""

    act: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        _known_activation(self, self.act)


@dataclass(frozen=True)
class Add(Op):
    """Sum of two or more inputs of one shape, then an activation where present."""

    act: str | None = None
    role: ClassVar[Role] = Role.TIES

    def __post_init__(self) -> None:
        super().__post_init__()
        _known_activation(self, self.act)

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """The common shape."""
        if len(set(inputs)) > 1:
            raise ArchError(f"Add: inputs have shapes {list(inputs)}, they must be equal")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Op):
    """Channels of the inputs in the order given, which means something."""

    role: ClassVar[Role] = Role.STACKS

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Channels summed over inputs of equal height and width."""
        if len({shape[1:] for shape in inputs}) > 1:
            raise ArchError(f"Concat: inputs have shapes {list(inputs)}, their height and width must be equal")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@dataclass(frozen=True)
class Pool(Op):
    """Maximum or average over a window; padding counts in neither.

    An odd window is centred, one as large as its stride begins where the one before ends; the last may be cut off.
    """

    pool: str = "max"
    kernel: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, kernel=self.kernel, stride=self.stride)
        if self.pool not in ("max", "avg"):
            raise ArchError(f"Pool: pool is {self.pool!r}, it must be 'max' or 'avg'")
        if self.kernel % 2 == 0 and self.kernel != self.stride:
            raise ArchError(f"Pool: kernel is {self.kernel}, it must be odd, or equal to the stride of {self.stride}")

    def padding(self, size: int) -> tuple[int, int]:
        """Padding before and after a side of a map, so that ``ceil(size / stride)`` windows fit."""
        if self.kernel % 2:
            return self.kernel // 2, self.kernel // 2
        return 0, -size % self.stride

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """``(channels, ceil(h / stride), ceil(w / stride))``."""
        _spatial(self, inputs[0])
        channels, height, width = inputs[0]
        return (channels, _strided(height, self.stride), _strided(width, self.stride))


@dataclass(frozen=True)
class Zero(Op):
    """Zeros of the input's shape: what a cell without a way through gives."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """The input's, which must be a map."""
        _spatial(self, inputs[0])
        return inputs[0]


@dataclass(frozen=True)
class GlobalPool(Op):
    """Mean over height and width."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """``(channels,)``."""
        _spatial(self, inputs[0])
        return inputs[0][:1]


@dataclass(frozen=True)
class Linear(Op):
    """Fully connected layer with bias."""

    features: int
    role: ClassVar[Role] = Role.MAKES

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, features=self.features)

    def params(self, inputs: Sequence[Shape]) -> dict[str, Param]:
        """``weight`` and ``bias``."""
        return {
            "weight": Param((self.features, inputs[0][0]), ("out", "in"), "he"),
            "bias": Param((self.features,), ("out",), "zeros"),
        }

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """``(features,)``."""
        if len(inputs[0]) != 1:
            raise ArchError(f"Linear: the input has shape {inputs[0]}, it must be flat; put a GlobalPool before it")
        return (self.features,)

    def macs(self, inputs: Sequence[Shape]) -> int:
        """Inputs times outputs."""
        return inputs[0][0] * self.features


def _spatial(op: Op, shape: Shape) -> None:
    if len(shape) != 3:
        raise ArchError(f"{type(op).__name__}: the input has shape {shape}, it must be (channels, height, width)")


def _known_activation(op: Op, act: str | None) -> None:
    if act is not None and act not in ACTIVATIONS:
        raise ArchError(f"{type(op).__name__}: act is {act!r}, it must be one of {', '.join(ACTIVATIONS)}")


OPS: tuple[type[Op], ...] = (
    Input,
    Normalise,
    Conv,
    DepthwiseConv,
    Norm,
    Act,
    Add,
    Concat,
    Pool,
    Zero,
    GlobalPool,
    Linear,
)


def op_from_json(data: object) -> Op:
    """The op that :meth:`Op.to_json` wrote.

    >>> op_from_json({"op": "Add", "act": None})
    Add(act=None)

    Raises:
        ArchError: The op or one of its fields is unknown or out of range.
    """
    return from_json(data, "op", OPS)
