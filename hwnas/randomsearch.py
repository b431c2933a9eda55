"""Random search (Li and Talwalkar, UAI 2019)."""

import numpy as np

from hwnas.baseline import Baseline
from hwnas.draft import Draft


class RandomSearch(Baseline):
    """Random networks of the space that keep the limits."""

    def offspring(self, count: int, seen: set[str], rng: np.random.Generator) -> list[Draft]:
        """None: random networks take their place."""
        return []
