"""`ProxyScores`: zero-cost proxies of a genotype, on a few images of a study."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from objectives.batches import few
from objectives.data import Data
from objectives.modules import out_of_memory_is_an_error
from objectives.probe import Probe
from objectives.proxies import scores
from spaces.errors import TrainingError
from spaces.space import Space
from spaces.state import initial_state

#: Images of the mini-batch, and how many pixels of one channel they may have together.
IMAGES, PIXELS = 16, 16 * 256**2

#: Stands for minus infinity, which JSON does not have.
LOWEST = -1e300


@dataclass(frozen=True, eq=False)
class ProxyScores:
    """Of a network with random weights; all networks see the same images. Scores are finite, as they are kept as JSON.

    Attributes:
        space: Reads genotypes.
        names: Of the proxies.
        images: In 0..1, (N, C, H, W), on the device that computes.
        labels: (N,).
        mean: Of each channel of the training images.
        std: Likewise.
        seed: Of the weights.
    """

    space: Space[Any]
    names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    mean: list[float]
    std: list[float]
    seed: int

    @classmethod
    def on(cls, space: Space[Any], names: tuple[str, ...], data: Data, seed: int, device: torch.device) -> Self:
        """The scores by some images of the training split."""
        count = min(IMAGES, max(2, PIXELS // (data.shape[1] * data.shape[2])))
        images, labels = few(data.train, count, seed)
        return cls(space, names, images.to(device), labels.to(device), list(data.mean), list(data.std), seed)

    def __call__(self, genotype: Any) -> dict[str, float]:
        """The scores by name; `LOWEST` where memory runs out."""
        arch = self.space.decode(genotype)
        weights = initial_state(arch, self.seed, mean=self.mean, std=self.std).value
        try:
            with out_of_memory_is_an_error():
                found = scores(Probe(arch, weights, self.images, self.labels), self.names)
        except TrainingError:
            return dict.fromkeys(self.names, LOWEST)
        return {name: max(LOWEST, score) for name, score in found.items()}
