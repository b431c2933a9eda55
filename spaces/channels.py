"""Which channels are one and the same: the channel axis of every node as a list of segments.

A convolution makes a segment of its own. Add ties the segments of its inputs (after cutting both into common pieces),
Concat strings them together, everything else hands them on. A segment is therefore the smallest set of channels that
can be widened or pruned at all, and it says everywhere it occurs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from spaces.arch import Arch
from spaces.errors import ArchError
from spaces.ops import Role

#: An edge of the graph: the reading node and the position it reads at.
Edge = tuple[str, int]


@dataclass(frozen=True)
class Segment:
    """A run of channels that live and die together.

    Attributes:
        index: Identity within one architecture, numbered by first occurrence.
        size: Number of channels.
        frozen: True where it holds channels of the image or of the class scores.
    """

    index: int
    size: int
    frozen: bool = False


#: Per node, the segments of its output.
Axes = Mapping[str, tuple[Segment, ...]]


class _Piece:
    """A segment in the making: may be cut into pieces, or tied to another."""

    def __init__(self, size: int, frozen: bool) -> None:
        self.size = size
        self.frozen = frozen
        self.pieces: list[_Piece] = []  # set once cut (two pieces) or tied (one piece)

    def cut(self, size: int) -> None:
        self.pieces = [_Piece(size, self.frozen), _Piece(self.size - size, self.frozen)]

    def tie(self, other: "_Piece") -> None:
        other.frozen |= self.frozen
        self.pieces = [other]


def _leaves(axis: Iterable[_Piece]) -> list[_Piece]:
    found: list[_Piece] = []
    stack = list(axis)[::-1]
    while stack:
        piece = stack.pop()
        if piece.pieces:
            stack.extend(piece.pieces[::-1])
        else:
            found.append(piece)
    return found


def _unite(first: list[_Piece], second: list[_Piece]) -> None:
    """Tie two axes of equal length channel by channel."""
    while True:
        pairs = zip(_leaves(first), _leaves(second), strict=False)
        differing = next(((a, b) for a, b in pairs if a is not b), None)
        if differing is None:
            return
        a, b = differing
        if a.size == b.size:
            a.tie(b)
        else:
            larger, smaller = (a, b) if a.size > b.size else (b, a)
            larger.cut(smaller.size)


@lru_cache(maxsize=256)  # every morphism asks for them before it knows whether it is applicable
def axes(arch: Arch, cut: Edge | None = None) -> Axes:
    """The segments of every node's output, in order; their sizes add up to its channels.

    Args:
        arch: The architecture.
        cut: An edge into a Concat or Add. What flows over it counts as a segment of its own, so that one occurrence
            can be told from the others.

    >>> from spaces.arch import chain
    >>> from spaces.ops import Conv, GlobalPool, Input, Linear
    >>> arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    >>> axes(arch)["n2"]
    (Segment(index=1, size=4, frozen=False),)
    """
    raw: dict[str, list[_Piece]] = {}
    for node in arch.nodes:
        inputs = [raw[source] for source in node.inputs]
        if cut is not None and cut[0] == node.name:
            inputs[cut[1]] = [_Piece(arch.input_shapes(node.name)[cut[1]][0], frozen=False)]
        match node.op.role:
            case Role.SOURCE | Role.MAKES:
                raw[node.name] = [_Piece(arch.shapes[node.name][0], frozen=node.op.role is Role.SOURCE)]
            case Role.KEEPS:
                raw[node.name] = inputs[0]
            case Role.STACKS:
                raw[node.name] = [piece for axis in inputs for piece in axis]
            case Role.TIES:
                for axis in inputs[1:]:
                    _unite(inputs[0], axis)
                raw[node.name] = inputs[0]
    for piece in _leaves(raw[arch.output]):
        piece.frozen = True

    segments: dict[int, Segment] = {}
    resolved: dict[str, tuple[Segment, ...]] = {}
    for name, axis in raw.items():
        leaves = _leaves(axis)
        for piece in leaves:
            segments.setdefault(id(piece), Segment(len(segments), piece.size, piece.frozen))
        resolved[name] = tuple(segments[id(piece)] for piece in leaves)
    return resolved


def segment_at(arch: Arch, node: str, position: int) -> Segment:
    """The segment at a position of a node's output axis.

    Raises:
        ArchError: There is no such node or position.
    """
    if node not in arch:
        raise ArchError(f"there is no node {node!r}; nodes are {', '.join(n.name for n in arch.nodes)}")
    axis = axes(arch)[node]
    if not 0 <= position < len(axis):
        raise ArchError(f"{node} has {len(axis)} segments, there is no segment {position}")
    return axis[position]
