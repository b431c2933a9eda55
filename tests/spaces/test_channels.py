"""Segments: what is tied, what is strung together, and how finely it must be cut."""

import pytest
from hypothesis import given, settings

from spaces.arch import chain
from spaces.channels import axes, segment_at
from spaces.errors import ArchError
from spaces.ops import Add, Concat, Conv, DepthwiseConv, GlobalPool, Input, Linear, Normalise, Pool, Role
from tests.spaces.nets import archs, net


def conv(channels):
    return Conv(channels=channels)


def layout(arch, *names):
    """Per node, its segments as letters in the order in which these nodes bring them up, with their sizes."""
    letters = {}
    found = axes(arch)
    return [[(letters.setdefault(part, chr(97 + len(letters))), part.size) for part in found[name]] for name in names]


def test_a_convolution_makes_a_segment_and_what_keeps_channels_hands_it_on():
    arch = chain(Input(3, 8, 8), Normalise(), conv(4), DepthwiseConv(), Pool(), conv(6), GlobalPool(), Linear(10))
    assert layout(arch, "n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7") == [
        [("a", 3)], [("a", 3)], [("b", 4)], [("b", 4)], [("b", 4)], [("c", 6)], [("c", 6)], [("d", 10)],
    ]  # fmt: skip


def test_an_add_ties():
    arch = net(a=(conv(4), "x"), b=(conv(4), "a"), c=(conv(4), "b"), d=(Add(), "a", "b", "c"))
    assert layout(arch, "a", "b", "c", "d") == [[("a", 4)]] * 4


def test_a_concat_strings_together_also_twice():
    arch = net(a=(conv(4), "x"), b=(conv(2), "x"), c=(Concat(), "a", "b", "a"))
    assert layout(arch, "c") == [[("a", 4), ("b", 2), ("a", 4)]]


def test_an_add_of_a_concat_cuts_the_other_side():
    arch = net(a=(conv(4), "x"), b=(conv(2), "x"), c=(Concat(), "a", "b"), d=(conv(6), "c"), e=(Add(), "d", "c"))
    assert layout(arch, "a", "b", "c", "d", "e") == [
        [("a", 4)], [("b", 2)], [("a", 4), ("b", 2)], [("a", 4), ("b", 2)], [("a", 4), ("b", 2)],
    ]  # fmt: skip


def test_an_add_of_two_concats_cuts_both_into_common_pieces():
    arch = net(
        a=(conv(4), "x"), b=(conv(2), "x"), c=(conv(3), "x"), d=(conv(3), "x"),
        e=(Concat(), "a", "b"), f=(Concat(), "c", "d"), g=(Add(), "e", "f"),
    )  # fmt: skip
    assert layout(arch, "g", "a", "b", "c", "d") == [
        [("a", 3), ("b", 1), ("c", 2)], [("a", 3), ("b", 1)], [("c", 2)], [("a", 3)], [("b", 1), ("c", 2)],
    ]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "piece"), [(3, 5, 1), (4, 6, 2), (4, 4, 4), (1, 7, 1)])
def test_two_orders_of_the_same_parts_tie_them_down_to_their_common_divisor(one, other, piece):
    arch = net(
        a=(conv(one), "x"), b=(conv(other), "x"), c=(Concat(), "a", "b"), d=(Concat(), "b", "a"), e=(Add(), "c", "d")
    )
    assert layout(arch, "e") == [[("a", piece)] * ((one + other) // piece)]


def test_channels_of_the_image_and_of_the_class_scores_are_frozen():
    arch = net(a=(conv(3), "x"), b=(Add(), "a", "x"), c=(conv(4), "b"))
    found = axes(arch)
    frozen = {name for name, axis in found.items() if all(part.frozen for part in axis)}
    assert frozen == {"x", "a", "b", "scores"}
    assert not any(part.frozen for name in found.keys() - frozen for part in found[name])


def test_a_part_of_an_axis_may_be_frozen():
    arch = net(a=(conv(4), "x"), b=(Concat(), "x", "a"), c=(conv(7), "b"), d=(Add(), "b", "c"))
    assert [part.frozen for part in axes(arch)["c"]] == [True, False]


def test_a_cut_edge_is_a_segment_of_its_own():
    arch = net(a=(conv(4), "x"), b=(conv(2), "x"), c=(Concat(), "a", "b", "a"))
    first, middle, last = axes(arch, cut=("c", 2))["c"]
    assert (first, middle) == (axes(arch, cut=("c", 2))["a"][0], axes(arch, cut=("c", 2))["b"][0])
    assert last not in (first, middle)
    assert last.size == 4


def test_a_segment_that_is_not_there_is_refused_by_name():
    arch = net(a=(conv(4), "x"))
    assert segment_at(arch, "a", 0).size == 4
    with pytest.raises(ArchError, match="there is no node 'z'; nodes are x, a, pool, scores"):
        segment_at(arch, "z", 0)
    with pytest.raises(ArchError, match="a has 1 segments, there is no segment -1"):
        segment_at(arch, "a", -1)


@settings(max_examples=100)
@given(arch=archs())
def test_segments_fill_every_axis_and_follow_the_roles(arch):
    found = axes(arch)
    assert [part.index for part in dict.fromkeys(part for axis in found.values() for part in axis)] == list(
        range(len({part for axis in found.values() for part in axis}))
    )
    for node in arch.nodes:
        inputs = [found[source] for source in node.inputs]
        assert sum(part.size for part in found[node.name]) == arch.shapes[node.name][0]
        match node.op.role:
            case Role.KEEPS:
                assert found[node.name] == inputs[0]
            case Role.TIES:
                assert all(axis == found[node.name] for axis in inputs)
            case Role.STACKS:
                assert found[node.name] == tuple(part for axis in inputs for part in axis)
