"""`Space`: what can be built. A genotype, how it becomes an architecture, and how it moves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from spaces.arch import Arch
from spaces.morphism import Exact, Morphism
from spaces.rewrite import Transfer

G = TypeVar("G")


@dataclass(frozen=True)
class Child(Generic[G]):
    """What a move makes of a genotype.

    Attributes:
        genotype: The child's.
        transfer: State of the parent's canonical network -> state of the child's; pure.
        new: Nodes of the child's canonical network that the parent's lacks.
        exact: How far the child computes what its parent did.
    """

    genotype: G
    transfer: Transfer
    new: frozenset[str]
    exact: Exact


class Space(ABC, Generic[G]):
    """A set of genotypes with moves between them; every method is pure."""

    @abstractmethod
    def starts(self) -> list[G]:
        """Small to large genotypes to begin a search with."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> G:
        """A random genotype of the space, for random search."""

    @abstractmethod
    def decode(self, genotype: G) -> Arch:
        """The canonical architecture."""

    @abstractmethod
    def moves(self, genotype: G) -> Sequence[Morphism]:
        """All moves that are applicable; their seeds are to be set by who picks one."""

    @abstractmethod
    def apply(self, genotype: G, move: Morphism) -> Child[G]:
        """The child of a move.

        Raises:
            MoveRefused: A condition of the move does not hold.
        """

    @abstractmethod
    def refusal(self, genotype: G) -> str | None:
        """Which bound of the space a genotype breaks, or None."""

    @abstractmethod
    def to_json(self, genotype: G) -> Any:
        """A genotype as JSON."""

    @abstractmethod
    def from_json(self, data: Any) -> G:
        """The genotype that :meth:`to_json` wrote."""

    def propose(self, genotype: G, rng: np.random.Generator, tries: int = 50) -> tuple[Morphism, Child[G]] | None:
        """A random move that stays within the bounds: first the kind is drawn, then one of that kind.

        Returns:
            The move and the child, or None if `tries` draws found none.
        """
        kinds: dict[str, list[Morphism]] = {}
        for move in self.moves(genotype):
            kinds.setdefault(type(move).__name__, []).append(move)
        names = sorted(kinds)
        for _ in range(tries if names else 0):
            of_kind = kinds[names[rng.integers(len(names))]]
            move = seeded(of_kind[rng.integers(len(of_kind))], int(rng.integers(2**31)))
            child = self.apply(genotype, move)
            if self.refusal(child.genotype) is None:
                return move, child
        return None


def seeded(move: Morphism, seed: int) -> Morphism:
    """The move with its random tensors drawn from a seed; moves without random tensors stay as they are."""
    return replace(move, seed=seed) if hasattr(move, "seed") else move  # type: ignore[call-arg]
