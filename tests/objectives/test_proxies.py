"""Proxies, held against their papers' formulas computed in another way, on networks small enough to do so."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from objectives import cost
from objectives.probe import Probe
from objectives.proxies import PROXIES, log_ranks, scores
from spaces.arch import Arch, Node
from spaces.network import Network
from spaces.ops import Add, Conv, DepthwiseConv, GlobalPool, Input, Linear, Normalise, Pool, Zero
from spaces.state import initial_state

CLASSES = 3


def net(*layers, image=(2, 6, 6)):
    """A chain of (name, op, *inputs) behind the image `x`, then a head."""
    nodes = [Node("x", Input(*image)), *(Node(name, op, tuple(inputs)) for name, op, *inputs in layers)]
    return Arch((*nodes, Node("pool", GlobalPool(), (nodes[-1].name,)), Node("scores", Linear(CLASSES), ("pool",))))


CHAIN = net(("norm", Normalise(), "x"), ("a", Conv(3, channels=4), "norm"), ("b", Conv(3, channels=5, stride=2), "a"))
RESIDUAL = net(
    ("a", Conv(3, channels=4), "x"),
    ("b", DepthwiseConv(3), "a"),
    ("c", Conv(1, channels=4, act=None), "b"),
    ("sum", Add(act="relu"), "a", "c"),
    ("small", Pool("max", 2, 2), "sum"),
    ("d", Conv(3, channels=6), "small"),
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 2, 6, 6, generator=generator), torch.arange(8) % CLASSES


def probe(arch, batch, seed=0):
    return Probe(arch, initial_state(arch, seed).value, *batch)


def tensors(arch):
    return initial_state(arch).value


def loss_of(network, batch):
    images, labels = batch
    return F.cross_entropy(network(images), labels)


@pytest.mark.parametrize("arch", [CHAIN, RESIDUAL], ids=["chain", "residual"])
def test_every_proxy_has_a_score_that_does_not_hang_on_what_was_asked_before(arch, batch):
    together = scores(probe(arch, batch), list(PROXIES))
    alone = {name: scores(probe(arch, batch), [name])[name] for name in PROXIES}
    assert all(math.isfinite(score) for score in together.values())
    assert together == pytest.approx(alone)


def test_nothing_is_changed_by_being_scored(batch):
    tensors = initial_state(CHAIN).value
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    images = batch[0].clone()
    scores(Probe(CHAIN, tensors, *batch), list(PROXIES))
    assert all(torch.equal(tensors[key], before[key]) for key in before)
    assert torch.equal(batch[0], images)
    assert not batch[0].requires_grad


def test_synflow_of_a_chain_is_the_number_of_layers_times_the_flow(batch):
    """The flow is linear in each layer's weights, so the weights of each carry all of it."""
    generator = torch.Generator().manual_seed(0)

    def flow():
        drawn = {
            key: torch.rand(tensor.shape, generator=generator, dtype=torch.float64) / math.sqrt(tensor[0].numel())
            for key, tensor in tensors(CHAIN).items()
            if key.endswith("weight")
        }
        flow = F.conv2d(torch.ones(1, 2, 6, 6, dtype=torch.float64), drawn["a.weight"], padding=1)
        flow = F.conv2d(flow, drawn["b.weight"], stride=2, padding=1).mean((2, 3))
        return float((flow @ drawn["scores.weight"].T).sum())

    mean = np.mean([flow() for _ in range(2000)])
    assert PROXIES["synflow"](probe(CHAIN, batch)) == pytest.approx(math.log(3 * mean), abs=0.02)


def test_synflow_of_a_deep_network_is_beyond_float32_yet_finite(batch):
    layers = [("c0", Conv(3, channels=64), "x"), *((f"c{i}", Conv(3, channels=64), f"c{i - 1}") for i in range(1, 60))]
    assert PROXIES["synflow"](probe(net(*layers), batch)) > math.log(torch.finfo(torch.float32).max)


def test_jacov_is_the_divergence_of_the_jacobians_correlation(batch):
    network = Network(CHAIN, tensors(CHAIN)).train()
    images = batch[0].clone().requires_grad_()
    network(images).backward(torch.ones(8, CLASSES))
    correlation = np.corrcoef(images.grad.flatten(1).numpy().astype(np.float64))
    eigenvalues, _ = np.linalg.eig(correlation)
    expected = -np.sum(np.log(eigenvalues.real + 1e-5) + 1 / (eigenvalues.real + 1e-5))
    assert PROXIES["jacov"](probe(CHAIN, batch)) == pytest.approx(expected, rel=1e-3)


