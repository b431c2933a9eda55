"""Network morphisms: small changes of a network that keep all, or most, of what it has learned.

Each is a frozen dataclass whose fields hold every choice made, the seed of random tensors included; applied to an
architecture it gives a :class:`~spaces.rewrite.Rewrite`. ``exact`` says how far the child computes what its parent did:
``"train"`` in training mode too, ``"eval"`` in evaluation mode only, ``None`` approximately. The exact ones follow
Chen et al. (Net2Net, ICLR 2016) and Wei et al. (Network Morphism, ICML 2016), the choice of moves Elsken et al.
(LEMONADE, ICLR 2019).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from spaces.arch import Arch, Node
from spaces.channels import axes, segment_at
from spaces.errors import ArchError, MoveRefused
from spaces.importance import least_important
from spaces.ops import EPSILON, Act, Add, Concat, Conv, DepthwiseConv, Norm, Op, Param, Pool, Role
from spaces.record import check_types, from_json
from spaces.rewrite import (
    Choice,
    Rewrite,
    Start,
    canonical,
    drop,
    free_names,
    identity,
    readers,
    remap,
    splice,
    swap,
    tied_below,
)
from spaces.state import Tensors

Exact = Literal["train", "eval"] | None


@dataclass(frozen=True)
class Morphism:
    """Base of all morphisms.

    A subclass states its conditions in :meth:`refusal` and its algebra in :meth:`rewrite`.

    Attributes:
        node: Name of the node it acts on, in the canonical architecture.
    """

    node: str
    exact: ClassVar[Exact] = None

    def __post_init__(self) -> None:
        check_types(self, ArchError)
        seed = getattr(self, "seed", 0)
        if not 0 <= seed < 2**63:
            raise ArchError(f"{type(self).__name__}: seed is {seed}, it must be 0 to 2**63 - 1")
        kernel = getattr(self, "kernel", 1)
        if kernel < 1 or kernel % 2 == 0:
            raise ArchError(f"{type(self).__name__}: kernel is {kernel}, it must be odd")

    def refusal(self, arch: Arch) -> str | None:
        """Which condition does not hold for this architecture, or None."""
        raise NotImplementedError

    def rewrite(self, arch: Arch) -> Rewrite:
        """The change itself, for an architecture that it is applicable to."""
        raise NotImplementedError

    def applicable(self, arch: Arch) -> bool:
        """Whether every condition holds."""
        return self.node in arch and self.refusal(arch) is None

    def apply(self, arch: Arch) -> Rewrite:
        """The canonical child and its transfer.

        Raises:
            MoveRefused: A condition does not hold; the message says which.
        """
        why = self.refusal(arch) if self.node in arch else f"there is no node {self.node!r}"
        if why is not None:
            raise MoveRefused(f"{self} is refused: {why}")
        try:
            return self.rewrite(arch).then(canonical)
        except ArchError as error:
            raise MoveRefused(f"{self} is refused: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """A plain mapping, ``{"move": name, **fields}``."""
        return {"move": type(self).__name__, **asdict(self)}


def _filter(op: Op) -> Conv | DepthwiseConv | None:
    return op if isinstance(op, Conv | DepthwiseConv) else None


def nonnegative(arch: Arch, name: str) -> bool:
    """Whether a node's output is known to be at least zero everywhere."""

    def act(op: Op) -> str | None:
        return getattr(op, "act", None)

    sources = _sources(arch, name, lambda op: isinstance(op, Add | Concat | Pool) and act(op) is None)
    return all(act(arch[source].op) == "relu" for source in sources)


def _sources(arch: Arch, name: str, through: Callable[[Op], bool]) -> set[str]:
    """Where a node's values come from, seen through some ops; a node of another op is its own and only source."""
    reached = [name]
    for each in reached:  # which grows on the way
        if through(arch[each].op):
            reached += [source for source in arch[each].inputs if source not in reached]
    return {each for each in reached if not through(arch[each].op)}


def ancestors(arch: Arch, name: str) -> set[str]:
    """All nodes that a node depends on."""
    found: set[str] = set()
    stack = list(arch[name].inputs)
    while stack:
        source = stack.pop()
        if source not in found:
            found.add(source)
            stack.extend(arch[source].inputs)
    return found


