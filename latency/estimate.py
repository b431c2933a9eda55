"""`Estimator`: what kernels take that a table lacks, from those that it has, and how sure that is.

A kernel's time is a roofline's, by its arithmetic and its bytes, times a factor that a Gaussian process learns: close
to kernels that were measured it is known within a few per cent, and far from all of them it says that it knows little.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from latency.kernels import Kernel
from latency.workload import NEAR_BYTES, weight_bytes
from spaces.errors import MissingKernel

LEAST_ROWS = 30
"""From fewer kernels nothing is learned about others."""

_MOST_TUNED = 400  # hyper-parameters are tuned on so many rows: that takes a cube of them, many times
_MOST_ROWS = 3000
_LEAST_US = 0.05
# How far operators are apart, in standard deviations of the other features.
_APART = 3.0
# Variance of an operator of which no kernel was measured: it may take a fifth of the roofline's time, or five times it.
_STRANGE = 1.0
_ACTIVATIONS = ("none", "Relu", "HardSwish", "HardSigmoid")


class Estimator:
    """Learned from the rows of a table.

    Args:
        frame: The rows, indexed by kernel (as text), with ``min_us``, ``middle_us`` and ``cold_us``.

    Raises:
        MissingKernel: If there are fewer than ``LEAST_ROWS``.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        if len(frame) < LEAST_ROWS:
            raise MissingKernel(
                f"estimates need a table of at least {LEAST_ROWS} kernels, and this one has {len(frame)}; profile some"
            )
        rows = frame.sample(min(len(frame), _MOST_ROWS), random_state=0)
        self._kernels = [Kernel.parse(line) for line in rows.index]
        self._us = rows["min_us"].to_numpy()
        self._operators = sorted({_operator(kernel) for kernel in self._kernels})
        features = np.array([_features(kernel) for kernel in self._kernels])
        self._mean, self._scale = features.mean(0), np.where(features.std(0) > 0, features.std(0), 1)
        work = np.array([_work(kernel) for kernel in self._kernels])
        # Of a kernel's time, not of all time: each counts alike.
        self._rates, _ = nnls(work / self._us[:, None], np.ones(len(self._us)))
        weights = _weights(self._kernels) / (1 + self._us[:, None])
        distant = rows[["middle_us", "cold_us"]].to_numpy() / (1 + self._us[:, None])
        self._distant_rates = np.column_stack([nnls(weights, column)[0] for column in distant.T])

    def estimate(self, kernels: Sequence[Kernel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What kernels take.

        Returns:
            Microseconds [n]; what distant weights add, ``middle_us`` and ``cold_us`` [n, 2]; and the covariance [n, n]
            of the logarithms of the first: kernels that are alike are wrong together.
        """
        factor, covariance = self._process.predict(self._vectors(kernels), return_cov=True)
        strange = [_operator(kernel) not in self._operators for kernel in kernels]
        covariance = covariance + np.diag(np.where(strange, _STRANGE, 0.0))
        return self._roofline(kernels) * np.exp(factor), _weights(kernels) @ self._distant_rates, covariance

    @cached_property
    def _process(self) -> Any:  # of scikit-learn, which has no annotations
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

        vectors, factors = self._vectors(self._kernels), np.log(self._us / self._roofline(self._kernels))
        # What changes slowly with a kernel's size, what changes fast, and noise.
        slow, fast = ConstantKernel(1.0) * RBF(8.0), ConstantKernel(0.1) * Matern(2.0, nu=1.5)
        tuned = GaussianProcessRegressor(slow + fast + WhiteKernel(0.01), normalize_y=True)
        with warnings.catch_warnings():  # one of the parts may prove to be of no use
            warnings.simplefilter("ignore", ConvergenceWarning)
            tuned.fit(vectors[:_MOST_TUNED], factors[:_MOST_TUNED])
        return GaussianProcessRegressor(tuned.kernel_, optimizer=None, normalize_y=True).fit(vectors, factors)

    def _vectors(self, kernels: Sequence[Kernel]) -> np.ndarray:
        features = (np.array([_features(kernel) for kernel in kernels]) - self._mean) / self._scale
        operators = [[_operator(kernel) == name for name in self._operators] for kernel in kernels]
        return np.hstack([features, _APART * np.array(operators, float)])

    def _roofline(self, kernels: Sequence[Kernel]) -> np.ndarray:
        return np.maximum(_LEAST_US, np.array([_work(kernel) for kernel in kernels]) @ self._rates)


def _weights(kernels: Sequence[Kernel]) -> np.ndarray:
    """Bytes of weights that are timed near; whether there are any; and bytes of those that are not."""
    sizes = np.array([weight_bytes(kernel) for kernel in kernels], float)
    near = sizes <= NEAR_BYTES
    return np.column_stack([sizes * near, near & (sizes > 0), sizes * ~near])


def _work(kernel: Kernel) -> list[float]:
    return [float(kernel.macs), float(_nbytes(kernel.inputs) + _nbytes(kernel.outputs)), 1.0]


def _operator(kernel: Kernel) -> str:
    return f"{kernel.op} {'grouped' if kernel.attribute('group', 1) != 1 else ''}"


def _features(kernel: Kernel) -> list[float]:
    read = next(iter(kernel.activations.values()), None)
    before, after = (operand.shape if operand else () for operand in (read, kernel.outputs[0]))
    weights = kernel.constants.get(1)
    window = weights.shape[2:] if weights and len(weights.shape) == 4 else kernel.attribute("kernel_shape", (1,))
    stride, group = kernel.attribute("strides", (1,)), kernel.attribute("group", 1)
    activation = kernel.attribute("activation", "none")
    logs = [kernel.macs, _nbytes(kernel.inputs), _nbytes(kernel.outputs), weight_bytes(kernel)]
    logs += [_size(before, 1), *(_size(after, axis) for axis in (1, 2, 3))]
    return [
        *(math.log1p(number) for number in logs),
        float(_first(window)),
        float(_first(stride)),
        math.log(float(_first(group))),
        float(len(kernel.activations)),
        float(_size(before, 1) % 16 > 0),
        float(_size(after, 1) % 16 > 0),
        float(_ACTIVATIONS.index(activation) if activation in _ACTIVATIONS else len(_ACTIVATIONS)),
    ]


def _nbytes(operands: Sequence[object]) -> int:
    return sum(operand.nbytes for operand in operands if operand)  # type: ignore[attr-defined]


def _size(shape: Sequence[int], axis: int) -> int:
    return shape[axis] if len(shape) > axis else 1


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, tuple) and value else value or 1)  # type: ignore[arg-type]
