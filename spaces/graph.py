"""What can be read off an architecture: who reads a node, where its values come from, which channels are tied."""

from collections.abc import Callable, Sequence

from spaces.arch import Arch, Node
from spaces.channels import Edge, axes
from spaces.errors import ArchError
from spaces.ops import Add, Concat, Op, Pool, Role


def readers(arch: Arch, name: str) -> list[Edge]:
    """Every edge over which a node is read."""
    return [(node.name, i) for node in arch.nodes for i, source in enumerate(node.inputs) if source == name]


def free_names(arch: Arch, count: int) -> list[str]:
    """Names that no node of the architecture has."""
    taken = {node.name for node in arch.nodes}
    return [name for name in (f"n{i}" for i in range(len(taken) + count)) if name not in taken][:count]


def ordered(nodes: Sequence[Node], last: str) -> tuple[Node, ...]:
    """Topological order by depth-first search from the last node, the input first; the dead are left out."""
    by_name = {node.name: node for node in nodes}
    done: dict[str, Node] = {}
    way = [last]
    while way:
        node = by_name[way[-1]]
        undone = [source for source in node.inputs if source not in done]
        if not undone:
            done[way.pop()] = node
        elif len(way) < len(by_name):
            way.append(undone[0])
        else:
            raise ArchError("some of the nodes would read their own output")
    return tuple(done.values())


def ancestors(arch: Arch, name: str) -> set[str]:
    """All nodes that a node depends on."""
    found: set[str] = set()
    stack = list(arch[name].inputs)
    while stack:
        source = stack.pop()
        if source not in found:
            found.add(source)
            stack.extend(arch[source].inputs)
    return found


def sources(arch: Arch, name: str, through: Callable[[Op], bool]) -> set[str]:
    """Where a node's values come from, seen through some ops; a node of another op is its own and only source."""
    reached = [name]
    for each in reached:  # which grows on the way
        if through(arch[each].op):
            reached += [source for source in arch[each].inputs if source not in reached]
    return {each for each in reached if not through(arch[each].op)}


def nonnegative(arch: Arch, name: str) -> bool:
    """Whether a node's output is known to be at least zero everywhere."""

    def act(op: Op) -> str | None:
        return getattr(op, "act", None)

    behind = sources(arch, name, lambda op: isinstance(op, Add | Concat | Pool) and act(op) is None)
    return all(act(arch[source].op) == "relu" for source in behind)


def is_map(arch: Arch, name: str) -> bool:
    """A feature map made by the network: spatial, and neither the image nor its normalisation."""
    return len(arch.shapes[name]) == 3 and not any(part.frozen for part in axes(arch)[name])


def tied_below(arch: Arch, name: str) -> bool:
    """Whether channels of a node reach an Add, or the output, before a dense convolution or linear layer mixes them.

    A tied channel cannot come or go by itself.
    """
    reached = [name]
    for each in reached:  # which grows on the way
        roles = {reader: arch[reader].op.role for reader in arch.consumers[each]}
        if each == arch.output or Role.TIES in roles.values():
            return True
        reached += [reader for reader, role in roles.items() if role is not Role.MAKES and reader not in reached]
    return False
