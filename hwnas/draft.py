"""`Draft`: what a strategy knows of a network before it is a trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.archive import Entry
from hwnas.costs import Cost
from spaces.move import Move


@dataclass(frozen=True)
class Draft:
    """A network that may become a trial, judged on its cheap objectives alone.

    Attributes:
        genotype: The network.
        cost: Its cheap objectives.
        parent: The network it comes from, if any.
        moves: How.
    """

    genotype: Any
    cost: Cost
    parent: Entry | None = None
    moves: Sequence[Move] = ()
