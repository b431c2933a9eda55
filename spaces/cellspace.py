"""The cell space of NAS-Bench-201 (Dong and Yang, ICLR 2020); see :mod:`spaces.cell`.

The genotype is the architecture string. A move edits every copy of the cell at once, by one composed transfer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spaces.arch import Arch
from spaces.cell import (
    AVG_POOL,
    CONV_1X1,
    CONV_3X3,
    EDGES,
    KERNELS,
    LAST,
    NONE,
    OPERATIONS,
    SKIP,
    STAGES,
    Cell,
    edge_name,
    edge_op,
    network,
    parse,
    pruned,
    write,
)
from spaces.errors import ArchError, MoveRefused, SpecError
from spaces.move import Exact, Move
from spaces.ops import Input, Op, Shape
from spaces.record import check_types
from spaces.rewrite import Rewrite, Start, canonical, from_canonical, splice
from spaces.space import Child, Choose, Space
from spaces.starts import averaging_filter, identity_filter, same_as, unit_gamma, zeros
from spaces.structure import structure


@dataclass(frozen=True)
class SetOperation(Move):
    """An edge of the cell gets another operation.

    What it makes of the tensors, with "live" for what lies on a way from the cell's input to its output:

    1. Live edges that keep their operation keep their tensors.
    2. A larger kernel starts as the smaller one with zeros around it, a smaller one as the middle of the larger.
    3. What becomes live starts fresh, but the last convolutions on each new way into an old sum have norms with gamma
       zero, so that nothing is added at first. This, 1 and the larger kernel are exact, in training mode too.
    4. A convolution in place of a skip or of a pooling starts as what it replaces, but for its ReLU.

    Attributes:
        source: The node where the edge begins.
        into: The node where it ends.
        operation: One of `OPERATIONS`.
        seed: Of fresh filters.
    """

    source: int
    into: int
    operation: str
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source, self.into) not in EDGES:
            raise ArchError(f"the cell has no edge from node {self.source} to {self.into}; it has {EDGES}")
        if self.operation not in OPERATIONS:
            raise ArchError(f"unknown operation {self.operation!r}; known are {', '.join(OPERATIONS)}")

    @property
    def edge(self) -> int:
        """Number of the edge."""
        return EDGES.index((self.source, self.into))

    def applied(self, cell: Cell) -> Cell:
        """The cell with the operation on its edge."""
        return (*cell[: self.edge], self.operation, *cell[self.edge + 1 :])


#: A cell that is nothing but the edge from input to output.
SKIP_EDGE = EDGES.index((0, LAST))
_BARE: Cell = tuple(SKIP if edge == SKIP_EDGE else NONE for edge in range(len(EDGES)))


@dataclass(frozen=True)
class CellSpace(Space[str]):
    """Networks of one cell, repeated.

    Attributes:
        image: Channels, height and width of the images.
        classes: Number of classes.
        channels: Of the first of three stages; each later one has twice those of the one before.
        cells: Copies of the cell in a stage.
    """

    image: tuple[int, int, int]
    classes: int
    channels: int = 16
    cells: int = 5
    shrinks_by: ClassVar[str] = "space.channels, space.cells"

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        for name in ("channels", "cells"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.classes < 2:
            raise SpecError(f"classes is {self.classes}, there must be at least 2")

    def starts(self) -> list[str]:
        """A skip from input to output, alone and beside chains of one to three convolutions; then 3x3 on all edges."""
        chains = [{SKIP_EDGE: SKIP}]
        for conv in KERNELS:
            chains += [{0: conv, 4: SKIP}, {0: conv, 4: conv}, {0: conv, 2: conv, 5: conv}]
        cells = [{SKIP_EDGE: SKIP, **chain} for chain in chains] + [dict.fromkeys(range(len(EDGES)), CONV_3X3)]
        return [write(tuple(cell.get(edge, NONE) for edge in range(len(EDGES)))) for cell in cells]

    def sample(self, rng: np.random.Generator) -> str:
        """Uniform over the cells whose output depends on their input."""
        while True:
            genotype = self.compose(lambda name, options: options[rng.integers(len(options))])
            if self.refusal(genotype) is None:
                return genotype

    def compose(self, choose: Choose) -> str:
        """One choice for each edge."""
        return write(tuple(choose(f"{source}>{into}", OPERATIONS) for source, into in EDGES))

    def decode(self, genotype: str) -> Arch:
        """The canonical network, without what lies on no way through the cell."""
        return _decoded(self, pruned(parse(genotype)))

    def features(self, genotype: str) -> Mapping[str, float]:
        """The structure of the network, and which operation is on which live edge."""
        return _features(self, pruned(parse(genotype)))

    def hash(self, genotype: str) -> str:
        """That of the network."""
        return _hashed(self, pruned(parse(genotype)))

    def moves(self, genotype: str) -> Sequence[SetOperation]:
        """Every other operation on every edge."""
        return _moves(parse(genotype))

    def apply(self, genotype: str, move: Move) -> Child[str]:
        """The child; all copies of the cell change at once."""
        if not isinstance(move, SetOperation):
            raise MoveRefused(f"{move} is refused: in this space moves are of the kind SetOperation")
        cell = parse(genotype)
        child = move.applied(cell)
        before, after = pruned(cell), pruned(child)
        return Child(write(child), _exact(before, after), lambda: _rewrite(self, before, after, move.seed))

    def cross(self, one: str, other: str, rng: np.random.Generator) -> str:
        """Each edge from either (uniform crossover)."""
        pairs = zip(parse(one), parse(other), strict=True)
        return write(tuple(pair[rng.integers(2)] for pair in pairs))

    def refusal(self, genotype: str) -> str | None:
        """The output must depend on the input."""
        return None if any(op != NONE for op in pruned(parse(genotype))) else "no way leads through the cell"

    def params(self, genotype: str) -> int:
        """Parameters as the benchmark counts them: of dead edges, too."""
        count = _decoded(self, _BARE).n_params
        for op, shape in self._operations(genotype):
            count += sum(prod(param.shape) for param in op.params([shape]).values() if param.trainable)
        return count

    def macs(self, genotype: str) -> int:
        """Multiply-accumulates as the benchmark counts them: of dead edges, too, and one for each class's bias."""
        bare = _decoded(self, _BARE)
        count = sum(node.op.macs(bare.input_shapes(node.name)) for node in bare.nodes) + self.classes
        return count + sum(op.macs([shape]) for op, shape in self._operations(genotype))

    def _operations(self, genotype: str) -> Iterator[tuple[Op, Shape]]:
        """Each op on an edge of a copy of the cell, and the shape of what it reads."""
        _, height, width = self.image
        for stage in range(STAGES):
            channels, shrunk = self.channels * 2**stage, 2**stage
            shape = (channels, -(-height // shrunk), -(-width // shrunk))
            for operation in parse(genotype):
                if operation not in (NONE, SKIP):
                    yield from [(edge_op(operation, channels), shape)] * self.cells

    def to_json(self, genotype: str) -> Any:
        """The string."""
        return genotype

    def from_json(self, data: Any) -> str:
        """The string, if it is a cell.

        Raises:
            ArchError: It is none.
        """
        if not isinstance(data, str):
            raise ArchError(f"{data!r} is no cell; a cell is a text")
        return write(parse(data))


def _network(space: CellSpace, cell: Cell) -> Arch:
    """The network of a pruned cell, under names that tell what each node is for."""
    return Arch(tuple(network(cell, Input(*space.image), space.classes, space.channels, space.cells)))


@lru_cache(maxsize=2**15)
def _hashed(space: CellSpace, cell: Cell) -> str:
    return _decoded(space, cell).hash


@lru_cache(maxsize=2**9)  # networks are large
def _decoded(space: CellSpace, cell: Cell) -> Arch:
    return _network(space, cell).canonical()


@lru_cache(maxsize=2**15)
def _moves(cell: Cell) -> tuple[SetOperation, ...]:
    edges = zip(EDGES, cell, strict=True)
    return tuple(SetOperation(*edge, op) for edge, now in edges for op in OPERATIONS if op != now)


@lru_cache(maxsize=2**15)
def _features(space: CellSpace, cell: Cell) -> Mapping[str, float]:
    edges = {f"{source}>{into} {op}": 1.0 for (source, into), op in zip(EDGES, cell, strict=True) if op != NONE}
    return {**structure(_decoded(space, cell)), **edges}


def _exact(before: Cell, after: Cell) -> Exact:
    """Whether a change between pruned cells keeps the function; see `SetOperation`."""
    changed = {(old, new) for old, new in zip(before, after, strict=True) if old not in (NONE, new)}
    _, nothing_added = _silenced(before, after)
    return "train" if changed <= {(CONV_1X1, CONV_3X3)} and nothing_added else None


def _silenced(before: Cell, after: Cell) -> tuple[set[int], bool]:
    """The new convolutions that start at zero, and whether nothing else adds to what is old."""
    old = {0} | {into for (_, into), op in zip(EDGES, before, strict=True) if op != NONE}
    silent: set[int] = set()

    def silence(edge: int) -> bool:
        if after[edge] in KERNELS:
            silent.add(edge)
            return True
        source = EDGES[edge][0]
        behind = [silence(i) for i, (_, into) in enumerate(EDGES) if into == source not in old and after[i] != NONE]
        return bool(behind) and all(behind)

    new = [i for i, (_, into) in enumerate(EDGES) if into in old and before[i] == NONE != after[i]]
    quiet = [silence(i) for i in new]
    return silent, all(quiet) and LAST in old and set(after) != {NONE}


def _rewrite(space: CellSpace, before: Cell, after: Cell, seed: int) -> Rewrite:
    """All copies of the cell changed, from canonical network to canonical network."""
    parent, child = _network(space, before), _network(space, after)
    new = [node for node in child.nodes if node.name not in parent]
    rewire = {
        (node.name, position): source
        for node in child.nodes
        if node.name in parent
        for position, source in enumerate(node.inputs)
        if source != parent[node.name].inputs[position]
    }
    starts: dict[str, Start] = {}
    for copy in range(STAGES * space.cells):
        starts |= _starts(before, after, copy)
    return from_canonical(parent).then(lambda arch: splice(arch, new, rewire, starts=starts, seed=seed)).then(canonical)


def _starts(before: Cell, after: Cell, copy: int) -> dict[str, Start]:
    """How the convolutions that are new in a copy of the cell start; see `SetOperation`."""
    silent, _ = _silenced(before, after)
    starts: dict[str, Start] = {}
    for edge, (old, new) in enumerate(zip(before, after, strict=True)):
        name = edge_name(copy, edge, new)
        if old == new or new not in KERNELS:
            continue
        if old in KERNELS:
            kept = edge_name(copy, edge, old)
            starts |= {f"{name}.{short}": same_as(f"{kept}.{short}") for short in ("gamma", "beta", "mean", "var")}
            starts[f"{name}.weight"] = same_as(f"{kept}.weight", _grown if new == CONV_3X3 else _middle)
        elif old in (SKIP, AVG_POOL):
            starts[f"{name}.weight"] = averaging_filter if old == AVG_POOL and new == CONV_3X3 else identity_filter
            starts[f"{name}.gamma"] = unit_gamma
        elif edge in silent:
            starts[f"{name}.gamma"] = zeros
    return starts


def _grown(weight: Tensor) -> Tensor:
    return torch.nn.functional.pad(weight, (1, 1, 1, 1))


def _middle(weight: Tensor) -> Tensor:
    return weight[..., 1:-1, 1:-1].contiguous()
