"""Networks against torch's own layers, the life of their tensors, and calibration."""

import multiprocessing
import weakref
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spaces.arch import Arch, Node, canonicalise, chain
from spaces.morphisms import Deepen
from spaces.network import Network, activate, calibrate
from spaces.ops import (
    EPSILON,
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
)
from spaces.state import State
from tests.spaces.nets import archs, error, moves, net, pictures, scores, trained


def loaded(module, **tensors):
    module = module.double()
    for name, tensor in tensors.items():
        getattr(module, name).data.copy_(tensor)
    return module


def norm(own):
    return loaded(
        nn.BatchNorm2d(len(own["gamma"]), eps=EPSILON),
        weight=own["gamma"], bias=own["beta"], running_mean=own["mean"], running_var=own["var"],
    )  # fmt: skip


def conv(own, stride, groups=1):
    out, _, kernel, _ = own["weight"].shape
    module = nn.Conv2d(4, out, kernel, stride, kernel // 2, groups=groups, bias="bias" in own)
    return loaded(module, **{name: own[name] for name in ("weight", "bias") if name in own})


LAYERS = {
    Conv(5, 2, True, "relu", 6): lambda own: nn.Sequential(conv(own, 2), norm(own), nn.ReLU()),
    Conv(3, 1, True, None, 6): lambda own: nn.Sequential(conv(own, 1), norm(own)),
    Conv(1, 3, False, "silu", 2): lambda own: nn.Sequential(conv(own, 3), nn.SiLU()),
    DepthwiseConv(3, 2, True, "hardswish"): lambda own: nn.Sequential(conv(own, 2, 4), norm(own), nn.Hardswish()),
    DepthwiseConv(5, 1, False, None): lambda own: conv(own, 1, 4),
    Norm(): norm,
    Act("hardswish"): lambda own: nn.Hardswish(),
    Pool("max", 3, 2): lambda own: nn.MaxPool2d(3, 2, 1),
    Pool("avg", 3, 2): lambda own: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    Pool("avg", 5, 1): lambda own: nn.AvgPool2d(5, 1, 2, count_include_pad=False),
    Pool("max", 1, 3): lambda own: nn.MaxPool2d(1, 3),
    GlobalPool(): lambda own: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


@pytest.mark.parametrize("op", LAYERS, ids=str)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)], ids=str)
def test_every_layer_computes_what_torch_does(op, size):
    tail = () if isinstance(op, GlobalPool) else (GlobalPool(),)
    arch = chain(Input(4, *size), op, *tail, Linear(3))
    value = trained(arch).value
    layer = LAYERS[op]({short: value[f"n1.{short}"] for short in op.params([(4, *size)])})
    network, images = Network(arch, value), pictures(arch)
    for mode in (False, True, False):  # in evaluation again, by the statistics that training has moved
        (found,) = network.train(mode).features(images, ["n1"])
        expected = layer.train(mode)(images)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["forward", "arch", "features", "training", "tensors", "keys", "n/1", "a b"])
def test_a_layer_may_be_named_as_something_of_the_module_is(name):
    arch = net(**{name: (Conv(channels=4), "x")})
    plain, renaming = canonicalise(arch)
    state, images = trained(arch), pictures(arch)
    network = Network(arch, state.value)
    assert torch.equal(network(images), Network(plain, state.renamed(renaming).value)(images))
    assert list(network.state_dict()) == list(arch.params)
    assert network.tensors().keys() == arch.params.keys()


def test_layers_of_several_inputs_and_the_normalisation():
    arch = net(
        a=(Normalise(), "x"), b=(Add("silu"), "a", "x", "a"), c=(Concat(), "b", "x"), d=(Norm(), "c"),
    )  # fmt: skip
    value = trained(arch).value
    images = pictures(arch)
    a, b, c = Network(arch, value).features(images, "abc")
    assert torch.allclose(a, (images - value["a.mean"].reshape(3, 1, 1)) / value["a.std"].reshape(3, 1, 1))
    assert torch.allclose(b, nn.functional.silu(2 * a + images))
    assert torch.equal(c, torch.cat([b, images], 1))


def test_no_activation_leaves_its_input():
    x = torch.randn(3)
    assert activate(None, x) is x


# Tensors --------------------------------------------------------------------------------------------------------------


@given(arch=archs())
def test_a_network_has_the_tensors_and_shapes_that_its_architecture_says(arch):
    value = trained(arch).value
    network = Network(arch, value)
    assert set(network.state_dict()) == set(arch.params)
    assert {key for key, _ in network.named_parameters()} == {k for k, p in arch.params.items() if p.trainable}
    names = [node.name for node in arch.nodes]
    for name, output in zip(names, network.features(pictures(arch, 2), names), strict=True):
        assert tuple(output.shape) == (2, *arch.shapes[name])
    assert list(network.tensors()) == list(arch.params)


