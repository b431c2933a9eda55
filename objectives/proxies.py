"""Zero-cost proxies: how good will a network be? Guessed from one mini-batch, before any training.

A larger score promises a better network; scores of different proxies have nothing in common but their order. Where a
score does not exist, because a network does not react to its input or a number is beyond float64, it is minus infinity.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from objectives import cost
from objectives.probe import Probe, gradients_of, watching, weights_of
from spaces.network import Network
from spaces.ops import EPSILON, GlobalPool
from spaces.state import Tensors

#: Added to eigenvalues and correlations whose logarithm is taken (Mellor et al.).
SMALL = 1e-5

#: Size of the perturbation of `zen`, and how often it is drawn.
PERTURBATION, DRAWS = 1e-2, 2


def synflow(probe: Probe) -> float:
    """Logarithm of the synaptic flow, the sum of weight times gradient (Tanaka et al., NeurIPS 2020).

    Of the network with all weights by their magnitude and without norms, on an image of ones; in float64, since it
    grows exponentially with depth. The flow is linear in each layer's weights, so its expected value over random
    weights is the flow of their expected magnitudes, and that is the score: no luck is in it. Weights are meant as
    PyTorch draws them and as scores were published, uniform up to one over the root of the fan-in; their scale says how
    much a layer more is worth.
    """
    network = Network(probe.arch, _expected(probe.tensors)).to(probe.images.device, torch.float64).eval()
    weights = weights_of(network)
    ones = torch.ones(1, *probe.images.shape[1:], dtype=torch.float64, device=probe.images.device)
    return _log(_saliency(weights, gradients_of(network(ones).sum(), weights)))


def jacov(probe: Probe) -> float:
    """How differently a network reacts to different images: correlation of its Jacobians (Mellor et al., 2020, v1)."""
    correlation = torch.corrcoef(probe.jacobian).nan_to_num()
    eigenvalues = torch.linalg.eigvalsh(correlation) + SMALL
    return -float((eigenvalues.log() + 1 / eigenvalues).sum())


def epe_nas(probe: Probe) -> float:
    """How differently it reacts to images of one class (Lopes, Alirezazadeh, Alexandre, ICANN 2021)."""
    score = 0.0
    for label in set(probe.labels.tolist()):
        own = torch.corrcoef(probe.jacobian[probe.labels == label]).nan_to_num()
        score += float((own.abs() + SMALL).log().sum().abs())
    return score


def naswot(probe: Probe) -> float:
    """How many linear regions part the images: log-determinant of their codes' kernel (Mellor et al., ICML 2021)."""
    return float(torch.linalg.slogdet(probe.agreement).logabsdet)


def snip(probe: Probe) -> float:
    """How much the loss would change without each weight, to first order (Lee, Ajanthan, Torr, ICLR 2019)."""
    return _saliency(probe.weights, probe.gradients)


def grad_norm(probe: Probe) -> float:
    """Norms of the gradients, summed over the layers (Abdelfattah et al., ICLR 2021)."""
    return sum(float(gradient.norm()) for gradient in probe.gradients)


def fisher(probe: Probe) -> float:
    """Fisher information of the activations' channels (Turner et al., ICLR 2020)."""
    total = 0.0
    for output, gradient in probe.active:
        total += float((output.detach() * gradient).flatten(2).sum(2).square().mean(0).sum()) / 2
    return total


def grasp(probe: Probe) -> float:
    """What pruning keeps of the gradient flow: minus weight times Hessian times gradient (Wang et al., ICLR 2020)."""
    loss = F.cross_entropy(probe.network(probe.images.detach()), probe.labels)
    gradients = gradients_of(loss, probe.weights, differentiable=True)
    along = torch.stack([(gradient * gradient.detach()).sum() for gradient in gradients]).sum()
    products = gradients_of(along, probe.weights)
    return -sum(
        float((weight.detach() * product).sum()) for weight, product in zip(probe.weights, products, strict=True)
    )


def zico(probe: Probe) -> float:
    """Mean over spread of each weight's gradient on the halves of the mini-batch (Li et al., ICLR 2023)."""
    score = 0.0
    for halves in zip(*probe.parts(2), strict=True):
        gradients = torch.stack(halves).double()
        spread = gradients.std(0, correction=0)
        varies = spread > 0
        ratio = float((gradients.abs().mean(0)[varies] / spread[varies]).sum())
        score += math.log(ratio) if ratio > 0 else 0.0
    return score


