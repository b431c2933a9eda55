"""Ops and architectures: the rules, JSON, and one canonical form whatever the names and the order."""

import json
import pickle
from itertools import combinations, product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.arch import Arch, Node, canonicalise, chain
from spaces.errors import ArchError
from spaces.morphisms import AddBranch
from spaces.ops import (
    Act,
    Add,
    Concat,
    Conv,
    DepthwiseConv,
    GlobalPool,
    Input,
    Linear,
    Norm,
    Normalise,
    Pool,
    Zero,
    op_from_json,
)
from tests.spaces.nets import archs, net, shuffled

CONV = Conv(channels=4)


# Ops ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Conv(channels=0), "Conv: channels is 0, it must be a whole number of at least 1"),
        (lambda: Conv(channels=4.0), "Conv: channels is 4.0, it must be of type int"),
        (lambda: Conv(channels=np.int64(4)), "Conv: channels is .*4.*, it must be of type int"),
        (lambda: Conv(channels=True), "Conv: channels is True, it must be of type int"),
        (lambda: Conv(channels=4, norm=1), "Conv: norm is 1, it must be of type bool"),
        (lambda: DepthwiseConv(norm="no"), "DepthwiseConv: norm is 'no', it must be of type bool"),
        (lambda: DepthwiseConv(act=["relu"]), r"DepthwiseConv: act is \['relu'\], it must be of type str | None"),
        (lambda: Conv(channels=4, kernel=4), "Conv: kernel is 4, it must be odd"),
        (lambda: Conv(channels=4, stride=-1), "Conv: stride is -1, it must be a whole number of at least 1"),
        (lambda: Conv(channels=4, act="tanh"), "Conv: act is 'tanh', it must be one of relu, hardswish, silu"),
        (lambda: DepthwiseConv(kernel=2), "DepthwiseConv: kernel is 2, it must be odd"),
        (lambda: Act("gelu"), "Act: act is 'gelu', it must be one of relu, hardswish, silu"),
        (lambda: Add("gelu"), "Add: act is 'gelu', it must be one of relu, hardswish, silu"),
        (lambda: Pool("median"), "Pool: pool is 'median', it must be 'max' or 'avg'"),
        (lambda: Pool(kernel=4), "Pool: kernel is 4, it must be odd, or equal to the stride of 2"),
        (lambda: Conv(channels=4, bias=False), "Conv: bias is False, but the norm has a shift; set norm to False, too"),
        (lambda: Pool(stride=0), "Pool: stride is 0, it must be a whole number of at least 1"),
        (lambda: Input(3, 8, 0), "Input: width is 0, it must be a whole number of at least 1"),
        (lambda: Linear(0), "Linear: features is 0, it must be a whole number of at least 1"),
        (lambda: op_from_json({"op": "LSTM"}), "unknown op 'LSTM'; known are Input, Normalise, Conv"),
        (lambda: op_from_json({"op": "Conv", "channels": 4, "groups": 2}), "Conv: .*'groups'"),
        (lambda: op_from_json({"op": "Conv", "channels": "4"}), "Conv: channels is '4', it must be of type int"),
        (lambda: op_from_json({"op": "Pool", "pool": ["max"]}), r"Pool: pool is \['max'\], it must be of type str"),
        (lambda: op_from_json({"op": "Act", "act": None}), "Act: act is None, it must be of type str"),
        (lambda: op_from_json({"op": []}), r"unknown op \[\]; known are Input, Normalise, Conv"),
        (lambda: op_from_json(["Conv"]), r"\['Conv'\] is no op; expected a mapping with 'op' and the fields"),
        (lambda: Node(3, CONV), "Node: name is 3, it must be of type str"),
        (lambda: Node("c", "Conv"), "Node: op is 'Conv', it must be of type Op"),
        (lambda: Node("c", CONV, ["x"]), r"Node: inputs is \['x'\], it must be of type tuple\[str, \.\.\.\]"),
        (lambda: Arch([IMAGE]), r"Arch: nodes is .*, it must be of type tuple\[spaces.arch.Node, \.\.\.\]"),
    ],
)
def test_an_op_that_cannot_be_says_why(make, why):
    with pytest.raises(ArchError, match=why):
        make()


