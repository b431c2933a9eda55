"""Approximate morphisms: the child starts near its parent and is distilled from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spaces.arch import Arch, Node
from spaces.channels import axes, segment_at
from spaces.graph import free_names, is_map, nonnegative, readers, sources, tied_below
from spaces.importance import least_important
from spaces.morphism import Morphism, filter_of, segment_refusal, skip_refusal, strung_twice
from spaces.ops import Act, Add, Concat, Conv, DepthwiseConv, Norm, Param, Role
from spaces.rewrite import Choice, Rewrite, Start, drop, identity, remap, splice, swap
from spaces.state import Tensors


@dataclass(frozen=True)
class SkipIdentity(Morphism):
    """A skip without parameters from an earlier map of the same shape.

    Attributes:
        source: The earlier node.
    """

    source: str

    def refusal(self, arch: Arch) -> str | None:
        """Both are feature maps of one shape, the source earlier."""
        why = skip_refusal(arch, self.source, self.node)
        if why is None and arch.shapes[self.source] != arch.shapes[self.node]:
            return f"shapes are {arch.shapes[self.source]} and {arch.shapes[self.node]}"
        return why

    def rewrite(self, arch: Arch) -> Rewrite:
        """`splice` of an Add."""
        (name,) = free_names(arch, 1)
        act = "relu" if nonnegative(arch, self.node) else None
        rewire = dict.fromkeys(readers(arch, self.node), name)
        return splice(arch, [Node(name, Add(act), (self.node, self.source))], rewire)


@dataclass(frozen=True)
class Prune(Morphism):
    """Fewer channels in a segment; the least important ones go (see :mod:`spaces.importance`).

    Attributes:
        position: Which segment of the node's output axis.
        by: How many channels go.
    """

    position: int
    by: int

    def refusal(self, arch: Arch) -> str | None:
        """The segment is neither the image nor the class scores, and larger than what goes."""
        why = segment_refusal(arch, self.node, self.position)
        if why is None and not 1 <= self.by < axes(arch)[self.node][self.position].size:
            size = axes(arch)[self.node][self.position].size
            return f"by is {self.by}, it must be at least 1 and less than the {size} channels there are"
        return why

    def rewrite(self, arch: Arch) -> Rewrite:
        """`remap` to the channels that stay, in order."""
        segment = segment_at(arch, self.node, self.position)

        def pick(tensors: Tensors) -> list[int]:
            gone = least_important(arch, segment, self.by, tensors)
            return [channel for channel in range(segment.size) if channel not in gone]

        return remap(arch, segment, Choice(segment.size - self.by, pick))


@dataclass(frozen=True)
class RemoveLayer(Morphism):
    """A layer that keeps the shape is left out."""

    def refusal(self, arch: Arch) -> str | None:
        """The node is a convolution, norm or activation that keeps the shape; nothing is summed or strung twice."""
        node = arch[self.node]
        if not isinstance(node.op, Conv | DepthwiseConv | Norm | Act):
            return f"{self.node} is a {type(node.op).__name__}"
        if arch.input_shapes(self.node)[0] != arch.shapes[self.node]:
            return f"it turns shape {arch.input_shapes(self.node)[0]} into {arch.shapes[self.node]}"
        if not is_map(arch, self.node):
            return f"{self.node} is no feature map"
        return _doubled(arch, self.node, node.inputs[0])

    def rewrite(self, arch: Arch) -> Rewrite:
        """`drop` of the node."""
        return drop(arch, self.node)


def _doubled(arch: Arch, name: str, source: str) -> str | None:
    """Refuses that the readers of a node read another instead, where an Add or a Concat does so already."""
    adds = (arch[reader] for reader in arch.consumers[name] if arch[reader].op.role is Role.TIES)
    if any(source in add.inputs for add in adds):
        return "an Add would read one node twice"
    return strung_twice(arch, name, source)


@dataclass(frozen=True)
class RemoveSkip(Morphism):
    """An Add or Concat reads one input fewer; a branch that nothing else reads goes with it.

    Attributes:
        position: Which input.
    """

    position: int

    def refusal(self, arch: Arch) -> str | None:
        """The node is an Add, or a Concat that no Add ties, with such an input; nothing is summed or strung twice."""
        node = arch[self.node]
        if not isinstance(node.op, Add | Concat):
            return f"{self.node} is a {type(node.op).__name__}"
        if not 0 <= self.position < len(node.inputs):
            return f"{self.node} has {len(node.inputs)} inputs, there is no input {self.position}"
        if isinstance(node.op, Concat) and tied_below(arch, self.node):
            return "an Add ties the channels of this Concat, or they are the class scores"
        if isinstance(node.op, Add) and len(node.inputs) == 2 and node.op.act is None:
            return _doubled(arch, self.node, node.inputs[1 - self.position])
        return None

    def rewrite(self, arch: Arch) -> Rewrite:
        """`drop` of the edge; an activation left alone goes back into the convolution before it, or changes nothing."""
        node = arch[self.node]
        dropped = drop(arch, self.node, self.position)
        if isinstance(node.op, Add):
            left = [source for i, source in enumerate(node.inputs) if i != self.position]
            dropped = dropped.then(lambda child: _revive(child, left))
        return dropped.then(lambda child: _fold_act(child, self.node))


def _revive(arch: Arch, names: Sequence[str]) -> Rewrite:
    """Branches that all start at zero still get gamma 1: by themselves they would let no gradient through, for ever."""
    summands = {part for name in names for part in sources(arch, name, lambda op: isinstance(op, Add))}
    gammas = [f"{summand}.gamma" for summand in summands]
    if not all(gamma in arch.params for gamma in gammas):
        return identity(arch)

    def alive(gamma: str) -> Start:
        def start(param: Param, tensors: Tensors) -> Tensor:
            return tensors[gamma] if any(tensors[each].any() for each in gammas) else torch.ones(param.shape)

        return start

    return splice(arch, [], {}, starts={gamma: alive(gamma) for gamma in gammas})


def _fold_act(arch: Arch, name: str) -> Rewrite:
    """An activation that is the only reader of a convolution without one becomes the convolution's.

    A ReLU that changes nothing goes: it would make another network of the same function.
    """
    if name not in arch or not isinstance(arch[name].op, Act):
        return identity(arch)
    act = arch[name].op
    assert isinstance(act, Act)
    (source,) = arch[name].inputs
    if act.act == "relu" and nonnegative(arch, source) and _doubled(arch, name, source) is None:
        return drop(arch, name)
    op = filter_of(arch[source].op)
    if op is None or op.act is not None or len(arch.consumers[source]) > 1:
        return identity(arch)
    return swap(arch, source, replace(op, act=act.act)).then(lambda child: drop(child, name))


@dataclass(frozen=True)
class ShrinkKernel(Morphism):
    """A kernel two smaller: the border is cut off."""

    def refusal(self, arch: Arch) -> str | None:
        """The node is a convolution with a kernel of at least 3."""
        op = filter_of(arch[self.node].op)
        if op is None:
            return f"{self.node} is no convolution"
        return None if op.kernel >= 3 else f"its kernel is {op.kernel}, it must be at least 3"

    def rewrite(self, arch: Arch) -> Rewrite:
        """`swap` with the middle of the filters."""
        op = filter_of(arch[self.node].op)
        assert op is not None
        return swap(
            arch,
            self.node,
            replace(op, kernel=op.kernel - 2),
            lambda tensors: {**tensors, "weight": tensors["weight"][..., 1:-1, 1:-1].contiguous()},
        )


@dataclass(frozen=True)
class Separate(Morphism):
    """A dense convolution becomes a depthwise one and a 1x1 one, by the best rank-1 factors of its filters.

    For each input channel the filters form a matrix (outputs x taps); its best rank-1 approximation (Eckart and Young,
    1936) gives the 1x1 weights and the depthwise filter. Norm and activation stay behind the 1x1.
    """

    def refusal(self, arch: Arch) -> str | None:
        """The node is a dense convolution with a kernel of at least 3."""
        op = arch[self.node].op
        if not isinstance(op, Conv):
            return f"{self.node} is no dense convolution"
        return None if op.kernel >= 3 else f"its kernel is {op.kernel}, it must be at least 3"

    def rewrite(self, arch: Arch) -> Rewrite:
        """`splice` of the two; nothing reads the dense convolution any more."""
        op = arch[self.node].op
        assert isinstance(op, Conv)
        depthwise, pointwise = free_names(arch, 2)
        nodes = [
            Node(depthwise, DepthwiseConv(op.kernel, op.stride, norm=False, act=None), arch[self.node].inputs),
            Node(pointwise, replace(op, kernel=1, stride=1), (depthwise,)),
        ]
        starts: dict[str, Start] = {
            f"{depthwise}.weight": lambda param, tensors: _rank_one(tensors[f"{self.node}.weight"])[0],
            f"{pointwise}.weight": lambda param, tensors: _rank_one(tensors[f"{self.node}.weight"])[1],
        }
        for short in set(op.params(arch.input_shapes(self.node))) - {"weight"}:
            starts[f"{pointwise}.{short}"] = _handed_on(f"{self.node}.{short}")
        return splice(arch, nodes, dict.fromkeys(readers(arch, self.node), pointwise), starts=starts)


def _handed_on(key: str) -> Start:
    return lambda param, tensors: tensors[key]


def _rank_one(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Dense filters (out, in, k, k) -> depthwise filters (in, 1, k, k) and 1x1 weights (out, in, 1, 1)."""
    out, channels, kernel, _ = weight.shape
    left, scale, right = torch.linalg.svd(weight.double().permute(1, 0, 2, 3).reshape(channels, out, -1), False)
    # All of the scale goes to the 1x1: a channel read with zeros would be dead for ever if its filter were zero, too.
    taps, mixing = right[:, 0], left[:, :, 0] * scale[:, :1]
    # Singular vectors have no sign of their own: let the largest tap be positive, so that equal filters factor alike.
    sign = taps.gather(1, taps.abs().argmax(1, keepdim=True)).sign()
    return (
        (taps * sign).reshape(channels, 1, kernel, kernel).to(weight.dtype),
        (mixing * sign).T.reshape(out, channels, 1, 1).contiguous().to(weight.dtype),
    )
