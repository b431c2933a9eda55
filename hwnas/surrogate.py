"""`ErrorModel`: how large will the error of a network be? Learned from those that have been trained."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.optimize import minimize

from hwnas.pareto import Points

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

Row = Mapping[str, float]

#: Errors below this count as this: a logarithm has to exist.
LEAST_ERROR = 1e-4

#: Steps of the search for the kernel's parameters; the likelihood hardly grows after them.
MOST_STEPS = 30


@dataclass(frozen=True)
class ErrorModel:
    """A Gaussian process on the logarithm of the error (Rasmussen and Williams, 2006).

    A linear trend, which is all that few networks can tell, a Matérn 5/2 departure from it, and noise.

    Features are standardised and count alike. A feature that some rows lack is 0 there, one that is NaN its mean.

    Attributes:
        names: Of the features, those that vary.
        centre: Their means.
        scale: What each is divided by.
        process: Fitted.
    """

    names: tuple[str, ...]
    centre: Points
    scale: Points
    process: "GaussianProcessRegressor"

    @classmethod
    def fit(cls, rows: Sequence[Row], errors: Points, worst: float, kernel: "Kernel | None" = None) -> Self:
        """A model of some networks.

        Args:
            rows: Features of each.
            errors: Of each, 0..1.
            worst: Errors above count as this: how bad a bad network is tells nothing of good ones.
            kernel: That of another model, whose parameters are taken over; None: they are found, which takes longest.
        """
        from sklearn.exceptions import ConvergenceWarning  # a second to import
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

        names = tuple(sorted({name for row in rows for name in row}))
        values = _matrix(rows, names)
        known = ~np.isnan(values).all(axis=0)
        centre = np.zeros(len(names))
        centre[known] = np.nanmean(values[:, known], axis=0)
        spread = np.nan_to_num(values - centre).std(axis=0)
        varies = spread > 1e-9 * np.maximum(1, np.abs(centre))
        names = tuple(name for name, one in zip(names, varies, strict=True) if one)
        scale = spread[varies] * np.sqrt(max(1, len(names)))
        trend = ConstantKernel(1.0, (0.01, 100)) * DotProduct(0.1, sigma_0_bounds="fixed")
        departure = ConstantKernel(1.0, (0.01, 100)) * Matern(1.0, (0.05, 20), nu=2.5)
        unfitted = trend + departure + WhiteKernel(0.01, (1e-4, 1))
        optimiser = _optimised if kernel is None else None
        process = GaussianProcessRegressor(kernel or unfitted, normalize_y=True, optimizer=optimiser)
        model = cls(names, centre[varies], scale, process)
        with warnings.catch_warnings():  # a parameter at its bound is no trouble
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(model._inputs(rows), np.log(np.clip(errors, LEAST_ERROR, worst)))
        return model

    @property
    def kernel(self) -> "Kernel":
        """With the parameters that were found."""
        return self.process.kernel_

    def predict(self, rows: Sequence[Row]) -> tuple[Points, Points]:
        """Mean and standard deviation of the logarithm of the error of each, (n,) and (n,)."""
        mean, spread = self.process.predict(self._inputs(rows), return_std=True)
        return mean, np.maximum(spread, 1e-6)

    def _inputs(self, rows: Sequence[Row]) -> Points:
        inputs: Points = np.nan_to_num((_matrix(rows, self.names) - self.centre) / self.scale)
        return inputs if self.names else np.zeros((len(rows), 1))


def _matrix(rows: Sequence[Row], names: Sequence[str]) -> Points:
    return np.array([[row.get(name, 0.0) for name in names] for row in rows], dtype=np.float64).reshape(len(rows), -1)


def _optimised(objective, start, bounds):  # type: ignore[no-untyped-def]
    """Of scikit-learn's form: parameters and value of a minimum."""
    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": MOST_STEPS})
    return found.x, found.fun
