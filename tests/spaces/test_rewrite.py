"""The four primitives: structure and tensors, on graphs where they are hard."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spaces.arch import Arch, Node, chain
from spaces.channels import Segment, axes, segment_at
from spaces.errors import ArchError
from spaces.graph import free_names, readers
from spaces.ops import Act, Add, Concat, Conv, DepthwiseConv, GlobalPool, Input, Linear, Pool
from spaces.rewrite import Choice, canonical, drop, identity, remap, splice, swap
from spaces.state import State
from tests.spaces.nets import archs, error, net, pictures, scores, shuffled, trained

CONV = Conv(channels=4)


def assert_keeps_the_function(arch, rewrite, state=None, modes=("eval", "train")):
    state, images = state or trained(arch), pictures(arch)
    for mode in modes:
        found = scores(rewrite.arch, rewrite.transfer(state).value, images, mode)
        assert error(found, scores(arch, state.value, images, mode)) <= 1e-12


# remap ----------------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_permuting_any_segment_keeps_the_function(data):
    arch = data.draw(archs())
    free = sorted({part for axis in axes(arch).values() for part in axis if not part.frozen}, key=lambda s: s.index)
    segment = data.draw(st.sampled_from(free))
    assert_keeps_the_function(arch, remap(arch, segment, data.draw(st.permutations(range(segment.size)))))


@given(data=st.data())
def test_copying_dropping_and_adding_fresh_channels_at_once(data):
    """New channels in any order: all old ones at least once, fresh ones anywhere."""
    arch = data.draw(archs())
    free = sorted({part for axis in axes(arch).values() for part in axis if not part.frozen}, key=lambda s: s.index)
    segment = data.draw(st.sampled_from(free))
    more = data.draw(st.lists(st.integers(-1, segment.size - 1), max_size=4))
    source = data.draw(st.permutations([*range(segment.size), *more]))
    rewrite = remap(arch, segment, source, seed=3)
    assert_keeps_the_function(arch, rewrite)
    back = rewrite.then(
        lambda child: remap(
            child,
            next(
                part
                for name, axis in axes(arch).items()
                for i, part in enumerate(axes(child)[name])
                if axis[i] == segment
            ),
            [source.index(channel) for channel in range(segment.size)],
            shares=[float(source.count(channel)) for channel in range(segment.size)],
        )
    )
    assert back.arch == arch
    assert_keeps_the_function(arch, back)


def test_a_segment_twice_on_one_axis_is_changed_at_both_places():
    arch = net(
        a=(CONV, "x"), b=(Conv(channels=2), "x"), c=(Concat(), "a", "b", "a"), d=(Conv(kernel=1, channels=3), "c")
    )
    child = remap(arch, segment_at(arch, "a", 0), [3, 1])
    state = trained(arch)
    value = child.transfer(state).value
    assert child.arch.shapes["c"] == (6, 8, 8)
    assert torch.equal(value["a.weight"], state.value["a.weight"][[3, 1]])
    assert torch.equal(value["d.weight"], state.value["d.weight"][:, [3, 1, 4, 5, 9, 7]])


def test_a_convolution_that_makes_a_segment_twice_grows_by_both():
    arch = net(a=(CONV, "x"), b=(Concat(), "a", "a"), c=(Conv(channels=8), "x"), d=(Add(), "b", "c"))
    child = remap(arch, segment_at(arch, "a", 0), [0, 1, 2, 3, -1, 1])
    assert (child.arch["a"].op, child.arch["c"].op) == (Conv(channels=6), Conv(channels=12))
    assert_keeps_the_function(arch, child)


def test_every_reader_divides_by_the_copies():
    arch = net(a=(CONV, "x"), b=(Conv(channels=4, kernel=1), "a"), c=(DepthwiseConv(), "a"), d=(Add(), "b", "c"))
    state = trained(arch)
    child = remap(arch, segment_at(arch, "a", 0), [0, 0, 0, 1, 2, 3])
    value = child.transfer(state).value
    tied = child.arch["b"].op
    assert tied == Conv(channels=6, kernel=1)  # the Add ties what b makes to what it reads
    assert torch.allclose(value["b.weight"][:, 0], state.value["b.weight"][[0, 0, 0, 1, 2, 3], 0] / 3)
    assert_keeps_the_function(arch, child)


def test_a_choice_is_made_by_the_value_alone():
    arch = net(a=(CONV, "x"))
    seen = []

    def pick(tensors):
        seen.append(tensors)
        return [2, 0]

    state = trained(arch)
    child = remap(arch, segment_at(arch, "a", 0), Choice(2, pick))
    assert seen == []  # structure first
    moved = child.transfer(state)
    assert all(tensors is state.value for tensors in seen)
    assert torch.equal(moved.ema["a.weight"], state.ema["a.weight"][[2, 0]])


def test_a_fresh_channel_starts_as_its_op_wants_it():
    arch = net(a=(CONV, "x"), b=(DepthwiseConv(norm=False), "a"))
    value = remap(arch, segment_at(arch, "a", 0), [0, 1, 2, 3, -1], seed=1).transfer(trained(arch)).value
    assert [value[f"a.{short}"][4].item() for short in ("gamma", "beta", "mean", "var")] == [1, 0, 0, 1]
    assert value["b.bias"][4] == 0
    assert value["a.weight"][4].std() > 0
    assert value["b.weight"][4].std() > 0
    assert value["scores.weight"][:, 4].abs().max() == 0


@pytest.mark.parametrize(
    ("node", "source", "why"),
    [
        ("x", [0, 1, 2, -1], "these channels belong to the image or to the class scores"),
        ("scores", [0], "these channels belong to the image or to the class scores"),
        ("a", [], "nothing would be left of these channels"),
        ("a", [0, 4], r"the source is \[0, 4\], it must hold channels 0 to 3, or -1"),
        ("a", [0, -2], r"the source is \[0, -2\], it must hold channels 0 to 3, or -1"),
    ],
)
def test_a_source_that_cannot_be_is_refused(node, source, why):
    arch = net(a=(CONV, "x"))
    with pytest.raises(ArchError, match=why):
        remap(arch, segment_at(arch, node, 0), source)


def test_a_segment_of_which_nothing_would_be_left_is_kept_though_all_layers_have_others():
    """The Add cuts b and c so that the segment in the middle is no layer's only one."""
    arch = net(
        a=(CONV, "x"), b=(Conv(channels=8), "x"), c=(Conv(channels=6), "x"), d=(Conv(channels=6), "x"),
        e=(Concat(), "a", "b"), f=(Concat(), "c", "d"), g=(Add(), "e", "f"),
    )  # fmt: skip
    middle = axes(arch)["g"][1]
    assert middle.size == 2
    for source in ([], Choice(0, lambda tensors: [])):
        with pytest.raises(ArchError, match="nothing would be left of these channels"):
            remap(arch, middle, source)