def test_epe_nas_looks_at_each_class_alone(batch):
    one = probe(CHAIN, batch)
    expected = 0.0
    for label in range(CLASSES):
        correlation = np.corrcoef(one.jacobian[batch[1] == label].numpy())
        expected += abs(np.log(np.abs(correlation) + 1e-5).sum())
    assert PROXIES["epe_nas"](one) == pytest.approx(expected)


def test_naswot_is_the_log_determinant_of_hamming_similarities(batch):
    network = Network(CHAIN, tensors(CHAIN)).train()
    seen = []
    for name in "ab":
        network._modules[name].register_forward_hook(lambda *call: seen.append(call[-1] > 0))
    network(batch[0])
    codes = torch.cat([code.flatten(1) for code in seen], 1).numpy()
    same = np.array([[np.sum(one == other) for other in codes] for one in codes])
    assert PROXIES["naswot"](probe(CHAIN, batch)) == pytest.approx(np.linalg.slogdet(same)[1])


def test_an_activation_counts_for_each_layer_that_reads_it(batch):
    """The same network, its second convolutions behind one ReLU that they share, or each behind its own."""
    plain = Conv(3, channels=4, act=None)
    shared = net(("a", Conv(3, channels=4), "x"), ("b", plain, "a"), ("c", plain, "a"), ("sum", Add(), "b", "c"))
    own = net(
        ("a", Conv(3, channels=4), "x"),
        ("e", Conv(3, channels=4), "x"),
        ("b", plain, "a"),
        ("c", plain, "e"),
        ("sum", Add(), "b", "c"),
    )
    state = dict(tensors(own))
    state |= {f"e.{short}": state[f"a.{short}"] for short in ("weight", "gamma", "beta", "mean", "var")}
    given = {key: state[key] for key in shared.params}
    expected = PROXIES["naswot"](Probe(own, state, *batch))
    assert PROXIES["naswot"](Probe(shared, given, *batch)) == pytest.approx(expected)


def weighted(network):
    return [weight for name, weight in network.named_parameters() if name.endswith("weight")]


def test_snip_and_grad_norm_are_of_the_gradients_of_the_weights(batch):
    network = Network(RESIDUAL, tensors(RESIDUAL)).train()
    loss_of(network, batch).backward()
    found = weighted(network)
    assert len(found) == 5
    one = probe(RESIDUAL, batch)
    assert PROXIES["snip"](one) == pytest.approx(sum(float((w.detach() * w.grad).abs().sum()) for w in found), rel=1e-4)
    assert PROXIES["grad_norm"](one) == pytest.approx(sum(float(w.grad.norm()) for w in found), rel=1e-4)
    assert PROXIES["l2_norm"](one) == pytest.approx(sum(float(w.detach().norm()) for w in found), rel=1e-4)
    assert PROXIES["depth"](one) == 5


def test_fisher_is_of_what_activations_hand_on(batch):
    network = Network(CHAIN, tensors(CHAIN)).train()
    outputs = []
    for name in "ab":
        network._modules[name].register_forward_hook(lambda *call: outputs.append(call[-1]))
    gradients = torch.autograd.grad(loss_of(network, batch), outputs)
    expected = 0.0
    for output, gradient in zip(outputs, gradients, strict=True):
        for channel in range(output.shape[1]):
            share = (output.detach()[:, channel] * gradient[:, channel]).sum((1, 2))
            expected += float(share.square().mean()) / 2
    assert PROXIES["fisher"](probe(CHAIN, batch)) == pytest.approx(expected, rel=1e-4)


def test_grasp_is_the_change_of_the_gradients_norm_along_the_weights(batch):
    """-w.Hg is half of minus the derivative of |g|^2 by the scale of all weights: by finite differences."""
    arch = CHAIN

    def norm(scale):
        network = Network(arch, tensors(arch)).double().train()
        found = weighted(network)
        with torch.no_grad():
            for weight in found:
                weight.mul_(scale)
        images, labels = batch
        loss = F.cross_entropy(network(images.double()), labels)
        return sum(float(g.square().sum()) for g in torch.autograd.grad(loss, found))

    step = 1e-4
    expected = -(norm(1 + step) - norm(1 - step)) / (2 * step) / 2
    assert PROXIES["grasp"](probe(arch, batch)) == pytest.approx(expected, rel=1e-3)


