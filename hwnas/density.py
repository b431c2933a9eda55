"""How crowded a place is: LEMONADE draws where networks are rare, in the space of the cheap objectives."""

import numpy as np
import numpy.typing as npt
from scipy.stats import gaussian_kde

Points = npt.NDArray[np.float64]

#: Fewer points than this say nothing about a density.
FEWEST = 5

#: Directions with less than this share of the variance are dropped: params and MACs are often collinear.
LEAST_VARIANCE = 0.01

#: Of the likeliest candidate's probability, that of any other: rounded to zero it could never be drawn.
SMALLEST_SHARE = 1e-12


def rarity(population: Points, candidates: Points, *, paper: bool = False) -> Points:
    """Probability of drawing each candidate: inverse to a kernel density estimate over the population.

    Elsken, Metzen, Hutter, ICLR 2019, section 3.1. In practice the objectives are taken as standardised logarithms
    and the weight is ``1 / (p + eps)``, eps the 10th percentile of the population's densities; otherwise one outlier
    gets all the mass.

    Args:
        population: Cheap objectives of the networks so far, (n, objectives), positive.
        candidates: Those of the networks to draw from, (m, objectives).
        paper: The paper's form: values as they are, weight ``1 / p``. Directions without variance are dropped in
            either form: the estimate does not exist with them.

    Returns:
        (m,) probabilities that add up to 1; uniform where the population has fewer than five points.
    """
    uniform: Points = np.full(len(candidates), 1 / max(1, len(candidates)))
    if len(population) < FEWEST or len(candidates) == 0:
        return uniform
    known, asked = (points if paper else np.log(np.maximum(points, 1e-9)) for points in (population, candidates))
    centre, spread = known.mean(0), known.std(0)
    varies = spread > 1e-9 * np.maximum(1, np.abs(centre))
    if not varies.any():
        return uniform
    known = (known[:, varies] - centre[varies]) / spread[varies]
    asked = (asked[:, varies] - centre[varies]) / spread[varies]
    variances, directions = np.linalg.eigh(np.cov(known.T).reshape(known.shape[1], -1))
    directions = directions[:, variances > LEAST_VARIANCE * variances.sum()]
    known, asked = known @ directions, asked @ directions  # fewer directions than points, so the estimate exists
    estimate = gaussian_kde(known.T)
    if paper:
        logs = estimate.logpdf(asked.T)
        weights = np.exp(logs.min() - logs)  # densities themselves may be too small for a float
    else:
        weights = 1 / (estimate(asked.T) + np.percentile(estimate(known.T), 10))
    weights = np.maximum(weights, SMALLEST_SHARE * weights.max())
    probabilities: Points = weights / weights.sum()
    return probabilities


def effective_size(probabilities: Points) -> float:
    """Number of equally likely candidates that would be as diverse (Kish, 1965).

    >>> effective_size(np.array([0.5, 0.5, 0.0]))
    2.0
    """
    return float(1 / np.square(probabilities).sum())