def test_a_segment_of_another_network_is_refused():
    arch = net(a=(CONV, "x"))
    with pytest.raises(ArchError, match=r"no node has Segment\(index=99, size=4, frozen=False\); take one of its axes"):
        remap(arch, Segment(99, 4), [0])


# splice ---------------------------------------------------------------------------------------------------------------


def test_what_follows_on_a_new_concat_reads_it_with_zeros():
    arch = net(
        a=(CONV, "x"), b=(Conv(channels=2), "x"), c=(Conv(channels=3), "x"),
        d=(Concat(), "a", "b"), e=(DepthwiseConv(), "d"), f=(Concat(), "c", "e", "c"), g=(Conv(1, channels=5), "f"),
    )  # fmt: skip
    child = splice(arch, [Node("new", Concat(), ("a", "c"))], {("d", 0): "new"})
    state = trained(arch)
    value = child.transfer(state).value
    # f is c, then e = dw(new = (a, c), b), then c: the new channels stand in the middle of all that follows.
    assert value["e.weight"].shape == (9, 1, 3, 3)
    assert value["g.weight"][:, 7:10].abs().max() == 0
    kept = [i for i in range(15) if i not in (7, 8, 9)]
    assert torch.equal(value["g.weight"][:, kept], state.value["g.weight"])
    assert torch.equal(value["e.gamma"][[0, 1, 2, 3, 7, 8]], state.value["e.gamma"])
    assert_keeps_the_function(arch, child)


