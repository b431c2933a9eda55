"""`Draft`: what a strategy knows of a network before it is a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        config: What is to be kept with the trial, as JSON.
    """

    genotype: Any
    cost: Cost
    parent: Entry | None = None
    moves: Sequence[Move] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
