"""Exact morphisms: the child computes what its parent did, in training mode too, or in evaluation mode only.

After Chen et al. (Net2Net, ICLR 2016) and Wei et al. (Network Morphism, ICML 2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from spaces.arch import Arch, Node
from spaces.channels import segment_at
from spaces.graph import free_names, is_map, nonnegative, readers, tied_below
from spaces.morphism import Morphism, filter_of, segment_refusal, skip_refusal, strung_twice
from spaces.move import Exact
from spaces.ops import Add, Concat, Conv, DepthwiseConv, Op
from spaces.rewrite import Rewrite, Start, identity, remap, splice, swap
from spaces.starts import identity_filter, unit_gamma, zeros

# Wider ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Widen(Morphism):
    """More channels in a segment: fresh ones, or copies (Net2Wider).

    1. A fresh channel is read with zeros.
    2. The copies of a channel share the weight it was read with; in unequal parts, or they would stay copies for ever.

    Attributes:
        position: Which segment of the node's output axis.
        by: How many channels.
        copies: Copies rather than fresh channels.
        seed: Of fresh filters; of which channels are copied, and of the parts.
    """

    position: int
    by: int
    copies: bool = False
    seed: int = 0
    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """The segment exists and is neither the image nor the class scores; at least one channel is added."""
        if self.by < 1:
            return f"by is {self.by}, it must be at least 1"
        return segment_refusal(arch, self.node, self.position)

    def rewrite(self, arch: Arch) -> Rewrite:
        """`remap` with new channels at the end."""
        segment = segment_at(arch, self.node, self.position)
        old = list(range(segment.size))
        if not self.copies:
            return remap(arch, segment, old + [-1] * self.by, seed=self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        source = old + torch.randint(segment.size, (self.by,), generator=generator).tolist()
        parts = torch.rand(len(source), generator=generator, dtype=torch.float64) + 0.5
        totals = torch.zeros(segment.size, dtype=torch.float64).index_add_(0, torch.tensor(source), parts)
        return remap(arch, segment, source, shares=(parts / totals[source]).tolist(), seed=self.seed)


@dataclass(frozen=True)
class GrowKernel(Morphism):
    """A kernel two larger, the new border zero; padding "same" keeps it centred at any stride."""

    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """The node is a convolution."""
        return None if filter_of(arch[self.node].op) else f"{self.node} is no convolution"

    def rewrite(self, arch: Arch) -> Rewrite:
        """`swap` with the filters padded by zeros."""
        op = filter_of(arch[self.node].op)
        assert op is not None
        return swap(
            arch,
            self.node,
            replace(op, kernel=op.kernel + 2),
            lambda tensors: {**tensors, "weight": torch.nn.functional.pad(tensors["weight"], (1, 1, 1, 1))},
        )


# Branches that start at zero ------------------------------------------------------------------------------------------


def _branch(channels: int, kernels: Sequence[int], stride: int, depthwise: bool) -> list[Op]:
    """Convolutions of a new branch; the last has no activation, since its norm starts with gamma zero.

    With an activation after it the branch would be dead for ever.
    """
    ops: list[Op] = []
    for i, kernel in enumerate(kernels):
        step = stride if i == 0 else 1
        act = None if i == len(kernels) - 1 else "relu"
        if depthwise:
            ops += [DepthwiseConv(kernel=kernel, stride=step), Conv(kernel=1, channels=channels, act=act)]
        else:
            ops.append(Conv(kernel=kernel, stride=step, channels=channels, act=act))
    return ops


def _add_branch(arch: Arch, node: str, source: str, ops: Sequence[Op], seed: int) -> Rewrite:
    """``node`` becomes ``node + branch(source)``, the branch starting at zero.

    1. If the node is a convolution with an activation, and the branch does not start from it, the activation moves
       behind the sum, where runtimes fuse the three.
    2. Otherwise the sum has a ReLU if the node is known to be non-negative, which a ReLU leaves as it is.
    """
    op = filter_of(arch[node].op)
    moved = op.act if op is not None and source != node else None
    act = moved or ("relu" if nonnegative(arch, node) else None)
    start = swap(arch, node, replace(op, act=None)) if op is not None and moved else identity(arch)

    def join(arch: Arch) -> Rewrite:
        *names, total = free_names(arch, len(ops) + 1)
        branch = [Node(name, op, (read,)) for name, op, read in zip(names, ops, [source, *names], strict=False)]
        nodes = [*branch, Node(total, Add(act), (node, names[-1]))]
        return splice(
            arch, nodes, dict.fromkeys(readers(arch, node), total), starts={f"{names[-1]}.gamma": zeros}, seed=seed
        )

    return start.then(join)


@dataclass(frozen=True)
class AddBranch(Morphism):
    """A convolution (or a separable one) parallel to a convolution."""

    kernel: int = 3
    depthwise: bool = False
    seed: int = 0
    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """The node is a convolution."""
        return None if filter_of(arch[self.node].op) else f"{self.node} is no convolution"

    def rewrite(self, arch: Arch) -> Rewrite:
        """A branch from the node's input, at its stride."""
        node = arch[self.node]
        op = filter_of(node.op)
        assert op is not None
        ops = _branch(arch.shapes[self.node][0], [self.kernel], op.stride, self.depthwise)
        return _add_branch(arch, self.node, node.inputs[0], ops, self.seed)


