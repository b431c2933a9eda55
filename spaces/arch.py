"""`Arch`: one network as an immutable graph, its canonical form and its hash. No tensors here."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

from spaces.errors import ArchError
from spaces.ops import Concat, Input, Op, Param, Role, Shape, op_from_json
from spaces.record import check_types


@dataclass(frozen=True)
class Node:
    """An op, its name, and the names of the nodes it reads."""

    name: str
    op: Op
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self, ArchError)


@dataclass(frozen=True)
class Arch:
    """A network: nodes in topological order, the image first and the class scores last.

    Every `Arch` that exists is valid; the rules are those of :func:`violations`.

    >>> from spaces.ops import Conv, GlobalPool, Linear
    >>> arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    >>> arch.shapes["n1"], arch.output
    ((4, 8, 8), 'n3')
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        check_types(self, ArchError)
        for broken in violations(self.nodes):
            raise ArchError(broken)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.nodes)  # deep, and caches ask for it again and again

    def __reduce__(self) -> tuple[type["Arch"], tuple[tuple[Node, ...]]]:
        return Arch, (self.nodes,)  # without what is cached: the hash of a text differs between processes

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def output(self) -> str:
        """Name of the node that holds the class scores."""
        return self.nodes[-1].name

    @property
    def image(self) -> Input:
        """The input op: channels, height and width of the images."""
        op = self.nodes[0].op
        assert isinstance(op, Input)
        return op

    @property
    def classes(self) -> int:
        """Number of class scores."""
        return self.shapes[self.output][0]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Output shape of every node, without the batch."""
        return _shapes(self.nodes)

    def input_shapes(self, name: str) -> list[Shape]:
        """Shapes of what the node reads."""
        return [self.shapes[source] for source in self[name].inputs]

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """Per node, the nodes that read it, in order; one that reads it twice stands twice."""
        readers: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                readers[source].append(node.name)
        return {name: tuple(found) for name, found in readers.items()}

    @cached_property
    def params(self) -> dict[str, Param]:
        """Every tensor of the network, by ``"node.param"``."""
        return {
            f"{node.name}.{short}": param
            for node in self.nodes
            for short, param in node.op.params(self.input_shapes(node.name)).items()
        }

    @cached_property
    def n_params(self) -> int:
        """Number of trainable parameters."""
        return sum(prod(param.shape) for param in self.params.values() if param.trainable)

    @cached_property
    def hash(self) -> str:
        """Identity of the network: equal for renamed and reordered copies, and for nothing else (64 bits)."""
        text = json.dumps(self.canonical().to_json(), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def canonical(self) -> "Arch":
        """The same network under canonical names and in canonical order."""
        return canonicalise(self)[0]

    def to_json(self) -> list[list[Any]]:
        """Nodes as ``[name, op, inputs]``; :meth:`from_json` reads it."""
        return [[node.name, node.op.to_json(), list(node.inputs)] for node in self.nodes]

    @classmethod
    def from_json(cls, data: Iterable[Iterable[Any]]) -> "Arch":
        """The architecture that :meth:`to_json` wrote.

        Raises:
            ArchError: The data is no list of nodes, or the graph breaks a rule.
        """
        try:
            nodes = tuple(
                Node(name, op_from_json(op), tuple(inputs) if isinstance(inputs, list) else inputs)
                for name, op, inputs in data
            )
        except (TypeError, ValueError) as error:
            raise ArchError(f"not an architecture: {error}; expected a list of [name, op, inputs]") from error
        return cls(nodes)


def chain(*ops: Op) -> Arch:
    """Ops one after the other, named ``n0, n1, ...``."""
    return Arch(tuple(Node(f"n{i}", op, (f"n{i - 1}",) if i else ()) for i, op in enumerate(ops)))


def _shapes(nodes: Iterable[Node]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for node in nodes:
        shapes[node.name] = node.op.out_shape([shapes[source] for source in node.inputs])
    return shapes


#: Number of inputs by role: (at least, at most).
_ARITY = {Role.SOURCE: (0, 0), Role.MAKES: (1, 1), Role.KEEPS: (1, 1), Role.TIES: (2, None), Role.STACKS: (2, None)}


def violations(nodes: tuple[Node, ...]) -> Iterator[str]:
    """The rules that make a list of nodes a network; yields a sentence for each that is broken.

    1. The first node is the only `Input`.
    2. Names are unique and have no dot, as in ``"node.param"``; a node reads only nodes that stand before it.
    3. The number of inputs fits the op: one, or two and more for Add and Concat.
    4. Shapes fit (checked by the ops themselves).
    5. Every node but the last is read by another: runtimes execute dead nodes.
    6. The last node is flat: the class scores.
    """
    if not nodes or not isinstance(nodes[0].op, Input) or sum(isinstance(node.op, Input) for node in nodes) != 1:
        yield "the first node, and no other, must be an Input"
        return
    seen: set[str] = set()
    read: set[str] = set()
    for node in nodes:
        if node.name in seen:
            yield f"two nodes are named {node.name!r}"
        if not node.name or "." in node.name:
            yield f"a node is named {node.name!r}; a name must be a text without a dot"
            return
        for source in node.inputs:
            if source not in seen:
                yield f"{node.name} reads {source!r}, which does not stand before it"
                return
        low, high = _ARITY[node.op.role]
        if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
            yield f"{node.name}: {type(node.op).__name__} has {len(node.inputs)} inputs"
            return
        seen.add(node.name)
        read.update(node.inputs)
    try:
        shapes = _shapes(nodes)
    except ArchError as error:
        yield str(error)
        return
    for node in nodes[:-1]:
        if node.name not in read:
            yield f"{node.name} is read by no node; prune it"
    if len(shapes[nodes[-1].name]) != 1:
        yield f"the output {nodes[-1].name} has shape {shapes[nodes[-1].name]}, it must be flat class scores"


#: What tells a node, given by its name, from its mirror image.
Mark = Callable[[str], bytes]


def canonicalise(arch: Arch, mark: Mark = lambda name: b"") -> tuple[Arch, dict[str, str]]:
    """Canonical form and the renaming ``{old name: new name}``.

    Nodes are coloured by op, depth and neighbours on both sides until the colours settle (Weisfeiler-Leman), ties are
    broken by singling out one node after the other (McKay and Piperno, 2014) and the smallest graph is taken; it is
    sorted by colour, which begins with depth, and named ``n0, n1, ...``. The inputs of Concat keep their order, those
    of Add are sorted: their order means nothing, yet it decides what a runtime fuses.

    Args:
        arch: The network.
        mark: What tells a node from its mirror image, such as its tensors. It has no part in the form, only in the
            renaming: of two nodes that could change places, the one with the smaller mark comes first. It is asked for
            where there are such nodes and nowhere else, since tensors are long.
    """
    labels = _labelling(arch, mark)
    order = sorted(range(len(arch.nodes)), key=labels.__getitem__)
    renaming = {arch.nodes[i].name: f"n{rank}" for rank, i in enumerate(order)}
    rank_of = {arch.nodes[i].name: rank for rank, i in enumerate(order)}

    def inputs(node: Node) -> tuple[str, ...]:
        ordered = node.inputs if isinstance(node.op, Concat) else sorted(node.inputs, key=rank_of.__getitem__)
        return tuple(renaming[source] for source in ordered)

    nodes = (arch.nodes[i] for i in order)
    return Arch(tuple(Node(renaming[node.name], node.op, inputs(node)) for node in nodes)), renaming


class _Graph:
    """The graph as integers, for colouring: sources of each node, and readers with the position they read at.

    Twins, nodes of one op with the same sources and the same readers, are told apart from the start: they can always
    change places, so that any order of them will do, and a branch beside a convolution makes many.
    """

    def __init__(self, arch: Arch, mark: Mark) -> None:
        index = {node.name: i for i, node in enumerate(arch.nodes)}
        self.ordered = [isinstance(node.op, Concat) for node in arch.nodes]
        self.sources = [[index[source] for source in node.inputs] for node in arch.nodes]
        self.readers: list[list[tuple[int, int]]] = [[] for _ in arch.nodes]
        depth: list[int] = []
        for i, sources in enumerate(self.sources):
            depth.append(1 + max((depth[j] for j in sources), default=-1))
            for position, j in enumerate(sources):
                self.readers[j].append((i, position if self.ordered[i] else 0))
        self.ops = [repr(node.op) for node in arch.nodes]
        self.mark: Callable[[int], bytes] = lambda i: mark(arch.nodes[i].name)
        self.start = _rank(list(zip(depth, self.ops, self._twin_numbers(), strict=True)))

    def _twin_numbers(self) -> list[int]:
        numbers = [0] * len(self.ops)
        places: defaultdict[Any, list[int]] = defaultdict(list)
        for i, op in enumerate(self.ops):
            places[op, tuple(self._arranged(self.sources[i], i)), tuple(sorted(self.readers[i]))].append(i)
        for twins in places.values():
            for number, i in enumerate(sorted(twins, key=self.mark) if len(twins) > 1 else twins):
                numbers[i] = number
        return numbers

    def _arranged(self, values: list[int], i: int) -> list[int]:
        """Values of the sources of node `i`, sorted where their order means nothing."""
        return values if self.ordered[i] else sorted(values)

    def refine(self, colours: list[int]) -> list[int]:
        """Split colours by those of the neighbours until nothing changes; order is kept."""
        while True:
            count = len(set(colours))
            if count == len(colours):
                return colours
            signatures = []
            for i, own in enumerate(colours):
                sources = self._arranged([colours[j] for j in self.sources[i]], i)
                readers = sorted((colours[j], position) for j, position in self.readers[i])
                signatures.append((own, tuple(sources), tuple(readers)))
            colours = _rank(signatures)
            if len(set(colours)) == count:
                return colours

    def certificate(self, labels: list[int]) -> list[tuple[str, list[int]]]:
        """The graph written out under a labelling; two labellings that give the same are related by a symmetry."""
        order = sorted(range(len(labels)), key=labels.__getitem__)
        return [(self.ops[i], self._arranged([labels[j] for j in self.sources[i]], i)) for i in order]


def _rank(keys: list[Any]) -> list[int]:
    """Per key, how many smaller ones there are, equal ones counted once; by comparing, as marks are long to hash."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ranks = [0] * len(keys)
    for smaller, larger in pairwise(order):
        ranks[larger] = ranks[smaller] + (keys[smaller] != keys[larger])
    return ranks


