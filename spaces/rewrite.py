"""Four primitives that carry every morphism: `remap`, `splice`, `swap`, `drop`.

Each takes an architecture and gives a :class:`Rewrite`: the new architecture and a pure function that turns the old
network's state into the new one's. Structure comes first; a rejected child never touches a tensor.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from spaces.arch import Arch, Node, canonicalise
from spaces.change import Change, Source, gather
from spaces.channels import Edge, Segment, axes
from spaces.errors import ArchError
from spaces.graph import ordered, tied_below
from spaces.ops import Act, Add, Concat, Conv, Linear, Op, Param, Role
from spaces.state import State, Tensors, fresh_tensor

Transfer = Callable[[State], State]


@dataclass(frozen=True)
class Rewrite:
    """What a rewrite gives.

    Attributes:
        arch: The new architecture.
        transfer: The old network's state -> the new one's; pure.
        names: Old node -> new node, for the nodes that live on.
    """

    arch: Arch
    transfer: Transfer
    names: Mapping[str, str]

    @property
    def new(self) -> frozenset[str]:
        """Nodes of the new architecture that come from no old node."""
        return frozenset(node.name for node in self.arch.nodes) - frozenset(self.names.values())

    def then(self, step: Callable[[Arch], "Rewrite"]) -> "Rewrite":
        """This rewrite followed by another."""
        after = step(self.arch)
        names = {old: after.names[mid] for old, mid in self.names.items() if mid in after.names}
        return Rewrite(after.arch, lambda state: after.transfer(self.transfer(state)), names)


@dataclass(frozen=True)
class Choice:
    """Channels to keep that only the weights can tell: a number now, which ones later.

    Attributes:
        size: How many.
        pick: From the tensors of the network to the `Source`, of that length.
    """

    size: int
    pick: Callable[[Tensors], Source]


def identity(arch: Arch) -> Rewrite:
    """Nothing changes."""
    return Rewrite(arch, lambda state: state, {node.name: node.name for node in arch.nodes})


def canonical(arch: Arch) -> Rewrite:
    """To canonical names and order."""
    child, names = canonicalise(arch)
    return Rewrite(child, lambda state: state.renamed(names), names)


def from_canonical(arch: Arch) -> Rewrite:
    """From the canonical form of an architecture back to its own names and order."""
    names = {new: old for old, new in canonicalise(arch)[1].items()}
    return Rewrite(arch, lambda state: state.renamed(names), names)


def _transfer(child: Arch, rebuild: Callable[[Tensors, Tensors], Tensors]) -> Transfer:
    """The transfer to a child, from a function on one slot.

    `rebuild(tensors, value)` gives the new tensors of a slot; choices are made by `value`, the slot of the weights.
    A tensor that it hands on as it is keeps its momentum; any other starts with none.
    """

    def transfer(state: State) -> State:
        value = rebuild(state.value, state.value)
        ema = rebuild(state.ema, state.value) if state.ema else {}
        handed_on = {id(tensor): key for key, tensor in state.value.items()}
        momentum: dict[str, Tensor] = {}
        for key, param in child.params.items():
            if param.trainable and state.momentum:
                kept = state.momentum.get(handed_on.get(id(value[key]), ""))
                momentum[key] = torch.zeros_like(value[key]) if kept is None else kept
        return State(value, ema, momentum)

    return transfer


def _survivors(before: Arch, after: Arch) -> dict[str, str]:
    return {node.name: node.name for node in before.nodes if node.name in after}


# remap ----------------------------------------------------------------------------------------------------------------


def remap(
    arch: Arch, segment: Segment, source: Source | Choice, *, shares: Sequence[float] | None = None, seed: int = 0
) -> Rewrite:
    """Give a segment new channels, wherever it occurs, also twice on one axis.

    New channel ``j`` is old channel ``source[j]``: an omission prunes it, a repeat is a copy, ``-1`` a fresh channel.
    What makes or keeps the channels has its rows gathered; what reads them has its columns gathered and multiplied by
    `shares`, so that widening is exact: the copies of a channel share its weight, a fresh channel is read with zeros.

    Args:
        arch: The architecture.
        segment: One of ``axes(arch)``.
        source: The new channels, or a choice to be made by the weights.
        shares: Per new channel, the part of the old weight its readers get; by default 1 / copies, 0 for a fresh one.
        seed: Of the fresh rows.

    Raises:
        ArchError: The segment is none of the architecture's or is frozen, the source names a channel it lacks, or
            nothing of it would be left.
    """
    found = axes(arch)
    if not any(segment in axis for axis in found.values()):
        raise ArchError(f"no node has {segment}; take one of its axes(arch)")
    if segment.frozen:
        raise ArchError("these channels belong to the image or to the class scores")
    if not isinstance(source, Choice) and not all(-1 <= old < segment.size for old in source):
        raise ArchError(f"the source is {list(source)}, it must hold channels 0 to {segment.size - 1}, or -1")
    size = source.size if isinstance(source, Choice) else len(source)
    if not size:
        raise ArchError(f"nothing would be left of these channels; {segment} must keep at least one")
    growth = size - segment.size

    def resized(node: Node) -> Node:
        occurrences = found[node.name].count(segment)
        return _wider(node, growth * occurrences) if node.op.role is Role.MAKES and occurrences else node

    child = Arch(tuple(resized(node) for node in arch.nodes))

    def rebuild(tensors: Tensors, value: Tensors) -> Tensors:
        picked = source.pick(value) if isinstance(source, Choice) else source
        change = Change(arch, found, segment, segment.size, picked, shares or _equal_shares(picked))
        return gather(child, change, tensors, torch.Generator().manual_seed(seed))

    return Rewrite(child, _transfer(child, rebuild), _survivors(arch, child))


def _wider(node: Node, growth: int) -> Node:
    if isinstance(node.op, Conv):
        return replace(node, op=replace(node.op, channels=node.op.channels + growth))
    assert isinstance(node.op, Linear)
    return replace(node, op=replace(node.op, features=node.op.features + growth))


def _equal_shares(source: Source) -> list[float]:
    copies = Counter(source)
    return [0.0 if old < 0 else 1 / copies[old] for old in source]


# splice ---------------------------------------------------------------------------------------------------------------

#: How a new tensor starts, from what its op says of it and the tensors of the old network.
Start = Callable[[Param, Tensors], Tensor]


def splice(
    arch: Arch,
    nodes: Sequence[Node],
    rewire: Mapping[Edge, str],
    *,
    starts: Mapping[str, Start] | None = None,
    seed: int = 0,
) -> Rewrite:
    """Put new nodes in and let some edges read them.

    A new Concat goes on with its first input; what it adds to it is read with zeros by all that follows, so that the
    function stays. No Add may follow before these channels are mixed.

    Args:
        arch: The architecture.
        nodes: New nodes; names must be free.
        rewire: ``(reader, position) -> node to read from now on``.
        starts: For new tensors that do not start as their op says, by ``"node.param"``.
        seed: Of the other new tensors and of fresh rows.

    Raises:
        ArchError: The result is no valid network, or has a cycle; there are several new Concats, or one whose channels
            an Add ties.
    """
    starts = starts or {}
    rewired = [
        replace(node, inputs=tuple(rewire.get((node.name, i), source) for i, source in enumerate(node.inputs)))
        for node in arch.nodes
    ]
    child = Arch(ordered([*rewired, *nodes], arch.output))
    concats = [node.name for node in nodes if isinstance(node.op, Concat)]
    if len(concats) > 1:
        raise ArchError(f"{', '.join(concats)} are new Concats; put them in one by one")
    if concats and tied_below(child, concats[0]):
        raise ArchError(f"an Add ties the channels of the new Concat {concats[0]}, or they are the class scores")
    added = _added(child, *concats) if concats else None

    def rebuild(tensors: Tensors, value: Tensors) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        dtype = next(iter(tensors.values())).dtype
        complete = dict(tensors)
        for key, param in child.params.items():
            if key in starts:
                complete[key] = starts[key](param, tensors).to(dtype)
            elif key not in tensors:
                complete[key] = fresh_tensor(param, generator).to(dtype)
        rebuilt: Tensors = {key: complete[key] for key in child.params}
        return gather(child, added, rebuilt, generator) if added else rebuilt

    return Rewrite(child, _transfer(child, rebuild), _survivors(arch, child))


def _added(child: Arch, concat: str) -> Change:
    """What the second input of a new Concat adds to everything that follows."""
    found = axes(child, cut=(concat, 1))
    segment = found[concat][-1]
    return Change(child, found, segment, 0, [-1] * segment.size, [0.0] * segment.size)


# swap -----------------------------------------------------------------------------------------------------------------


def swap(
    arch: Arch, name: str, op: Op, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
) -> Rewrite:
    """Put another op, of the same output shape, in the place of a node's.

    Args:
        arch: The architecture.
        name: The node.
        op: Its new op.
        convert: The node's tensors by short name -> those of the new op; by default they stay as they are.

    Raises:
        ArchError: The output shape would change.
    """
    child = Arch(tuple(replace(node, op=op) if node.name == name else node for node in arch.nodes))
    if child.shapes[name] != arch.shapes[name]:
        raise ArchError(f"{name}: {op} would turn shape {arch.shapes[name]} into {child.shapes[name]}")
    before, after = (net[name].op.params(net.input_shapes(name)) for net in (arch, child))

    def rebuild(tensors: Tensors, value: Tensors) -> Tensors:
        converted = convert({short: tensors[f"{name}.{short}"] for short in before})
        own = {f"{name}.{short}": converted[short] for short in after}
        return {key: own[key] if key in own else tensors[key] for key in child.params}

    return Rewrite(child, _transfer(child, rebuild), _survivors(arch, child))


# drop -----------------------------------------------------------------------------------------------------------------


def drop(arch: Arch, name: str, position: int | None = None) -> Rewrite:
    """Take something out; what it alone kept alive goes too.

    Without `position` the node vanishes and its readers read its only input instead. With it, an Add or Concat stops
    reading that input; left with a single input it becomes its activation, or vanishes if it has none.

    Raises:
        ArchError: There is no such input, an Add ties the channels of the Concat, or what is left is no valid network.
    """
    node = arch[name]
    count = len(node.inputs)
    if position is None and count != 1:
        raise ArchError(f"{name} has {count} inputs; without a position only a node that has one can be dropped")
    if position is not None and not (isinstance(node.op, Add | Concat) and 0 <= position < count):
        raise ArchError(f"{name} is no Add or Concat with an input {position}; its inputs are {list(node.inputs)}")
    if isinstance(node.op, Concat) and position is not None and tied_below(arch, name):
        raise ArchError(f"an Add ties the channels of the Concat {name}, or they are the class scores")
    rest = tuple(source for i, source in enumerate(node.inputs) if i != position)
    act = node.op.act if isinstance(node.op, Add) else None
    last = arch.output
    if len(rest) > 1 or act is not None:
        op = node.op if act is None or len(rest) > 1 else Act(act)
        kept = [replace(other, op=op, inputs=rest) if other is node else other for other in arch.nodes]
    else:
        last = rest[0] if last == name else last
        kept = [
            replace(other, inputs=tuple(rest[0] if source == name else source for source in other.inputs))
            for other in arch.nodes
            if other is not node
        ]
    child = Arch(ordered(kept, last))
    lost = _lost(arch, name, position) if position is not None and isinstance(node.op, Concat) else None

    def rebuild(tensors: Tensors, value: Tensors) -> Tensors:
        return gather(child, lost, tensors, torch.Generator()) if lost else {key: tensors[key] for key in child.params}

    return Rewrite(child, _transfer(child, rebuild), _survivors(arch, child))


def _lost(arch: Arch, concat: str, position: int) -> Change:
    """What everything after a Concat loses with one of its inputs."""
    edge = (concat, position)
    found, whole = axes(arch, cut=edge), arch.input_shapes(concat)
    # The cut edge is one segment: no Add below cuts it up.
    before = sum(shape[0] for shape in whole[:position])
    starts = list(accumulate((part.size for part in found[concat]), initial=0))
    segment = found[concat][starts.index(before)]
    return Change(arch, found, segment, segment.size, [], [])