def test_tensors_are_copied_in_and_out():
    arch = net(a=(Conv(channels=4), "x"))
    value = trained(arch).value
    before = {key: tensor.clone() for key, tensor in value.items()}
    network = Network(arch, value).train()
    taken = network.tensors()
    assert all(torch.equal(taken[key], before[key].float()) for key in before)
    with torch.no_grad():
        network(pictures(arch))  # moves the statistics
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(torch.equal(value[key], before[key]) for key in before)
    assert all(torch.equal(taken[key], before[key].float()) for key in before)
    assert not any(torch.equal(tensor, taken[key]) for key, tensor in network.tensors().items())
    assert not any(tensor.requires_grad for tensor in network.tensors().values())


def test_the_type_of_the_tensors_is_kept_within_and_float32_is_taken_out():
    arch = net(a=(Conv(channels=4), "x"))
    network = Network(arch, trained(arch).value)
    assert network(pictures(arch)).dtype == torch.float64
    assert {tensor.dtype for tensor in network.tensors().values()} == {torch.float32}


def test_no_output_lives_longer_than_it_is_read():
    arch = chain(Input(3, 8, 8), *[Conv(channels=4)] * 4, GlobalPool(), Linear(10))
    network = Network(arch, trained(arch).value).eval()
    outputs, alive = {}, {}

    def watch(name):
        def hook(module, inputs, output):
            alive[name] = {other for other, reference in outputs.items() if reference() is not None}
            outputs[name] = weakref.ref(output)

        return hook

    for name in ("n1", "n2", "n3", "n4"):
        network.get_submodule(name).register_forward_hook(watch(name))
    with torch.no_grad():
        network(pictures(arch))
    assert alive == {"n1": set(), "n2": {"n1"}, "n3": {"n2"}, "n4": {"n3"}}


# calibrate ------------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_calibration_makes_deepen_exact_in_training_mode(data):
    arch = data.draw(archs()).canonical()
    state, images = trained(arch), pictures(arch, 8)
    expected = {mode: scores(arch, state.value, images, mode) for mode in ("eval", "train")}
    value, exact = state.value, arch
    for _ in range(data.draw(st.integers(1, 3))):
        found = moves(exact, Deepen)
        if not found:
            continue
        child = data.draw(st.sampled_from(found)).apply(exact)
        exact, value = child.arch, calibrate(child.arch, child.transfer(State(value)).value, child.new, images)
    for mode in ("eval", "train"):
        assert error(scores(exact, value, images, mode), expected[mode]) <= 1e-11


def test_without_calibration_the_new_norm_would_whiten():
    arch = chain(Input(3, 8, 8), Conv(channels=4), GlobalPool(), Linear(10))
    state, images = trained(arch), pictures(arch)
    child = Deepen("n1").apply(arch)
    moved = child.transfer(state).value
    expected = scores(arch, state.value, images, "train")
    assert error(scores(child.arch, moved, images, "train"), expected) > 0.1
    calibrated = calibrate(child.arch, moved, child.new, images)
    assert error(scores(child.arch, calibrated, images, "train"), expected) <= 1e-12


def test_calibration_changes_the_norms_it_is_told_to_and_nothing_else():
    arch = net(
        a=(Conv(channels=4), "x"), b=(DepthwiseConv(), "a"), c=(Conv(norm=False, channels=4), "b"), d=(Act(), "c")
    )
    value = trained(arch).value
    before = {key: tensor.clone() for key, tensor in value.items()}
    calibrated = calibrate(arch, value, ["b", "c", "d"], pictures(arch))
    assert all(torch.equal(value[key], before[key]) for key in before)
    assert {key for key in value if calibrated[key] is not value[key]} == {"b.gamma", "b.beta", "b.mean", "b.var"}
    places = [tensor.data_ptr() for tensor in calibrated.values()]
    assert len(set(places)) == len(places)  # shared ones could not be told apart, nor written to a file


def gradients(threads):
    """By float32, channels-last, and by float64: narrow maps and strided 1x1 convolutions go ways of their own."""
    arch = Arch(
        (
            Node("x", Input(3, 32, 32)),
            Node("a", Conv(channels=8, norm=False), ("x",)),  # nothing brings its output into another order
            Node("b", DepthwiseConv(stride=2), ("a",)),
            Node("c", Conv(kernel=1, channels=16, stride=2), ("a",)),
            Node("d", Conv(kernel=1, channels=16), ("b",)),
            Node("e", Add(), ("c", "d")),
            Node("pool", GlobalPool(), ("e",)),
            Node("scores", Linear(10), ("pool",)),
        )
    )
    tensors = trained(arch, dtype=torch.float32).value
    images = pictures(arch, 127, dtype=torch.float32)
    torch.set_num_threads(threads)
    exact = Network(arch, {key: tensor.double() for key, tensor in tensors.items()}).train()
    network = Network(arch, tensors).train()
    exact(images.double()).square().mean().backward()
    for _ in range(20):  # what writes outside its memory does not do harm each time
        network.zero_grad()
        network(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    return [{name: p.grad.numpy() for name, p in one.named_parameters()} for one in (network, exact)]


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_those_of_float64_whatever_the_order_of_memory_and_the_threads(threads):
    # In a process of its own, as memory written where it should not be ends the process.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found, expected = pool.submit(gradients, threads).result()
    for name, gradient in found.items():  # a ReLU near zero may open in one and not in the other
        assert error(torch.from_numpy(gradient).double(), torch.from_numpy(expected[name])) < 0.01, name
