"""`Schedule`: how many epochs a network trains in the search: neither the same for all, nor the same *time* for all.

A small network costs little per epoch and needs many. Were all to train for the same epochs, the small ones would stay
unfinished while nearly all the time goes to the large ones; were all to train for the same time, the large ones would
look worse than they are. So the time grows with the square root of what an epoch takes.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Schedule:
    """Epochs by cost.

    Attributes:
        seconds: For one training of a typical network.
        typical: Seconds that an epoch of it takes.
        fixed: Seconds that an epoch takes for any network.
        per_mac: Seconds more for each multiply-accumulate of one image.
        least: Fewest epochs.
        most: Most epochs.
    """

    seconds: float
    typical: float
    fixed: float
    per_mac: float
    least: float
    most: float

    @classmethod
    def constant(cls, epochs: float) -> Self:
        """The same epochs for every network."""
        return cls(seconds=epochs, typical=1.0, fixed=1.0, per_mac=0.0, least=epochs, most=epochs)

    @classmethod
    def fit(
        cls, macs: Sequence[float], epoch_seconds: Sequence[float], seconds: float, bounds: tuple[float, float]
    ) -> Self:
        """A schedule from measured epochs: non-negative least squares of the relative error.

        Args:
            macs: Multiply-accumulates of each measured network.
            epoch_seconds: What an epoch of it takes.
            seconds: For one training of a typical one of them.
            bounds: Fewest and most epochs.

        >>> schedule = Schedule.fit([1e6, 1e7], [2.0, 11.0], seconds=5.5, bounds=(0.1, 2.0))
        >>> round(schedule.fixed, 6), round(schedule.per_mac * 1e6, 6)
        (1.0, 1.0)
        """
        measured = np.asarray(epoch_seconds, dtype=np.float64)
        design = np.stack([np.ones(len(measured)), np.asarray(macs, dtype=np.float64)], axis=1) / measured[:, None]
        unit = design.max(axis=0)
        (fixed, per_mac), _ = nnls(design / unit, np.ones(len(measured)))
        typical = float(np.exp(np.log(measured).mean()))
        return cls(seconds, typical, float(fixed / unit[0]), float(per_mac / unit[1]), *bounds)

    def times(self, factor: float) -> Self:
        """So many times as long for each.

        >>> Schedule.constant(2.0).times(3).epochs({})
        6.0
        """
        scaled = {name: factor * getattr(self, name) for name in ("seconds", "least", "most")}
        return replace(self, **scaled)

    def epochs(self, cheap: Mapping[str, float]) -> float:
        """Epochs for a network with these cheap objectives, MACs among them where they matter.

        >>> Schedule.constant(2.5).epochs({})
        2.5
        """
        macs = cheap["macs"] if self.per_mac else 0.0
        epoch = self.fixed + self.per_mac * macs
        return min(max(self.seconds / math.sqrt(self.typical * epoch), self.least), self.most)


def longest(epoch_seconds: Sequence[float]) -> float:
    """How much longer the dearest of some networks trains by a schedule than a typical one of them.

    >>> longest([1.0, 16.0])
    2.0
    """
    return math.sqrt(max(epoch_seconds) / statistics.geometric_mean(epoch_seconds))