def zen(probe: Probe) -> float:
    """How expressive the map before the pooling is, in terms of a small perturbation (Lin et al., ICCV 2021).

    Weights and images are drawn from a normal distribution; what batch norms take away is given back.
    """
    generator = torch.Generator().manual_seed(0)
    last = [node.inputs[0] for node in probe.arch.nodes if isinstance(node.op, GlobalPool)]
    found = []
    for _ in range(DRAWS):
        network = Network(probe.arch, _gaussian(probe.tensors, generator)).to(probe.images.device).train()
        images, noise = torch.randn(2, *probe.images.shape, generator=generator).to(probe.images.device)
        with torch.no_grad():
            filtered: list[Tensor] = []
            with watching(network, filtered=filtered.append):
                maps = network.features(images, last)
            moved = network.features(images + PERTURBATION * noise, last)
        change = sum(float((one - other).abs().sum((1, 2, 3)).mean()) for one, other in zip(maps, moved, strict=True))
        scaling = sum(math.log(math.sqrt(float(output.var((0, 2, 3)).mean())) + 1e-10) for output in filtered)
        found.append(_log(change) + scaling)
    return sum(found) / len(found)


def l2_norm(probe: Probe) -> float:
    """Norms of the weights, summed over the layers (Abdelfattah et al., ICLR 2021)."""
    return sum(float(weight.detach().norm()) for weight in probe.weights)


def depth(probe: Probe) -> float:
    """Number of layers that have weights."""
    return float(len(probe.weights))


def params(probe: Probe) -> float:
    """Number of parameters: a baseline that few proxies beat (Ning et al., NeurIPS 2021)."""
    return float(cost.params(probe.arch))


def macs(probe: Probe) -> float:
    """Number of multiply-accumulates, likewise."""
    return float(cost.macs(probe.arch))


PROXIES: dict[str, Callable[[Probe], float]] = {
    one.__name__: one
    for one in (
        synflow,
        jacov,
        naswot,
        snip,
        grasp,
        fisher,
        grad_norm,
        zen,
        zico,
        epe_nas,
        l2_norm,
        depth,
        params,
        macs,
    )
}
"""All by name."""

DEFAULT = ("synflow", "jacov")
"""The pair whose sum of log-ranks agrees best with accuracy on NAS-Bench-201."""


def scores(probe: Probe, names: Sequence[str] = DEFAULT) -> dict[str, float]:
    """Some proxies of one network.

    Raises:
        KeyError: There is no such proxy.
    """
    found = {}
    for name in names:
        try:
            score = PROXIES[name](probe)
        except (ValueError, ArithmeticError):  # a logarithm of nothing
            score = -math.inf
        found[name] = score if math.isfinite(score) else -math.inf
    return found


def log_ranks(columns: Mapping[str, Sequence[float]]) -> list[float]:
    """Sum over proxies of the logarithm of a network's rank among others, from 1 / n (worst) to 1.

    >>> [round(score, 3) for score in log_ranks({"synflow": [1.0, 5.0], "jacov": [-9.0, -7.0]})]
    [-1.386, 0.0]
    """
    ranks = [rankdata(values) / len(values) for values in columns.values()]
    return [float(total) for total in np.log(ranks).sum(axis=0)]


def _saliency(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> float:
    """Sum of |weight * gradient|."""
    return sum(
        float((weight.detach() * gradient).abs().sum()) for weight, gradient in zip(weights, gradients, strict=True)
    )


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf


def _expected(tensors: Tensors) -> dict[str, Tensor]:
    """Expected magnitudes of weights; norms, biases and the normalisation of the image do nothing."""
    neutral = {"gamma": 1.0, "beta": 0.0, "bias": 0.0, "mean": 0.0, "var": 1.0 - EPSILON, "std": 1.0}

    def value(key: str, tensor: Tensor) -> float:
        short = key.rpartition(".")[2]
        return 0.5 / math.sqrt(tensor[0].numel()) if short == "weight" else neutral[short]

    return {key: torch.full_like(t, value(key, t), dtype=torch.float64) for key, t in tensors.items()}


def _gaussian(tensors: Tensors, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights drawn anew from the standard normal distribution."""
    return {
        key: torch.randn(tensor.shape, generator=generator) if key.endswith(".weight") else tensor
        for key, tensor in tensors.items()
    }