@dataclass(frozen=True)
class DeepenResidual(Morphism):
    """A residual block after a node: ``y + branch(y)`` with two convolutions in the branch (or two separable ones)."""

    kernel: int = 3
    depthwise: bool = False
    seed: int = 0
    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """The node is a feature map."""
        return None if is_map(arch, self.node) else f"{self.node} is no feature map"

    def rewrite(self, arch: Arch) -> Rewrite:
        """A branch from the node to itself."""
        ops = _branch(arch.shapes[self.node][0], [self.kernel, self.kernel], 1, self.depthwise)
        return _add_branch(arch, self.node, self.node, ops, self.seed)


@dataclass(frozen=True)
class SkipAdd(Morphism):
    """A skip from an earlier node by a 1x1 projection, strided where the map has shrunk.

    Attributes:
        source: The earlier node.
    """

    source: str
    seed: int = 0
    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """Both are feature maps, the source earlier."""
        return skip_refusal(arch, self.source, self.node)

    def rewrite(self, arch: Arch) -> Rewrite:
        """A branch of one 1x1 convolution."""
        stride = _stride(arch, self.source, self.node)
        ops = _branch(arch.shapes[self.node][0], [1], stride, depthwise=False)
        return _add_branch(arch, self.node, self.source, ops, self.seed)


def _stride(arch: Arch, source: str, node: str) -> int:
    """The product of the strides on a way from a map to a later one.

    It fits: what lies between divides both sides by these numbers and rounds up, as one stride does. And it samples the
    pixels that the way around does, unlike smaller ones that may fit, too.
    """
    strides = {source: 1}
    for each in arch.nodes:
        for read in each.inputs:
            if read in strides:
                strides.setdefault(each.name, strides[read] * getattr(each.op, "stride", 1))
    return strides[node]


@dataclass(frozen=True)
class SkipConcat(Morphism):
    """An earlier map of the same size appended to a node's channels; its readers start with zero columns.

    Where an Add follows, which ties channels, a 1x1 convolution brings them back to their old number.

    Attributes:
        source: The earlier node.
        seed: Of the filters of depthwise convolutions that follow.
    """

    source: str
    seed: int = 0
    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """Both are feature maps of one size, the source earlier and not strung together with the node already."""
        why = skip_refusal(arch, self.source, self.node)
        if why is None and arch.shapes[self.source][1:] != arch.shapes[self.node][1:]:
            return f"maps are of sizes {arch.shapes[self.source][1:]} and {arch.shapes[self.node][1:]}"
        return why or strung_twice(arch, self.node, self.source)

    def rewrite(self, arch: Arch) -> Rewrite:
        """`splice` of a Concat, and of an identity 1x1 convolution where channels are tied."""
        joined, back = free_names(arch, 2)
        nodes = [Node(joined, Concat(), (self.node, self.source))]
        starts: dict[str, Start] = {}
        if tied_below(arch, self.node):
            channels = arch.shapes[self.node][0]
            nodes.append(Node(back, Conv(kernel=1, channels=channels, norm=False, act=None), (joined,)))
            # Zero where it reads the source: only the square part of the identity.
            starts = {f"{back}.weight": identity_filter}
        rewire = dict.fromkeys(readers(arch, self.node), nodes[-1].name)
        return splice(arch, nodes, rewire, starts=starts, seed=self.seed)


# Deeper ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deepen(Morphism):
    """An identity convolution, norm and ReLU after a node (Net2Deeper).

    Exact in evaluation mode; for training mode let :func:`spaces.network.calibrate` set the new norm from a batch.
    """

    kernel: int = 3
    depthwise: bool = False
    exact: ClassVar[Exact] = "eval"

    def refusal(self, arch: Arch) -> str | None:
        """The node is a feature map that a second ReLU leaves as it is."""
        if not is_map(arch, self.node):
            return f"{self.node} is no feature map"
        return None if nonnegative(arch, self.node) else f"a ReLU would change {self.node}, which may be negative"

    def rewrite(self, arch: Arch) -> Rewrite:
        """`splice` of one convolution."""
        (name,) = free_names(arch, 1)
        op: Op = (
            DepthwiseConv(kernel=self.kernel)
            if self.depthwise
            else Conv(kernel=self.kernel, channels=arch.shapes[self.node][0])
        )
        starts: dict[str, Start] = {f"{name}.weight": identity_filter, f"{name}.gamma": unit_gamma}
        rewire = dict.fromkeys(readers(arch, self.node), name)
        return splice(arch, [Node(name, op, (self.node,))], rewire, starts=starts)
