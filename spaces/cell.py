"""The cell of NAS-Bench-201 (Dong and Yang, ICLR 2020), and the network that is built of copies of it.

A cell has four nodes; node 0 is its input, node 3 its output, and each node is the sum of what the edges from earlier
ones bring. Written as in the benchmark, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``: for each node after the first, what
the edge from each earlier one does.
"""

import re
from functools import lru_cache

from spaces.arch import Node
from spaces.errors import ArchError
from spaces.ops import Act, Add, Conv, GlobalPool, Input, Linear, Norm, Normalise, Op, Pool, Zero

NONE, SKIP, CONV_1X1, CONV_3X3, AVG_POOL = "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"

#: What an edge can do.
OPERATIONS = (NONE, SKIP, CONV_1X1, CONV_3X3, AVG_POOL)

#: Kernels of the convolutions; before each stands a ReLU, after it a batch norm.
KERNELS = {CONV_1X1: 1, CONV_3X3: 3}

#: All edges, in the order of the string: where from, where to.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))

LAST = 3

#: Of the network: the map is halved between them.
STAGES = 3

#: An operation for each edge.
Cell = tuple[str, ...]


@lru_cache(maxsize=2**15)  # more than there are cells: searches come back to the same ones again and again
def parse(text: str) -> Cell:
    """The cell of an architecture string.

    >>> parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    ('none', 'none', 'none', 'skip_connect', 'none', 'none')

    Raises:
        ArchError: It is no such string.
    """
    cell = tuple(re.findall(r"(\w+)~", text))
    if len(cell) != len(EDGES) or write(cell) != text:
        raise ArchError(f"{text!r} is no cell; expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
    for operation in cell:
        if operation not in OPERATIONS:
            raise ArchError(f"unknown operation {operation!r} in {text}; known are {', '.join(OPERATIONS)}")
    return cell


@lru_cache(maxsize=2**15)
def write(cell: Cell) -> str:
    """The architecture string of a cell."""
    edges = list(zip(EDGES, cell, strict=True))
    parts = ("".join(f"{op}~{source}|" for (source, into), op in edges if into == node) for node in range(1, LAST + 1))
    return "+".join(f"|{part}" for part in parts)


@lru_cache(maxsize=2**15)
def pruned(cell: Cell) -> Cell:
    """The cell without what does not lie on a way from its input to its output; benchmarks count that, too."""
    reached, needed = {0}, {LAST}
    for (source, into), op in zip(EDGES, cell, strict=True):
        if op != NONE and source in reached:
            reached.add(into)
    for (source, into), op in reversed(list(zip(EDGES, cell, strict=True))):
        if op != NONE and into in needed:
            needed.add(source)
    return tuple(
        op if source in reached and into in needed else NONE for (source, into), op in zip(EDGES, cell, strict=True)
    )


def edge_name(copy: int, edge: int, op: str) -> str:
    """Name of the node for an operation of one of the copies of the cell."""
    source, into = EDGES[edge]
    return f"cell{copy}_{source}{into}_{op}"


def edge_op(op: str, channels: int) -> Op:
    """The op of an edge that does something to what it brings."""
    return Pool("avg", 3, 1) if op == AVG_POOL else Conv(kernel=KERNELS[op], channels=channels, act=None)


def network(cell: Cell, image: Input, classes: int, channels: int, cells: int) -> list[Node]:
    """The nodes of the benchmark's skeleton around copies of a cell, which must be :func:`pruned`.

    Names tell what a node is for, so that those of two cells can be compared. A skip is no node, nor is a sum of one
    thing; convolutions that read the same share the ReLU before them.

    Args:
        cell: What is repeated.
        image: The input.
        classes: Number of class scores.
        channels: Of the first stage; doubled from stage to stage.
        cells: Copies in each of the stages.
    """
    nodes = [
        Node("image", image),
        Node("normalised", Normalise(), ("image",)),
        Node("stem", Conv(kernel=3, channels=channels, act=None), ("normalised",)),
    ]
    for stage in range(STAGES):
        if stage:
            nodes += _reduction(stage, nodes[-1].name, channels * 2**stage)
        for copy in range(stage * cells, (stage + 1) * cells):
            nodes += _copy(copy, cell, nodes[-1].name, channels * 2**stage)
    return [
        *nodes,
        Node("norm", Norm(), (nodes[-1].name,)),
        Node("relu", Act(), ("norm",)),
        Node("pool", GlobalPool(), ("relu",)),
        Node("scores", Linear(classes), ("pool",)),
    ]


def _reduction(stage: int, source: str, channels: int) -> list[Node]:
    """A residual block that halves the map and doubles the channels."""
    name = f"reduction{stage}"
    return [
        Node(f"{name}_relu", Act(), (source,)),
        Node(f"{name}_conv1", Conv(kernel=3, stride=2, channels=channels), (f"{name}_relu",)),
        Node(f"{name}_conv2", Conv(kernel=3, channels=channels, act=None), (f"{name}_conv1",)),
        Node(f"{name}_pool", Pool("avg", 2, 2), (source,)),
        Node(f"{name}_skip", Conv(kernel=1, channels=channels, norm=False, bias=False, act=None), (f"{name}_pool",)),
        Node(name, Add(), (f"{name}_conv2", f"{name}_skip")),
    ]


def _copy(copy: int, cell: Cell, source: str, channels: int) -> list[Node]:
    """One copy of the cell; its last node is its output."""
    values, nodes = {0: source}, dict[str, Node]()
    for into in range(1, LAST + 1):
        parts: list[tuple[int, str]] = []
        for edge, ((origin, target), op) in enumerate(zip(EDGES, cell, strict=True)):
            if target != into or op == NONE:
                continue
            part = values[origin]
            if op in KERNELS:
                relu = f"cell{copy}_relu{origin}"
                nodes[relu] = Node(relu, Act(), (part,))
                part = relu
            if op != SKIP:
                name = edge_name(copy, edge, op)
                nodes[name] = Node(name, edge_op(op, channels), (part,))
                part = name
            parts.append((origin, part))
        if len(parts) == 1:
            values[into] = parts[0][1]
        elif parts:
            name = f"cell{copy}_sum{into}_{''.join(str(origin) for origin, _ in parts)}"
            nodes[name] = Node(name, Add(), tuple(part for _, part in parts))
            values[into] = name
    if LAST not in values:
        return [Node(f"cell{copy}_zero", Zero(), (source,))]
    return list(nodes.values())