def test_new_filters_and_new_rows_of_filters_are_not_the_same_numbers():
    arch = net(a=(CONV, "x"), b=(DepthwiseConv(), "a"))
    nodes = [Node("new", Conv(channels=3), ("x",)), Node("joined", Concat(), ("a", "new"))]
    value = splice(arch, nodes, {("b", 0): "joined"}, seed=2).transfer(trained(arch)).value
    rows, filters = value["b.weight"][4:].flatten(), value["new.weight"].flatten()
    assert (rows[:8] / filters[:8]).std() > 0.1  # a factor between them would be that of their fan-ins


def test_new_concats_are_put_in_one_by_one():
    arch = net(a=(CONV, "x"), b=(CONV, "a"), c=(CONV, "b"))
    nodes = [Node("d", Concat(), ("a", "x")), Node("e", Concat(), ("b", "a"))]
    with pytest.raises(ArchError, match="d, e are new Concats; put them in one by one"):
        splice(arch, nodes, {("b", 0): "d", ("c", 0): "e"})


def test_a_splice_takes_its_starts_and_draws_the_rest():
    arch = net(a=(CONV, "x"))
    node = Node("new", CONV, ("a",))
    starts = {"new.beta": lambda param, tensors: tensors["a.beta"] + 1}
    state = trained(arch)
    value = splice(arch, [node], {("pool", 0): "new"}, starts=starts, seed=5).transfer(state).value
    assert torch.equal(value["new.beta"], state.value["a.beta"] + 1)
    other = splice(arch, [node], {("pool", 0): "new"}, starts=starts, seed=6).transfer(state).value
    assert not torch.equal(value["new.weight"], other["new.weight"])
    assert torch.equal(value["a.weight"], other["a.weight"])


def test_a_splice_that_is_no_network_is_refused():
    arch = net(a=(CONV, "x"))
    with pytest.raises(ArchError, match="Add: inputs have shapes"):
        splice(arch, [Node("new", Add(), ("a", "x"))], {("pool", 0): "new"})


def test_a_splice_that_reads_itself_is_refused():
    arch = net(a=(CONV, "x"), b=(CONV, "a"))
    with pytest.raises(ArchError, match="some of the nodes would read their own output"):
        splice(arch, [Node("new", CONV, ("b",))], {("b", 0): "new"})


def test_what_a_splice_leaves_unread_is_pruned():
    arch = net(a=(CONV, "x"), b=(CONV, "a"))
    child = splice(arch, [Node("new", Conv(channels=2), ("x",))], {("pool", 0): "new"})
    assert [node.name for node in child.arch.nodes] == ["x", "new", "pool", "scores"]
    assert child.new == {"new"}


def test_tensors_keep_the_type_they_have():
    arch = net(a=(CONV, "x"))
    for dtype in (torch.float32, torch.float64):
        state = trained(arch, dtype=dtype)
        spliced = splice(arch, [Node("new", CONV, ("a",))], {("pool", 0): "new"})
        widened = remap(arch, segment_at(arch, "a", 0), [0, 1, 2, 3, -1, 0])
        for child in (spliced, widened):
            assert {tensor.dtype for tensor in child.transfer(state).flat().values()} == {dtype}


# swap -----------------------------------------------------------------------------------------------------------------


def test_swap_converts_the_tensors_of_one_node():
    arch = net(a=(CONV, "x"))
    child = swap(arch, "a", Conv(channels=4, norm=False), lambda own: {"weight": own["weight"], "bias": own["beta"]})
    state = trained(arch)
    assert list(child.transfer(state).value) == ["a.weight", "a.bias", "scores.weight", "scores.bias"]
    assert torch.equal(child.transfer(state).value["a.bias"], state.value["a.beta"])
    assert child.new == frozenset()