@pytest.mark.parametrize(
    "op",
    [
        Input(1, 28, 28),
        Normalise(),
        Conv(5, 2, False, "silu", 16),
        DepthwiseConv(5, 2, False, None),
        Norm(),
        Act("hardswish"),
        Add("relu"),
        Concat(),
        Pool("avg", 5, 1),
        Pool("max", 2, 2),
        Zero(),
        Conv(channels=3, norm=False, bias=False),
        GlobalPool(),
        Linear(7),
    ],
    ids=lambda op: type(op).__name__,
)
def test_every_op_survives_json(op):
    assert op_from_json(json.loads(json.dumps(op.to_json()))) == op


def test_macs_are_outputs_times_inputs_of_each():
    assert Conv(channels=16, kernel=5, stride=2).macs([(3, 7, 9)]) == 16 * 4 * 5 * 3 * 25
    assert DepthwiseConv(kernel=3).macs([(8, 4, 4)]) == 8 * 16 * 9
    assert Linear(10).macs([(64,)]) == 640
    assert Add().macs([(8, 4, 4)] * 2) == 0


# Rules ----------------------------------------------------------------------------------------------------------------

IMAGE = Node("x", Input(3, 8, 8))
POOL, SCORES = Node("p", GlobalPool(), ("c",)), Node("s", Linear(10), ("p",))


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([], "the first node, and no other, must be an Input"),
        ([Node("c", CONV, ("x",)), IMAGE], "the first node, and no other, must be an Input"),
        ([IMAGE, Node("y", Input(3, 8, 8))], "the first node, and no other, must be an Input"),
        ([IMAGE, Node("c", CONV, ("x",)), Node("c", CONV, ("x",)), POOL, SCORES], "two nodes are named 'c'"),
        ([IMAGE, Node("c.1", CONV, ("x",))], "a node is named 'c.1'; a name must be a text without a dot"),
        ([IMAGE, Node("", CONV, ("x",))], "a node is named ''; a name must be a text without a dot"),
        ([IMAGE, Node("c", CONV, ("p",)), POOL, SCORES], "c reads 'p', which does not stand before it"),
        ([IMAGE, Node("c", CONV, ("c",)), POOL, SCORES], "c reads 'c', which does not stand before it"),
        ([IMAGE, Node("c", CONV, ()), POOL, SCORES], "c: Conv has 0 inputs"),
        ([IMAGE, Node("c", CONV, ("x", "x")), POOL, SCORES], "c: Conv has 2 inputs"),
        ([IMAGE, Node("c", Add(), ("x",)), POOL, SCORES], "c: Add has 1 inputs"),
        ([IMAGE, Node("c", Concat(), ("x",)), POOL, SCORES], "c: Concat has 1 inputs"),
        (
            [IMAGE, Node("d", Conv(channels=8, stride=2), ("x",)), Node("c", Add(), ("x", "d")), POOL, SCORES],
            "Add: inputs have shapes [(3, 8, 8), (8, 4, 4)], they must be equal",
        ),
        (
            [IMAGE, Node("d", Conv(channels=8, stride=2), ("x",)), Node("c", Concat(), ("x", "d")), POOL, SCORES],
            "Concat: inputs have shapes [(3, 8, 8), (8, 4, 4)], their height and width must be equal",
        ),
        (
            [IMAGE, Node("c", CONV, ("x",)), Node("s", Linear(10), ("c",))],
            "Linear: the input has shape (4, 8, 8), it must be flat; put a GlobalPool before it",
        ),
        (
            [IMAGE, Node("c", CONV, ("x",)), POOL, Node("s", CONV, ("p",))],
            "Conv: the input has shape (4,), it must be (channels, height, width)",
        ),
        (
            [IMAGE, Node("c", CONV, ("x",)), POOL, Node("s", Norm(), ("p",))],
            "Norm: the input has shape (4,), it must be (channels, height, width)",
        ),
        (
            [IMAGE, Node("c", CONV, ("x",)), POOL, Node("s", Normalise(), ("p",))],
            "Normalise: the input has shape (4,), it must be (channels, height, width)",
        ),
        (
            [IMAGE, Node("c", CONV, ("x",)), POOL, Node("s", Pool(), ("p",))],
            "Pool: the input has shape (4,), it must be (channels, height, width)",
        ),
        ([IMAGE, Node("c", CONV, ("x",)), Node("d", CONV, ("x",)), POOL, SCORES], "d is read by no node; prune it"),
        ([IMAGE, Node("c", CONV, ("x",))], "the output c has shape (4, 8, 8), it must be flat class scores"),
    ],
)
def test_a_graph_that_is_no_network_says_why(nodes, why):
    with pytest.raises(ArchError) as refused:
        Arch(tuple(nodes))
    assert str(refused.value) == why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (7, "not an architecture: 'int' object is not iterable; expected a list of"),
        ([["x", {"op": "Input", "channels": 3, "height": 8, "width": 8}]], "not an architecture: not enough values"),
        ([["x", 3, []]], "3 is no op; expected a mapping with 'op' and the fields"),
        ([[["x"], {"op": "GlobalPool"}, []]], r"Node: name is \['x'\], it must be of type str"),
        ([["p", {"op": "GlobalPool"}, "x"]], r"Node: inputs is 'x', it must be of type tuple\[str, \.\.\.\]"),
        ([["p", {"op": "GlobalPool"}, [["x"]]]], r"Node: inputs is \(\['x'\],\), it must be of type tuple"),
        ([["p", {"op": "GlobalPool"}, None]], "Node: inputs is None, it must be of type tuple"),
        ([["x", {"op": "Input", "channels": 3, "height": 8}, []]], "Input: .*'width'"),
    ],
)
def test_json_that_is_no_architecture_says_why(data, why):
    with pytest.raises(ArchError, match=why):
        Arch.from_json(data)


