"""`Morphism`: a small change of a network that keeps all, or most, of what it has learned.

Here are the base of all morphisms and the conditions that several of them share.
"""

from dataclasses import dataclass
from typing import ClassVar

from spaces.arch import Arch
from spaces.channels import axes
from spaces.errors import ArchError, MoveRefused
from spaces.graph import ancestors, is_map, sources
from spaces.move import Exact, Move
from spaces.ops import Concat, Conv, DepthwiseConv, Op
from spaces.rewrite import Rewrite, canonical


@dataclass(frozen=True)
class Morphism(Move):
    """Base of all morphisms: moves of an architecture.

    A subclass states its conditions in :meth:`refusal` and its algebra in :meth:`rewrite`.

    Attributes:
        node: Name of the node it acts on, in the canonical architecture.
        exact: How far the child computes what its parent did: ``"train"`` in training mode too, ``"eval"`` in
            evaluation mode only, None approximately.
    """

    node: str
    exact: ClassVar[Exact] = None

    def __post_init__(self) -> None:
        super().__post_init__()
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


def filter_of(op: Op) -> Conv | DepthwiseConv | None:
    """The op, if it is a convolution."""
    return op if isinstance(op, Conv | DepthwiseConv) else None


def segment_refusal(arch: Arch, node: str, position: int) -> str | None:
    """Refuses a segment that is not there, or whose number of channels is fixed from outside."""
    axis = axes(arch)[node]
    if not 0 <= position < len(axis):
        return f"{node} has {len(axis)} segments, there is no segment {position}"
    return "its channels are those of the image or of the class scores" if axis[position].frozen else None


def skip_refusal(arch: Arch, source: str, node: str) -> str | None:
    """Refuses a skip, unless it is between two feature maps, the source earlier."""
    if source not in arch:
        return f"there is no node {source!r}"
    if source not in ancestors(arch, node):
        return f"{source} does not come before {node}"
    return next((f"{name} is no feature map" for name in (source, node) if not is_map(arch, name)), None)


def strung_twice(arch: Arch, name: str, source: str) -> str | None:
    """Refuses that a map comes to stand beside itself on an axis: read alike, the two would be twins for ever."""
    concats = (node.name for node in arch.nodes if isinstance(node.op, Concat))
    own, *strung = (_strung(arch, each) for each in (name, *concats))
    beside = own.union(*(maps for maps in strung if own <= maps))
    twice = sorted(beside & _strung(arch, source))
    return f"a Concat would hold the channels of {twice[0]} twice" if twice else None


def _strung(arch: Arch, name: str) -> set[str]:
    """The maps that a Concat strings together; any other node is a map of its own."""
    return sources(arch, name, lambda op: isinstance(op, Concat))