def test_swap_may_not_change_the_shape():
    with pytest.raises(ArchError, match=r"a: Pool.* would turn shape \(4, 8, 8\) into \(3, 4, 4\)"):
        swap(net(a=(CONV, "x")), "a", Pool())


# drop -----------------------------------------------------------------------------------------------------------------


def test_drop_hands_on_what_the_node_read():
    arch = net(a=(CONV, "x"), b=(CONV, "a"), c=(Add(), "b", "b"))
    child = drop(arch, "b").arch
    assert child["c"].inputs == ("a", "a")
    assert "b" not in child


def test_drop_takes_what_nothing_else_reads():
    arch = net(a=(CONV, "x"), b=(CONV, "a"), c=(CONV, "b"), d=(Add(), "a", "c"))
    assert [node.name for node in drop(arch, "d", 1).arch.nodes] == ["x", "a", "pool", "scores"]


def test_an_add_left_with_one_input_becomes_its_activation():
    arch = net(a=(CONV, "x"), b=(CONV, "a"), c=(Add("silu"), "a", "b"))
    assert drop(arch, "c", 1).arch["c"] == Node("c", Act("silu"), ("a",))
    three = net(a=(CONV, "x"), b=(CONV, "a"), c=(Add("silu"), "a", "b", "a"))
    assert drop(three, "c", 1).arch["c"] == Node("c", Add("silu"), ("a", "a"))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_readers_of_a_concat_forget_the_columns_of_one_edge(position):
    arch = net(
        a=(CONV, "x"), b=(Conv(channels=2), "x"), c=(Concat(), "a", "b", "a"),
        d=(DepthwiseConv(), "c"), e=(Concat(), "b", "d"), f=(Conv(kernel=1, channels=3), "e"),
    )  # fmt: skip
    spans = [range(2, 6), range(6, 8), range(8, 12)]  # within e, which begins with b
    kept = [i for i in range(12) if i not in spans[position]]
    state = trained(arch)
    value = drop(arch, "c", position).transfer(state).value
    assert torch.equal(value["f.weight"], state.value["f.weight"][:, kept])
    assert torch.equal(value["d.weight"], state.value["d.weight"][[i - 2 for i in kept[2:]]])


def test_a_concat_left_with_one_input_vanishes():
    arch = net(a=(CONV, "x"), b=(Conv(channels=2), "a"), c=(Concat(), "a", "b"))
    child = drop(arch, "c", 0)
    assert [node.name for node in child.arch.nodes] == ["x", "a", "b", "pool", "scores"]
    assert child.transfer(trained(arch)).value["scores.weight"].shape == (10, 2)


def test_a_drop_that_leaves_no_network_is_refused():
    arch = net(
        a=(CONV, "x"), b=(Conv(channels=4), "x"), c=(Concat(), "a", "b"), d=(Conv(channels=8), "x"), e=(Add(), "c", "d")
    )
    with pytest.raises(ArchError, match="an Add ties the channels of the Concat c"):
        drop(arch, "c", 0)


@pytest.mark.parametrize(
    ("name", "position", "why"),
    [
        ("c", None, "c has 2 inputs; without a position only a node that has one can be dropped"),
        ("x", None, "x has 0 inputs; without a position only a node that has one can be dropped"),
        ("c", 2, r"c is no Add or Concat with an input 2; its inputs are \['a', 'b'\]"),
        ("c", -1, "c is no Add or Concat with an input -1"),
        ("a", 0, r"a is no Add or Concat with an input 0; its inputs are \['x'\]"),
    ],
)
def test_a_drop_that_means_nothing_is_refused(name, position, why):
    with pytest.raises(ArchError, match=why):
        drop(net(a=(CONV, "x"), b=(CONV, "a"), c=(Add(), "a", "b")), name, position)


