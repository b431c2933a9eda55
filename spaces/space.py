"""`Space`: what can be built. A genotype, how it becomes an architecture, and how it moves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from spaces.arch import Arch
from spaces.move import Exact, Move
from spaces.rewrite import Rewrite, Transfer
from spaces.structure import structure

G = TypeVar("G")
T = TypeVar("T")


class Choose(Protocol):
    """Settles one named choice between some options; the same name always comes with the same options."""

    def __call__(self, name: str, options: Sequence[T]) -> T:
        """One of the options."""


@dataclass(frozen=True)
class Child(Generic[G]):
    """What a move makes of a genotype.

    Attributes:
        genotype: The child's.
        exact: How far the child computes what its parent did.
        rewrite: The change from the parent's canonical network to the child's; made when it is first asked for, since
            most children are rejected before.
    """

    genotype: G
    exact: Exact
    rewrite: Callable[[], Rewrite]

    @cached_property
    def _rewrite(self) -> Rewrite:
        return self.rewrite()

    @property
    def transfer(self) -> Transfer:
        """State of the parent's canonical network -> state of the child's; pure."""
        return self._rewrite.transfer

    @property
    def new(self) -> frozenset[str]:
        """Nodes of the child's canonical network that the parent's lacks."""
        return self._rewrite.new


class Space(ABC, Generic[G]):
    """A set of genotypes with moves between them; every method is pure.

    Attributes:
        shrinks_by: The bounds that allow smaller networks, for messages.
    """

    shrinks_by: ClassVar[str]

    @abstractmethod
    def starts(self) -> list[G]:
        """Small to large genotypes to begin a search with."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> G:
        """A random genotype of the space, for random search."""

    @abstractmethod
    def compose(self, choose: Choose) -> G:
        """A genotype by named choices, for searches over a fixed list of parameters; it may break a bound."""

    @abstractmethod
    def decode(self, genotype: G) -> Arch:
        """The canonical architecture."""

    def hash(self, genotype: G) -> str:
        """Identity of the network that a genotype stands for."""
        return self.decode(genotype).hash

    def features(self, genotype: G) -> Mapping[str, float]:
        """Numbers by which a model can tell good networks from bad ones; one that is missing counts as 0."""
        return structure(self.decode(genotype))

    @abstractmethod
    def moves(self, genotype: G) -> Sequence[Move]:
        """All moves that are applicable; their seeds are to be set by who picks one."""

    @abstractmethod
    def apply(self, genotype: G, move: Move) -> Child[G]:
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

    def cross(self, one: G, other: G, rng: np.random.Generator) -> G:
        """A genotype with parts of two others; where a space cannot tell what parts are, one of the two."""
        return one if rng.random() < 0.5 else other

    def within(self, genotype: G, moves: Iterable[Move]) -> Iterator[tuple[Move, G]]:
        """The children of some moves that stay within the bounds, one by one."""
        for move in moves:
            child = self.apply(genotype, move).genotype
            if self.refusal(child) is None:
                yield move, child

    def propose(self, genotype: G, rng: np.random.Generator, tries: int = 50) -> tuple[Move, Child[G]] | None:
        """A random move that stays within the bounds: first the kind is drawn, then one of that kind.

        Returns:
            The move and the child, or None if `tries` draws found none.
        """
        kinds: dict[str, list[Move]] = {}
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


def seeded(move: Move, seed: int) -> Move:
    """The move with its random tensors drawn from a seed; moves without random tensors stay as they are."""
    return replace(move, seed=seed) if hasattr(move, "seed") else move  # type: ignore[call-arg]
