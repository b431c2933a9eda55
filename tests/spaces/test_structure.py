"""Features by hand, and what they have to be blind to."""

import math

import pytest
from hypothesis import given

from spaces.ops import Add, Conv, DepthwiseConv, Pool
from spaces.structure import structure
from tests.spaces.nets import archs, net, shuffled


def test_by_hand():
    arch = net(
        a=(Conv(channels=8, kernel=5), "x"),
        b=(Conv(channels=16, stride=2), "a"),
        c=(DepthwiseConv(), "b"),
        d=(Conv(channels=16, kernel=1), "c"),
        e=(Add(), "b", "d"),
        f=(Pool(), "e"),
    )
    found = structure(arch)
    assert {key: found.pop(key) for key in ("conv 5", "conv 3", "conv 1", "depthwise 3", "Add", "Pool")} == {
        "conv 5": 1,
        "conv 3": 1,
        "conv 1": 1,
        "depthwise 3": 1,
        "Add": 1,
        "Pool": 1,
    }
    assert {key: found.pop(key) for key in ("size 0", "size 1", "width 0", "width 1")} == {
        "size 0": 1,
        "size 1": 3,
        "width 0": 3,
        "width 1": 4,
    }
    assert (found.pop("most"), found.pop("fewest"), found.pop("average")) == (4, 2, 3)
    assert found.pop("sees") == pytest.approx(math.log2(5 + 2 + 2 * 2 + 2 * 2))  # taps times steps before them
    assert found.pop("params") == pytest.approx(math.log2(arch.n_params))
    assert found.pop("macs") > 0
    assert found == {}


@given(archs())
def test_names_and_order_do_not_matter(arch):
    assert structure(arch) == pytest.approx(structure(shuffled(arch, 0)[0]))
    assert all(math.isfinite(value) for value in structure(arch).values())