# Rewrites -------------------------------------------------------------------------------------------------------------


@given(arch=archs(), seed=st.integers(0, 99))
def test_identity_and_canonical_keep_the_function(arch, seed):
    again, _ = shuffled(arch, seed)
    assert_keeps_the_function(arch, identity(arch))
    assert_keeps_the_function(again, canonical(again))
    assert identity(arch).new == canonical(again).new == frozenset()


def test_a_rewrite_after_another_knows_what_lives_on():
    arch = net(a=(CONV, "x"), b=(CONV, "a"))
    both = splice(arch, [Node("new", CONV, ("b",))], {("pool", 0): "new"}).then(lambda child: drop(child, "b"))
    assert both.names == {name: name for name in ("x", "a", "pool", "scores")}
    assert both.new == {"new"}
    assert list(both.then(canonical).names.values()) == ["n0", "n1", "n3", "n4"]


def test_a_transfer_without_momentum_of_some_tensor_starts_it_at_zero():
    arch = net(a=(CONV, "x"), b=(CONV, "a"))
    value = trained(arch).value
    state = State(value, momentum={"a.weight": torch.ones_like(value["a.weight"])})
    momentum = drop(arch, "b").transfer(state).momentum
    assert momentum["a.weight"] is state.momentum["a.weight"]
    assert momentum["scores.bias"].abs().max() == 0


def test_free_names_are_free_and_readers_are_edges():
    arch = net(n1=(CONV, "x"), b=(Add(), "n1", "n1"))
    assert free_names(arch, 2) == ["n0", "n2"]
    assert readers(arch, "n1") == [("b", 0), ("b", 1)]


@given(data=st.data())
def test_dropping_any_edge_keeps_the_shapes_of_all_tensors(data):
    arch = data.draw(archs())
    edges = [
        (node.name, i) for node in arch.nodes if isinstance(node.op, Add | Concat) for i in range(len(node.inputs))
    ]
    assume(edges)
    name, position = data.draw(st.sampled_from(edges))
    try:
        child = drop(arch, name, position)
    except ArchError:  # an Add further down ties what the Concat strung together
        assert isinstance(arch[name].op, Concat)
        return
    value = child.transfer(trained(arch)).value
    assert {key: tuple(tensor.shape) for key, tensor in value.items()} == {
        key: param.shape for key, param in child.arch.params.items()
    }


def test_a_concat_that_an_add_ties_on_both_sides_alike_is_left_as_it_is():
    """Both summands would lose as many channels, but not the same ones."""
    a, b, e = (Node(name, Conv(channels=size), ("x",)) for name, size in (("a", 4), ("b", 2), ("e", 3)))
    c, image = Node("c", Concat(), ("a", "b")), Node("x", Input(3, 8, 8), ())
    head = [Node("g", Add(), ("l", "r")), Node("p", GlobalPool(), ("g",)), Node("y", Linear(10), ("p",))]
    sides = [[Node("l", Concat(), (name, "e")), Node("r", Concat(), ("e", name))] for name in ("c", "a")]
    with pytest.raises(ArchError, match="an Add ties the channels of the Concat c"):
        drop(Arch((image, a, b, e, c, *sides[0], *head)), "c", 1)
    with pytest.raises(ArchError, match="an Add ties the channels of the new Concat c"):
        splice(Arch((image, a, e, *sides[1], *head)), [b, c], {("l", 0): "c", ("r", 1): "c"})


def test_random_rows_are_drawn_in_float64_so_that_any_type_gets_the_same():
    arch = chain(Input(3, 8, 8), CONV, GlobalPool(), Linear(10))
    child = remap(arch, segment_at(arch, "n1", 0), [0, 1, 2, 3, -1])
    single, double = (
        child.transfer(trained(arch, dtype=dtype)).value["n1.weight"][4] for dtype in (torch.float32, torch.float64)
    )
    assert np.array_equal(single.numpy(), double.float().numpy())
