"""Importance of channels: what it must say whatever the network."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spaces.arch import chain
from spaces.channels import axes, segment_at
from spaces.importance import importance, least_important
from spaces.morphisms import Widen
from spaces.ops import Add, Concat, Conv, GlobalPool, Input, Linear
from spaces.rewrite import remap
from tests.spaces.nets import archs, moves, net, trained

CHAIN = chain(Input(3, 8, 8), Conv(channels=6), Conv(channels=4), GlobalPool(), Linear(10))


def free_segments(arch):
    return sorted({part for axis in axes(arch).values() for part in axis if not part.frozen}, key=lambda s: s.index)


@given(data=st.data())
def test_it_is_a_share_of_every_reader(data):
    arch = data.draw(archs())
    for segment in free_segments(arch):
        found = importance(arch, segment, trained(arch).value)
        readers = [
            node
            for node in arch.nodes
            if node.inputs
            and node.op.params(arch.input_shapes(node.name))
            and isinstance(node.op, Conv | Linear)
            and segment in axes(arch)[node.inputs[0]]
        ]
        assert found.shape == (segment.size,)
        assert found.dtype == torch.float64
        assert found.min() >= 0
        assert found.sum() <= len(readers) + 1e-9


@given(data=st.data())
def test_it_follows_a_permutation(data):
    arch = data.draw(archs())
    segment = data.draw(st.sampled_from(free_segments(arch)))
    order = data.draw(st.permutations(range(segment.size)))
    child = remap(arch, segment, order)
    value = trained(arch).value
    found = importance(child.arch, segment, child.transfer(trained(arch)).value)
    assert torch.allclose(found, importance(arch, segment, value)[order], rtol=1e-9, atol=1e-15)


@given(data=st.data())
def test_what_is_read_with_zeros_has_none(data):
    arch = data.draw(archs()).canonical()
    found = [move for move in moves(arch, Widen) if not move.copies]
    assume(found)
    move = data.draw(st.sampled_from(found))
    child = move.apply(arch)
    segment = segment_at(child.arch, child.names[move.node], move.position)
    value = child.transfer(trained(arch)).value
    found = importance(child.arch, segment, value)
    assert found[-move.by :].max() == 0
    assert found[list(least_important(child.arch, segment, move.by, value))].max() == 0  # those, or some that are dead


def test_a_channel_without_spread_has_none():
    value = dict(trained(CHAIN).value)
    value["n1.gamma"] = torch.tensor([1.0, 0.0, 1.0, 1.0, -1.0, 1.0]).double()
    value["n1.beta"] = torch.tensor([0.0, 9.0, 0.0, -40.0, 0.0, 0.0]).double()
    found = importance(CHAIN, segment_at(CHAIN, "n1", 0), value)
    assert found[[1, 3]].max() < 1e-12  # constant, and never above zero
    assert found[[0, 2, 4, 5]].min() > 1e-6
    assert least_important(CHAIN, segment_at(CHAIN, "n1", 0), 2, value) == {1, 3}


@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (0.7, 0.5), (-0.5, -1.5), (3.0, 1.0)])
def test_the_spread_after_a_relu_is_that_of_a_rectified_normal(beta, gamma):
    """Two channels read with equal weights share in proportion to their variances, here drawn."""
    arch = chain(Input(3, 8, 8), Conv(channels=2), Conv(channels=1), GlobalPool(), Linear(10))
    value = dict(trained(arch).value)
    value["n1.gamma"], value["n1.beta"] = torch.tensor([gamma, 1.0]).double(), torch.tensor([beta, 0.0]).double()
    value["n2.weight"] = torch.ones_like(value["n2.weight"])
    normal = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)).double()
    drawn = torch.stack([(beta + gamma * normal).relu().var(), normal.relu().var()])
    found = importance(arch, segment_at(arch, "n1", 0), value)
    assert found.tolist() == pytest.approx((drawn / drawn.sum()).tolist(), rel=5e-3)


def test_every_reader_counts_and_every_place_on_an_axis():
    arch = net(
        a=(Conv(channels=2), "x"), b=(Conv(channels=2), "x"), c=(Concat(), "b", "a", "a"),
        d=(Conv(1, channels=3), "c"), e=(Conv(1, channels=3), "a"), f=(Add(), "d", "e"),
    )  # fmt: skip
    value = dict(trained(arch).value)
    for key in ("a.gamma", "b.gamma"):
        value[key] = torch.ones(2).double()
    for key in ("a.beta", "b.beta"):
        value[key] = torch.zeros(2).double()
    value["d.weight"] = torch.ones(3, 6, 1, 1).double()
    value["e.weight"] = torch.tensor([[1.0, 0.0]] * 3).double().reshape(3, 2, 1, 1)
    found = importance(arch, segment_at(arch, "a", 0), value)
    assert found.tolist() == pytest.approx([2 / 6 + 1, 2 / 6])


def test_ties_go_to_the_first_channel():
    value = {key: torch.ones_like(tensor) for key, tensor in trained(CHAIN).value.items()}
    assert least_important(CHAIN, segment_at(CHAIN, "n1", 0), 2, value) == {0, 1}
