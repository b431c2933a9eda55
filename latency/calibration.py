"""`Calibration`: a few numbers of a device, from whole networks, that its kernels alone do not tell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# What is believed before any network was measured, and how firmly: in units of what is left of the error of a network.
_EXPECTED = (1.0, 1.0, 0.0)
_FIRMNESS = (0.6, 0.1, 0.02)


@dataclass(frozen=True)
class Calibration:
    """How the sums of a table become a latency.

    Attributes:
        near: Factor on what kernels take with their weights near. That the device was slower while networks were
            measured than while kernels were is in it, too.
        far: Factor on what it adds that weights come from further away: in a network other work lies between.
        handover_us: What a kernel takes longer after another one than after itself. With several threads it finds a
            part of what it reads next to another core; with one it hardly takes longer.

    >>> Calibration(near=1.02, far=1.5, handover_us=2.0).total(10.0, 2.0, kernels=150)
    13.5
    """

    near: float = 1.0
    far: float = 1.0
    handover_us: float = 0.0

    def total(self, near: float, far: float, kernels: int) -> float:
        """The latency in milliseconds, from the two sums and the number of kernels."""
        return self.near * near + self.far * far + self.handover_us * kernels / 1e3

    @classmethod
    def fitted(
        cls, near: Sequence[float], far: Sequence[float], kernels: Sequence[int], measured: Sequence[float]
    ) -> "Calibration":
        """To networks whose sums are known and which were measured; without any, nothing is changed.

        Relative errors count, and what is expected counts about as much as a network.

        >>> nets = [0.1, 0.2, 5.0, 10.0], [0.0, 0.1, 0.5, 4.0], [20, 10, 20, 60]
        >>> took = [near + 1.5 * far + 1e-3 * kernels for near, far, kernels in zip(*nets, strict=True)]
        >>> Calibration.fitted(*nets, took)
        Calibration(near=1.014, far=1.437, handover_us=0.926)
        """
        took = np.asarray(measured, float)
        sums = np.column_stack([near, far, np.asarray(kernels, float) / 1e3]) / took[:, None]
        rows = np.vstack([sums, np.diag(_FIRMNESS)])
        factors, _ = nnls(rows, np.concatenate([np.ones(len(sums)), np.multiply(_FIRMNESS, _EXPECTED)]))
        return cls(*(round(float(factor), 3) for factor in factors))

    @classmethod
    def left_out(
        cls, near: Sequence[float], far: Sequence[float], kernels: Sequence[int], measured: Sequence[float]
    ) -> list[float]:
        """What each network would have been predicted by a calibration to the others."""
        columns = np.array([near, far, kernels, measured], float)
        others = (np.delete(columns, i, axis=1) for i in range(columns.shape[1]))
        return [cls.fitted(*rest).total(near[i], far[i], kernels[i]) for i, rest in enumerate(others)]