def _labelling(arch: Arch, mark: Mark) -> list[int]:
    graph = _Graph(arch, mark)

    def single_out(colours: list[int], member: int) -> list[int]:
        return graph.refine(_rank([(colour, i != member) for i, colour in enumerate(colours)]))

    def tied(colours: list[int]) -> list[int]:
        counts = Counter(colours)
        smallest = min((colour for colour, count in counts.items() if count > 1), default=None)
        return [i for i, colour in enumerate(colours) if colour == smallest]

    def any_leaf(colours: list[int]) -> list[int]:
        while members := tied(colours):
            colours = single_out(colours, members[0])
        return colours

    def smallest_leaf(colours: list[int], marked: list[int]) -> list[int]:
        members = sorted(tied(colours), key=marked.__getitem__)
        if not members:
            return colours
        branches = [single_out(colours, member) for member in members]
        leaves = [graph.certificate(any_leaf(branch)) for branch in branches]
        # Branches with one leaf in common are images of each other under a symmetry: following one is enough.
        distinct = [i for i, leaf in enumerate(leaves) if leaf not in leaves[:i]]
        found = (smallest_leaf(branches[i], single_out(marked, members[i])) for i in distinct)
        return min(found, key=graph.certificate)

    colours = graph.refine(graph.start)
    if not tied(colours):
        return colours
    marked = _rank([(colour, graph.mark(i)) for i, colour in enumerate(graph.start)])
    return smallest_leaf(colours, graph.refine(marked))


def rename(names: Mapping[str, str], key: str) -> str:
    """``"node.param"`` under the new name of its node."""
    node, _, short = key.partition(".")
    return f"{names[node]}.{short}"
