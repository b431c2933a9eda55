"""How new tensors start, where that is not as their op says: see :func:`spaces.rewrite.splice`."""

from collections.abc import Callable

import torch
from torch import Tensor

from spaces.ops import EPSILON, Param
from spaces.rewrite import Start
from spaces.state import Tensors


def zeros(param: Param, tensors: Tensors) -> Tensor:
    """Zeros."""
    return torch.zeros(param.shape, dtype=torch.float64)


def identity_filter(param: Param, tensors: Tensors) -> Tensor:
    """A convolution that hands every channel on."""
    weight = torch.zeros(param.shape, dtype=torch.float64)
    middle = param.shape[-1] // 2
    channels = torch.arange(param.shape[0])
    weight[channels, channels if param.shape[1] > 1 else 0, middle, middle] = 1
    return weight


def averaging_filter(param: Param, tensors: Tensors) -> Tensor:
    """A convolution that averages every channel over its window."""
    middle = identity_filter(param, tensors).amax((2, 3), keepdim=True)
    return middle.expand(param.shape) / (param.shape[2] * param.shape[3])


def unit_gamma(param: Param, tensors: Tensors) -> Tensor:
    """With mean 0 and variance 1 the norm is then the identity: gamma / sqrt(1 + eps) = 1."""
    return torch.full(param.shape, (1 + EPSILON) ** 0.5, dtype=torch.float64)


def same_as(key: str, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Start:
    """As a tensor of the old network.

    Args:
        key: Its ``"node.param"``.
        convert: Makes the new tensor of it.
    """
    return lambda param, tensors: convert(tensors[key])
