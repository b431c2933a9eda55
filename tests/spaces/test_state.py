"""Slots of tensors, their names, and how they start."""

import math

import pytest
import torch

from spaces.arch import chain
from spaces.errors import ArchError
from spaces.ops import Conv, DepthwiseConv, GlobalPool, Input, Linear, Normalise
from spaces.state import State, fresh_tensor, initial_state
from tests.spaces.nets import trained

ARCH = chain(Input(3, 8, 8), Normalise(), Conv(channels=64), DepthwiseConv(), GlobalPool(), Linear(10))


def test_weights_start_as_he_and_norms_as_the_identity():
    value = initial_state(ARCH, seed=1).value
    assert list(value) == list(ARCH.params)
    assert {tensor.dtype for tensor in value.values()} == {torch.float32}
    for key, fan_in in (("n2.weight", 27), ("n3.weight", 9), ("n5.weight", 64)):
        assert value[key].std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1)
        assert value[key].mean().item() == pytest.approx(0, abs=0.1)
    for short, start in (("gamma", 1), ("beta", 0), ("mean", 0), ("var", 1)):
        assert value[f"n2.{short}"].eq(start).all()
    assert value["n5.bias"].eq(0).all()


def test_the_seed_decides():
    one, same, other = (initial_state(ARCH, seed).value["n2.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_mean_and_standard_deviation_of_the_images_are_kept_in_the_network():
    value = initial_state(ARCH, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4]).value
    assert value["n1.mean"].tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert value["n1.std"].tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_a_mean_for_another_number_of_channels_is_refused():
    with pytest.raises(ArchError, match="mean has 1 values, the images have 3 channels"):
        initial_state(ARCH, mean=[0.5])
    with pytest.raises(ArchError, match="std has 4 values, the images have 3 channels"):
        initial_state(ARCH, std=[1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("std", [0.0, -0.1, math.nan, math.inf])
def test_images_cannot_be_divided_by_any_number(std):
    with pytest.raises(ArchError, match=r"std is \[0.2, .*, 0.2\], its values must be above 0.0 and finite"):
        initial_state(ARCH, std=[0.2, std, 0.2])
    with pytest.raises(ArchError, match=r"mean is \[0.2, nan, 0.2\], its values must be above -inf and finite"):
        initial_state(ARCH, mean=[0.2, math.nan, 0.2])


def test_some_rows_of_a_tensor_start_with_the_spread_of_the_whole():
    param = ARCH.params["n2.weight"]
    rows = fresh_tensor(param, torch.Generator().manual_seed(0), (500, 3, 3, 3))
    assert rows.dtype == torch.float64
    assert rows.std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.05)


def test_the_average_is_best_where_there_is_one():
    state = trained(ARCH)
    assert state.best is state.ema
    assert State(state.value).best is state.value


def test_a_state_goes_through_one_flat_mapping():
    state = trained(ARCH)
    flat = state.flat()
    assert set(flat) == {f"{slot}/{key}" for slot, tensors in state.slots().items() for key in tensors}
    assert {"value/n2.weight", "ema/n2.mean", "momentum/n2.weight"} <= set(flat)
    assert State.from_flat(flat) == state
    assert State.from_flat(State({}).flat()) == State({})


def test_renaming_changes_the_node_and_nothing_else():
    state = trained(ARCH)
    renamed = state.renamed({node.name: f"y{node.name}" for node in ARCH.nodes})
    for slot, tensors in state.slots().items():
        assert {f"y{key}": tensor for key, tensor in tensors.items()} == renamed.slots()[slot]
