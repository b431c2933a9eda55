"""All morphisms in one place: the table of moves, and how they are read back from JSON and replayed.

The choice of moves is that of Elsken et al. (LEMONADE, ICLR 2019), and more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from spaces.approximate import Prune, RemoveLayer, RemoveSkip, Separate, ShrinkKernel, SkipIdentity
from spaces.arch import Arch
from spaces.cellspace import SetOperation
from spaces.exact import AddBranch, Deepen, DeepenResidual, GrowKernel, SkipAdd, SkipConcat, Widen
from spaces.morphism import Morphism
from spaces.move import Move
from spaces.record import from_json
from spaces.rewrite import Rewrite, identity

__all__ = [
    "MORPHISMS",
    "AddBranch",
    "Deepen",
    "DeepenResidual",
    "GrowKernel",
    "Morphism",
    "Prune",
    "RemoveLayer",
    "RemoveSkip",
    "Separate",
    "ShrinkKernel",
    "SkipAdd",
    "SkipConcat",
    "SkipIdentity",
    "Widen",
    "move_from_json",
    "replay",
]

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


def move_from_json(data: object) -> Move:
    """The move, of any space, that :meth:`Move.to_json` wrote.

    >>> move_from_json({"move": "GrowKernel", "node": "n2"})
    GrowKernel(node='n2')

    Raises:
        ArchError: The move or one of its fields is unknown, or a field holds what it cannot.
    """
    return from_json(data, "move", (*MORPHISMS, SetOperation))


def replay(arch: Arch, lineage: Sequence[Mapping[str, Any]]) -> Rewrite:
    """A lineage of morphisms, applied to the architecture it started from: bit by bit the same tensors.

    Raises:
        ArchError: A step is unknown.
        MoveRefused: A step does not fit.
    """
    result = identity(arch)
    for step in lineage:
        result = result.then(from_json(step, "move", MORPHISMS).apply)
    return result
