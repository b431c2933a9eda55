"""`Calibration`: two numbers of a device, from a few whole networks, that its kernels alone do not tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# What is believed before any network was measured, and how firmly: in units of what is left of the error of a network.
_EXPECTED = (1.0, 1.0)
_FIRMNESS = (0.6, 0.1)


@dataclass(frozen=True)
class Calibration:
    """How the sums of a table become a latency.

    Attributes:
        near: Factor on what kernels take with their weights near. That the device was slower while networks were
            measured than while kernels were is in it, too.
        far: Factor on what it adds that weights come from further away: in a network other work lies between.

    >>> Calibration(near=1.02, far=1.5).total(10.0, 2.0)
    13.2
    """

    near: float = 1.0
    far: float = 1.0

    def total(self, near: float, far: float) -> float:
        """The latency, from the two sums."""
        return self.near * near + self.far * far

    @classmethod
    def fitted(cls, near: Sequence[float], far: Sequence[float], measured: Sequence[float]) -> "Calibration":
        """To networks whose sums are known and which were measured; without any, nothing is changed.

        Relative errors count, and what is expected counts about as much as a network.

        >>> nets = [1.0, 2.0, 5.0, 10.0], [0.0, 1.0, 0.5, 4.0]
        >>> Calibration.fitted(*nets, [near + 1.5 * far for near, far in zip(*nets, strict=True)])
        Calibration(near=1.007, far=1.453)
        """
        sums = np.column_stack([near, far]) / np.asarray(measured, float)[:, None]
        rows = np.vstack([sums, np.diag(_FIRMNESS)])
        factors, _ = nnls(rows, np.concatenate([np.ones(len(sums)), np.multiply(_FIRMNESS, _EXPECTED)]))
        return cls(*(round(float(factor), 3) for factor in factors))

    @classmethod
    def left_out(cls, near: Sequence[float], far: Sequence[float], measured: Sequence[float]) -> list[float]:
        """What each network would have been predicted by a calibration to the others."""
        columns = np.array([near, far, measured], float)
        others = (np.delete(columns, i, axis=1) for i in range(columns.shape[1]))
        return [cls.fitted(*rest).total(near[i], far[i]) for i, rest in enumerate(others)]