def _is_map(arch: Arch, name: str) -> bool:
    """A feature map made by the network: spatial, and neither the image nor its normalisation."""
    return len(arch.shapes[name]) == 3 and not any(part.frozen for part in axes(arch)[name])


# Starts of new tensors ------------------------------------------------------------------------------------------------


def _zeros(param: Param, tensors: Tensors) -> Tensor:
    return torch.zeros(param.shape, dtype=torch.float64)


def _handed_on(key: str) -> Start:
    return lambda param, tensors: tensors[key]


def _identity_filter(param: Param, tensors: Tensors) -> Tensor:
    """A convolution that hands every channel on."""
    weight = torch.zeros(param.shape, dtype=torch.float64)
    middle = param.shape[-1] // 2
    channels = torch.arange(param.shape[0])
    weight[channels, channels if param.shape[1] > 1 else 0, middle, middle] = 1
    return weight


def _unit_gamma(param: Param, tensors: Tensors) -> Tensor:
    """With mean 0 and variance 1 the norm is then the identity: gamma / sqrt(1 + eps) = 1."""
    return torch.full(param.shape, (1 + EPSILON) ** 0.5, dtype=torch.float64)


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
        return _segment_refusal(arch, self.node, self.position)

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


def _segment_refusal(arch: Arch, node: str, position: int) -> str | None:
    axis = axes(arch)[node]
    if not 0 <= position < len(axis):
        return f"{node} has {len(axis)} segments, there is no segment {position}"
    return "its channels are those of the image or of the class scores" if axis[position].frozen else None