def test_zico_is_mean_over_spread_of_the_gradients_of_the_halves(batch):
    images, labels = batch
    halves = []
    for part in (slice(0, 4), slice(4, 8)):
        network = Network(CHAIN, tensors(CHAIN)).train()
        loss_of(network, (images[part], labels[part])).backward()
        halves.append([weight.grad.double().numpy() for weight in weighted(network)])
    expected = 0.0
    for one, other in zip(*halves, strict=True):
        mean, spread = (np.abs(one) + np.abs(other)) / 2, np.abs(one - other) / 2
        expected += math.log((mean[spread > 0] / spread[spread > 0]).sum())
    assert PROXIES["zico"](probe(CHAIN, batch)) == pytest.approx(expected, rel=1e-3)


def test_zen_is_the_change_by_a_perturbation_with_what_norms_take_away(batch):
    """One convolution by hand: its own random filters and images, in the order in which they are drawn."""
    arch = net(("a", Conv(3, channels=4, act=None), "x"))
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(2):
        weights = {
            key: torch.randn(tensor.shape, generator=generator)
            for key, tensor in tensors(arch).items()
            if key.endswith("weight")
        }
        images, noise = torch.randn(2, 8, 2, 6, 6, generator=generator)
        plain, moved = (F.conv2d(seen, weights["a.weight"], padding=1) for seen in (images, images + 0.01 * noise))
        maps, others = (F.batch_norm(one, None, None, training=True) for one in (plain, moved))
        change = (maps - others).abs().sum((1, 2, 3)).mean()
        found.append(math.log(change) + math.log(math.sqrt(plain.var((0, 2, 3)).mean())))
    assert PROXIES["zen"](probe(arch, batch)) == pytest.approx(np.mean(found), abs=0.01)
    assert PROXIES["zen"](probe(arch, batch)) == PROXIES["zen"](probe(arch, batch, seed=7))  # it draws its own weights


def test_costs_are_those_of_the_objectives(batch):
    found = scores(probe(RESIDUAL, batch), ["params", "macs"])
    assert found == {"params": cost.params(RESIDUAL), "macs": cost.macs(RESIDUAL)}


def test_a_network_that_is_blind_is_worse_than_all_others(batch):
    blind = net(("a", Conv(3, channels=4), "x"), ("nothing", Zero(), "a"))
    found = scores(probe(blind, batch), ["synflow", "jacov", "naswot", "snip"])
    seeing = scores(probe(CHAIN, batch), ["synflow", "jacov", "naswot", "snip"])
    assert found["synflow"] == -math.inf
    assert found["snip"] < seeing["snip"]
    assert found["jacov"] < seeing["jacov"]


def test_an_unknown_proxy_is_named(batch):
    with pytest.raises(KeyError, match="synflw"):
        scores(probe(CHAIN, batch), ["synflw"])


def test_ranks_know_no_scale_and_share_ties():
    columns = {"one": [1.0, 2.0, 3.0], "other": [10.0, -math.inf, 1e6]}
    expected = [math.log(1 / 3) + math.log(2 / 3), math.log(2 / 3) + math.log(1 / 3), 0.0]
    assert log_ranks(columns) == pytest.approx(expected)
    assert log_ranks({"tied": [5.0, 5.0]}) == pytest.approx([math.log(0.75)] * 2)


def test_one_pass_is_shared(batch, monkeypatch):
    runs = []
    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, images: runs.append(1) or forward(self, images))
    scores(probe(CHAIN, batch), ["jacov", "epe_nas", "naswot", "snip", "grad_norm", "fisher", "l2_norm", "depth"])
    assert len(runs) == 1


def test_a_network_of_any_module_is_watched_but_for_a_while(batch):
    one = probe(CHAIN, batch)
    PROXIES["naswot"](one)
    hooks = [module._forward_hooks for module in one.network.modules()]
    assert isinstance(one.network, nn.Module)
    assert not any(hooks)
