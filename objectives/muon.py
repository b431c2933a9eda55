"""`Muon`: updates filters by directions of which none dominates (Jordan et al. 2024; Bernstein and Newhouse 2024).

The averaged gradient of a convolution, as a matrix of output channels by weights of one filter, is replaced by the
nearest matrix with orthogonal rows or columns. A few directions that dominate a gradient then no longer decide how far
all others move. `benchmarks/recipe.py` measures what that is worth.

``torch.optim.Muon`` computes in bfloat16 whatever the processor, which took half as long as all else where there is no
hardware for it, and takes its learning rate as a number on the host, which a captured CUDA graph never reads again.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Muon:
    """Steps on the filters of convolutions, with Nesterov's momentum.

    Args:
        filters: Weights of shape (outputs, inputs, height, width), by name; their gradients are read in each step.
        scale: Its learning rate, as a multiple of the one that :meth:`step` is given.
        momentum: Share of the average gradient that is kept.
        dtype: What directions are computed in.
    """

    def __init__(self, filters: Mapping[str, nn.Parameter], scale: float, momentum: float, dtype: torch.dtype) -> None:
        self.filters, self.scale, self.kept, self.dtype = dict(filters), scale, momentum, dtype
        #: The average gradients, by name.
        self.momentum = {name: torch.zeros_like(p) for name, p in self.filters.items()}

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """One update.

        Args:
            rate: Learning rate; a tensor on the device where the step is captured.
        """
        for name, filters in self.filters.items():
            if filters.grad is None:
                continue
            average = self.momentum[name].lerp_(filters.grad, 1 - self.kept)
            ahead = filters.grad.lerp(average, self.kept).flatten(1)
            # So that an update changes the outputs equally much whatever the shape (Jordan's choice).
            stretch = math.sqrt(max(1.0, ahead.shape[0] / ahead.shape[1]))
            direction = orthogonal(ahead.to(self.dtype)).float().view_as(filters)
            filters.sub_(direction * (self.scale * stretch * rate))


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthogonal rows, or columns where there are fewer of them.

    Five steps of a Newton-Schulz iteration of fifth order, whose coefficients (Jordan et al. 2024) bring small singular
    values up fast, to somewhere in 0.7 .. 1.2, rather than to 1; more exact ones do not train better.

    >>> orthogonal(torch.diag(torch.tensor([9.0, -1.0]))).round()
    tensor([[ 1.,  0.],
            [ 0., -1.]])
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), found, beta=3.4445)
    return found.T if tall else found