@dataclass(frozen=True)
class GrowKernel(Morphism):
    """A kernel two larger, the new border zero; padding "same" keeps it centred at any stride."""

    exact: ClassVar[Exact] = "train"

    def refusal(self, arch: Arch) -> str | None:
        """The node is a convolution."""
        return None if _filter(arch[self.node].op) else f"{self.node} is no convolution"

    def rewrite(self, arch: Arch) -> Rewrite:
        """`swap` with the filters padded by zeros."""
        op = _filter(arch[self.node].op)
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
    op = _filter(arch[node].op)
    moved = op.act if op is not None and source != node else None
    act = moved or ("relu" if nonnegative(arch, node) else None)
    start = swap(arch, node, replace(op, act=None)) if op is not None and moved else identity(arch)

    def join(arch: Arch) -> Rewrite:
        *names, total = free_names(arch, len(ops) + 1)
        branch = [Node(name, op, (read,)) for name, op, read in zip(names, ops, [source, *names], strict=False)]
        nodes = [*branch, Node(total, Add(act), (node, names[-1]))]
        return splice(
            arch, nodes, dict.fromkeys(readers(arch, node), total), starts={f"{names[-1]}.gamma": _zeros}, seed=seed
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
        return None if _filter(arch[self.node].op) else f"{self.node} is no convolution"

    def rewrite(self, arch: Arch) -> Rewrite:
        """A branch from the node's input, at its stride."""
        node = arch[self.node]
        op = _filter(node.op)
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
        return None if _is_map(arch, self.node) else f"{self.node} is no feature map"

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
        return _skip_refusal(arch, self.source, self.node)

    def rewrite(self, arch: Arch) -> Rewrite:
        """A branch of one 1x1 convolution."""
        stride = _stride(arch, self.source, self.node)
        ops = _branch(arch.shapes[self.node][0], [1], stride, depthwise=False)
        return _add_branch(arch, self.node, self.source, ops, self.seed)


def _skip_refusal(arch: Arch, source: str, node: str) -> str | None:
    if source not in arch:
        return f"there is no node {source!r}"
    if source not in ancestors(arch, node):
        return f"{source} does not come before {node}"
    return next((f"{name} is no feature map" for name in (source, node) if not _is_map(arch, name)), None)


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
        why = _skip_refusal(arch, self.source, self.node)
        if why is None and arch.shapes[self.source][1:] != arch.shapes[self.node][1:]:
            return f"maps are of sizes {arch.shapes[self.source][1:]} and {arch.shapes[self.node][1:]}"
        return why or _strung_twice(arch, self.node, self.source)

    def rewrite(self, arch: Arch) -> Rewrite:
        """`splice` of a Concat, and of an identity 1x1 convolution where channels are tied."""
        joined, back = free_names(arch, 2)
        nodes = [Node(joined, Concat(), (self.node, self.source))]
        starts: dict[str, Start] = {}
        if tied_below(arch, self.node):
            channels = arch.shapes[self.node][0]
            nodes.append(Node(back, Conv(kernel=1, channels=channels, norm=False, act=None), (joined,)))
            # Zero where it reads the source: only the square part of the identity.
            starts = {f"{back}.weight": _identity_filter}
        rewire = dict.fromkeys(readers(arch, self.node), nodes[-1].name)
        return splice(arch, nodes, rewire, starts=starts, seed=self.seed)


def _strung_twice(arch: Arch, name: str, source: str) -> str | None:
    """Refuses that a map comes to stand beside itself on an axis: read alike, the two would be twins for ever."""
    concats = (node.name for node in arch.nodes if isinstance(node.op, Concat))
    own, *strung = (_strung(arch, each) for each in (name, *concats))
    beside = own.union(*(maps for maps in strung if own <= maps))
    twice = sorted(beside & _strung(arch, source))
    return f"a Concat would hold the channels of {twice[0]} twice" if twice else None


def _strung(arch: Arch, name: str) -> set[str]:
    """The maps that a Concat strings together; any other node is a map of its own."""
    return _sources(arch, name, lambda op: isinstance(op, Concat))


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
        if not _is_map(arch, self.node):
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
        starts: dict[str, Start] = {f"{name}.weight": _identity_filter, f"{name}.gamma": _unit_gamma}
        rewire = dict.fromkeys(readers(arch, self.node), name)
        return splice(arch, [Node(name, op, (self.node,))], rewire, starts=starts)


# Approximate ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SkipIdentity(Morphism):
    """A skip without parameters from an earlier map of the same shape.

    Attributes:
        source: The earlier node.
    """

    source: str

    def refusal(self, arch: Arch) -> str | None:
        """Both are feature maps of one shape, the source earlier."""
        why = _skip_refusal(arch, self.source, self.node)
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
        why = _segment_refusal(arch, self.node, self.position)
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
        if not _is_map(arch, self.node):
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
    return _strung_twice(arch, name, source)


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
    summands = {part for name in names for part in _sources(arch, name, lambda op: isinstance(op, Add))}
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
    op = _filter(arch[source].op)
    if op is None or op.act is not None or len(arch.consumers[source]) > 1:
        return identity(arch)
    return swap(arch, source, replace(op, act=act.act)).then(lambda child: drop(child, name))


@dataclass(frozen=True)
class ShrinkKernel(Morphism):
    """A kernel two smaller: the border is cut off."""

    def refusal(self, arch: Arch) -> str | None:
        """The node is a convolution with a kernel of at least 3."""
        op = _filter(arch[self.node].op)
        if op is None:
            return f"{self.node} is no convolution"
        return None if op.kernel >= 3 else f"its kernel is {op.kernel}, it must be at least 3"

    def rewrite(self, arch: Arch) -> Rewrite:
        """`swap` with the middle of the filters."""
        op = _filter(arch[self.node].op)
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


MORPHISMS: tuple[type[Morphism], ...] = (
    Widen,
    GrowKernel,
    AddBranch,
    DeepenResidual,
    SkipAdd,
    SkipConcat,
    Deepen,
    SkipIdentity,
    Prune,
    RemoveLayer,
    RemoveSkip,
    ShrinkKernel,
    Separate,
)


def move_from_json(data: object) -> Morphism:
    """The morphism that :meth:`Morphism.to_json` wrote.

    >>> move_from_json({"move": "GrowKernel", "node": "n2"})
    GrowKernel(node='n2')

    Raises:
        ArchError: The move or one of its fields is unknown, or a field holds what it cannot.
    """
    return from_json(data, "move", MORPHISMS)


def replay(arch: Arch, lineage: Sequence[Mapping[str, Any]]) -> Rewrite:
    """A lineage, applied to the architecture it started from: the same child and, bit by bit, the same tensors.

    Raises:
        ArchError: A step is unknown.
        MoveRefused: A step does not fit.
    """
    result = identity(arch)
    for step in lineage:
        result = result.then(move_from_json(step).apply)
    return result