@given(arch=archs())
def test_an_architecture_survives_json(arch):
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch


def test_what_an_architecture_says_of_itself():
    arch = net(a=(CONV, "x"), b=(Concat(), "a", "a"))
    assert arch.image == Input(3, 8, 8)
    assert (arch.output, arch.classes) == ("scores", 10)
    assert arch.shapes["b"] == (8, 8, 8)
    assert arch.consumers["a"] == ("b", "b")
    assert "a" in arch
    assert "z" not in arch
    assert arch.input_shapes("b") == [(4, 8, 8), (4, 8, 8)]
    assert list(arch.params) == [
        "a.weight", "a.gamma", "a.beta", "a.mean", "a.var", "scores.weight", "scores.bias",
    ]  # fmt: skip


def test_a_pickle_holds_the_nodes_alone():
    arch = net(a=(CONV, "x"))
    before = pickle.dumps(arch)
    assert (hash(arch), arch.hash, arch.params) is not None
    assert pickle.dumps(arch) == before
    assert pickle.loads(before) == arch


# Canonical form -------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(arch=archs(), seed=st.integers(0, 99))
def test_names_and_order_do_not_matter(arch, seed):
    again, _ = shuffled(arch, seed)
    assert again.canonical() == arch.canonical()
    assert again.hash == arch.hash


@settings(max_examples=100)
@given(arch=archs())
def test_the_canonical_form_is_the_same_network(arch):
    canonical, names = canonicalise(arch)
    assert [node.name for node in canonical.nodes] == [f"n{i}" for i in range(len(arch.nodes))]
    for node in arch.nodes:
        there = canonical[names[node.name]]
        inputs = [names[source] for source in node.inputs]
        assert there.op == node.op
        assert list(there.inputs) == (
            inputs if isinstance(node.op, Concat) else sorted(inputs, key=lambda n: int(n[1:]))
        )
    assert canonicalise(canonical) == (canonical, {node.name: node.name for node in canonical.nodes})


def isomorphic(a, b):
    """By brute force: the same ops, the same edges, at the same positions of every Concat."""

    def graph(arch):
        found = nx.MultiDiGraph()
        for node in arch.nodes:
            found.add_node(node.name, op=node.op)
            for position, source in enumerate(node.inputs):
                found.add_edge(source, node.name, position=position if isinstance(node.op, Concat) else 0)
        return found

    def edges_match(x, y):
        return sorted(e["position"] for e in x.values()) == sorted(e["position"] for e in y.values())

    return nx.is_isomorphic(graph(a), graph(b), lambda x, y: x["op"] == y["op"], edges_match)


def small(choices):
    """Two layers of three nodes: the second reads the first as `choices` say; everything ends in one Concat."""
    nodes = {f"a{i}": (CONV, "x") for i in range(3)}
    nodes |= {f"b{i}": (op(), *(f"a{j}" for j in read)) for i, (op, read) in enumerate(choices)}
    return net(**nodes, end=(Add(), "b0", "b1", "b2", "a0", "a1", "a2"))


def test_equal_hashes_mean_equal_networks_and_nothing_else():
    reads = [(Add, (0, 1)), (Add, (1, 1)), (Add, (2, 0)), (Add, (1, 2))]
    found = [small(choices) for choices in product(reads, repeat=3)]
    classes = []
    for arch in found:
        known = next((group for group in classes if isomorphic(arch, group[0])), None)
        if known is None:
            classes.append([arch])
        else:
            known.append(arch)
    assert len({group[0].hash for group in classes}) == len(classes) > 5
    assert all(len({arch.hash for arch in group}) == 1 for group in classes)


