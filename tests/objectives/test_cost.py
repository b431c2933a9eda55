"""Structural costs against the module, against fvcore, and against a count by hand."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from objectives.cost import MACS, PARAMS, PEAK_MEMORY, macs, params, peak_memory
from spaces.arch import chain
from spaces.network import Network
from spaces.ops import Add, Concat, Conv, DepthwiseConv, GlobalPool, Input, Linear
from spaces.plain import PlainSpace
from spaces.state import initial_state
from tests.spaces.nets import archs, net


@pytest.fixture(scope="module")
def count():
    """Counts multiply-accumulates by kind of operation with fvcore."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".torch\.jit\.script. is deprecated", module=r"torch\.jit\._script")
        from fvcore.nn import FlopCountAnalysis

    def counted(module, images) -> Counter[str]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".torch\.jit\.trace. is deprecated", module=r"torch\.jit\._trace")
            analysis = (
                FlopCountAnalysis(module, images).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            )
            return analysis.by_operator()

    return counted


def assert_counts(arch, count):
    network = Network(arch, initial_state(arch).value).eval()
    assert params(arch) == sum(parameter.numel() for parameter in network.parameters())
    found = count(network, torch.zeros(1, *arch.shapes[arch.nodes[0].name]))
    assert macs(arch) == found["conv"] + found["linear"]


@settings(max_examples=150)
@given(arch=archs())
def test_params_and_macs_of_any_network(count, arch):
    assert_counts(arch, count)


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 28, 28), (3, 65, 47)], ids=str)
def test_params_and_macs_of_the_plain_space(count, size):
    space = PlainSpace(size, 10)
    for seed in range(17):
        assert_counts(space.sample(np.random.default_rng(seed)), count)


# Peak memory ----------------------------------------------------------------------------------------------------------


def test_memory_of_a_chain_is_its_widest_pair():
    arch = chain(Input(3, 8, 8), Conv(channels=8), Conv(channels=2, stride=2), GlobalPool(), Linear(10))
    assert peak_memory(arch) == 4 * (8 * 64 + 3 * 64)
    wide = chain(Input(3, 8, 8), Conv(channels=8), DepthwiseConv(), GlobalPool(), Linear(10))
    assert peak_memory(wide) == 4 * (8 * 64 + 8 * 64)


def test_memory_of_a_skip_counts_while_it_waits():
    conv = Conv(channels=3)
    arch = net(a=(conv, "x"), b=(conv, "a"), c=(conv, "b"), d=(Add(), "a", "c"))
    assert peak_memory(arch) == 4 * 3 * 64 * 3  # a waits while c is made from b, and again while d is made


def test_an_output_read_twice_by_one_node_is_freed_once():
    arch = net(a=(Conv(channels=4), "x"), b=(Concat(), "a", "a"), c=(Conv(1, channels=1), "b"))
    assert peak_memory(arch) == 4 * 64 * (4 + 8)


@settings(max_examples=100)
@given(arch=archs())
def test_memory_is_what_has_yet_to_be_read_at_the_worst_moment(arch):
    place = {node.name: i for i, node in enumerate(arch.nodes)}
    needed_until = {
        name: max((place[r] for r in readers), default=place[name]) for name, readers in arch.consumers.items()
    }
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in arch.shapes.items()}
    alive = [sum(sizes[n] for n in place if place[n] <= now <= needed_until[n]) for now in range(len(place))]
    assert peak_memory(arch) == max(alive)


def test_the_objectives_are_exact_and_named():
    arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    for objective, value in ((PARAMS, 166), (MACS, 64 * 108 + 40), (PEAK_MEMORY, 4 * 64 * 7)):
        (estimate,) = objective.estimate([arch])
        assert (estimate.value, estimate.low, estimate.high) == (value, value, value)
    assert [objective.name for objective in (PARAMS, MACS, PEAK_MEMORY)] == ["params", "macs", "peak_memory"]