def drawn(edges, vertices):
    """A graph as a network: vertices are convolutions, an edge is the sum of two."""
    nodes = {f"v{v}": (CONV, "x") for v in range(vertices)}
    nodes |= {f"e{i}": (Add(), f"v{a}", f"v{b}") for i, (a, b) in enumerate(edges)}
    return net(**nodes, end=(Add(), *nodes))


@pytest.mark.parametrize(
    ("vertices", "classes"),  # OEIS A000088: graphs on n unlabelled nodes
    [(3, 4), (4, 11), (5, 34), pytest.param(6, 156, marks=pytest.mark.slow)],
)
def test_as_many_hashes_as_there_are_graphs(vertices, classes):
    pairs = list(combinations(range(vertices), 2))
    subsets = ([pair for i, pair in enumerate(pairs) if bits >> i & 1] for bits in range(2 ** len(pairs)))
    assert len({drawn(edges, vertices).hash for edges in subsets}) == classes


def ring(*vertices):
    return list(zip(vertices, vertices[1:] + vertices[:1], strict=True))


CELLS = list(product(range(4), repeat=2))


def cells(adjacent):
    return [(i, j) for j, b in enumerate(CELLS) for i, a in enumerate(CELLS[:j]) if adjacent(a, b)]


def shrikhande(a, b):
    return ((a[0] - b[0]) % 4, (a[1] - b[1]) % 4) in {(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)}


#: Colouring nodes by their neighbours, however often, sees no difference within a pair.
LOOK_ALIKE = {
    "a hexagon and two triangles": (6, ring(0, 1, 2, 3, 4, 5), ring(0, 1, 2) + ring(3, 4, 5)),
    "a decagon and two pentagons": (10, ring(*range(10)), ring(0, 1, 2, 3, 4) + ring(5, 6, 7, 8, 9)),
    "rook's graph and Shrikhande's": (16, cells(lambda a, b: (a[0] == b[0]) != (a[1] == b[1])), cells(shrikhande)),
}


@pytest.mark.parametrize(("vertices", "first", "second"), LOOK_ALIKE.values(), ids=LOOK_ALIKE)
def test_networks_that_look_alike_from_every_node_hash_apart(vertices, first, second):
    a, b = drawn(first, vertices), drawn(second, vertices)
    assert a.hash != b.hash
    for arch in (a, b):
        assert {shuffled(arch, seed)[0].hash for seed in range(3)} == {arch.hash}


@pytest.mark.parametrize(
    ("vertices", "edges"),
    [
        (12, ring(0, 1, 2, 3, 4, 5) + ring(6, 7, 8) + ring(9, 10, 11)),
        (12, list(nx.frucht_graph().edges)),  # no two of its vertices are alike, though all have three neighbours
        (17, ring(*range(9)) + ring(9, 10, 11, 12) + ring(13, 14, 15, 16)),
    ],
    ids=["a hexagon beside two triangles", "Frucht's graph", "a nonagon beside two squares"],
)
def test_nodes_that_look_alike_but_cannot_change_places(vertices, edges):
    arch = drawn(edges, vertices)
    assert {shuffled(arch, seed)[0].hash for seed in range(6)} == {arch.hash}


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("branches", [2, 3, 8])
def test_parallel_equal_branches(branches, length):
    def build(last):
        nodes = {}
        for b in range(branches):
            for i in range(length):
                op = last if (b, i) == (branches - 1, length - 1) else Conv(channels=4)
                nodes[f"b{b}_{i}"] = (op, f"b{b}_{i - 1}" if i else "x")
        return net(**nodes, end=(Add(), *(f"b{b}_{length - 1}" for b in range(branches))))

    equal, odd = build(Conv(channels=4)), build(Conv(channels=4, kernel=5))
    assert equal.hash != odd.hash
    for arch in (equal, odd):
        assert {shuffled(arch, seed)[0].hash for seed in range(5)} == {arch.hash}


def nested(depth, odd=None, path="r", source="x"):
    """A binary tree of branches: symmetric all over, or with one odd leaf."""
    nodes = {}
    if depth == 0:
        return {path: (Conv(channels=4, act=None if path == odd else "relu"), source)}
    for side in "ab":
        nodes[f"{path}{side}_"] = (CONV, source)
        nodes |= nested(depth - 1, odd, path + side, f"{path}{side}_")
    return nodes | {path: (Add(), path + "a", path + "b")}


def test_nested_symmetric_branches():
    whole = net(**nested(4))
    assert {shuffled(whole, seed)[0].hash for seed in range(3)} == {whole.hash}
    odd = {net(**nested(3, "r" + "".join(path))).hash for path in product("ab", repeat=3)}
    assert len(odd) == 1  # wherever the odd leaf is, the tree can be turned so that it is first
    assert odd != {net(**nested(3)).hash}


def test_one_convolution_used_twice_is_not_two_equal_ones():
    shared = net(
        a=(CONV, "x"), b=(Conv(channels=4, kernel=5), "a"), c=(Conv(channels=4, kernel=1), "a"), d=(Add(), "b", "c")
    )
    doubled = net(
        a=(CONV, "x"), z=(CONV, "x"),
        b=(Conv(channels=4, kernel=5), "a"), c=(Conv(channels=4, kernel=1), "z"), d=(Add(), "b", "c"),
    )  # fmt: skip
    assert shared.hash != doubled.hash
    assert net(a=(CONV, "x"), b=(Add(), "a", "a")).hash != net(a=(CONV, "x"), z=(CONV, "x"), b=(Add(), "a", "z")).hash


def test_the_order_of_a_concat_means_something_and_that_of_an_add_nothing():
    def joined(op, *order):
        return net(a=(CONV, "x"), b=(Conv(channels=4, kernel=5), "x"), c=(op, *order)).hash

    assert joined(Concat(), "a", "b") != joined(Concat(), "b", "a")
    assert joined(Add(), "a", "b") == joined(Add(), "b", "a")
    assert joined(Concat(), "a", "b", "a") != joined(Concat(), "a", "a", "b")
    assert joined(Add(), "a", "b", "a") == joined(Add(), "a", "a", "b")
    assert joined(Add(), "a", "b", "a") != joined(Add(), "a", "b", "b")
    assert joined(Add(), "a", "b") != joined(Add("relu"), "a", "b")


def test_which_of_two_equal_branches_stands_first_in_a_concat_means_nothing():
    def joined(*order):
        return net(a=(CONV, "x"), b=(CONV, "x"), c=(Concat(), *order)).hash

    assert joined("a", "b") == joined("b", "a")
    assert joined("a", "b") != net(a=(CONV, "x"), c=(Concat(), "a", "a")).hash


def test_the_same_nodes_in_another_wiring_hash_apart():
    def wired(second):
        return net(a=(CONV, "x"), b=(CONV, "a"), c=(CONV, second), d=(Add(), "b", "c")).hash

    assert len({wired("a"), wired("b")}) == 2


def test_a_mark_says_which_of_two_equal_branches_comes_first():
    arch = AddBranch("n1").apply(chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))).arch
    for marks in ({"n1": b"a", "n2": b"b"}, {"n1": b"b", "n2": b"a"}):
        form, names = canonicalise(arch, marks.__getitem__)
        assert form == arch
        assert [names[old] for old in sorted(marks, key=marks.__getitem__)] == ["n1", "n2"]


def test_marks_are_asked_for_only_where_nodes_could_change_places():
    arch = net(a=(CONV, "x"), b=(CONV, "a"), c=(CONV, "a"), d=(Add(), "b", "c"), e=(CONV, "d"))
    asked = []
    canonicalise(arch, lambda name: asked.append(name) or b"")
    assert asked == ["b", "c"]


@settings(max_examples=5)
@given(seed=st.integers(0, 999))
def test_marks_order_branches_that_only_their_far_ends_tell_apart(seed):
    """Two equal branches of three nodes, of which only the last has a mark, under any names and in any order."""
    arch = net(
        **{f"{b}{i}": (CONV, f"{b}{i - 1}" if i else "x") for b in "ab" for i in range(3)}, end=(Add(), "a2", "b2")
    )
    again, names = shuffled(arch, seed)
    marks = {names["a2"]: b"2", names["b2"]: b"1"}
    _, canonical = canonicalise(again, lambda name: marks.get(name, b""))
    ranks = {branch: [int(canonical[names[f"{branch}{i}"]][1:]) for i in range(3)] for branch in "ab"}
    assert ranks == {"b": [1, 3, 5], "a": [2, 4, 6]}


def test_the_hash_stays_what_it_is():
    """Stores and tables name networks by it: it may only change on purpose."""
    arch = net(a=(CONV, "x"), b=(DepthwiseConv(), "a"), c=(Add("relu"), "a", "b"), d=(Concat(), "c", "a"))
    assert arch.hash == "bbcc942738bd43fa"
