"""The noise of one seed at each point: what the seeds of the point show, with its neighbours in density as a prior.

A variance with its neighbours as a prior is the empirical Bayes estimate of Smyth (2004), whose prior is a scaled
inverse chi-squared distribution; here its tails are chosen by simulation (benchmarks/deciding/seeds.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOISE_BANDWIDTH_DECADES = 0.25  # of density, within which points share most of their noise
MIN_NOISE_WEIGHT = 1e-3  # of distant points, so that the noise is known everywhere once it is known anywhere
NOISE_SPREAD = 0.8  # standard deviation of the logarithm of a point's noise, below that of its neighbours
NOISE_TAIL = 0.3  # exponent by which the probability of more noise than that of the neighbours falls
UNSEEN_SPREAD = 0.35  # standard deviation of the logarithm of the noise of a point without two seeds
MAX_POOLING_VARIANCE = 1.0  # of the logarithm of the neighbours' noise, where they are few or far
NOISE_RATIOS = np.exp(np.arange(-4.6, 7.0, 0.2))  # of the noise of a point over that of its neighbours
MIN_SQUARES = 1e-20  # sums of squares below it are rounding
BISECTIONS = 45


@dataclass(frozen=True)
class SeedNoise:
    """The distributions of the standard deviation of one seed, of n points in m objectives, each on k values.

    Attributes:
        deviations: The values of the standard deviation, of shape (n, m, k); all 0 where an objective has no noise.
        weights: Their probabilities, of shape (n, m, k).
    """

    deviations: np.ndarray
    weights: np.ndarray

    @property
    def typical(self) -> np.ndarray:
        """The geometric mean of the standard deviation, of shape (n, m)."""
        with np.errstate(divide="ignore"):
            logarithms = np.log(self.deviations)
        return np.asarray(np.exp((self.weights * np.where(self.weights > 0, logarithms, 0)).sum(-1)))

    def half_widths(self, seeds: np.ndarray, confidence: float) -> np.ndarray:
        """Return half the width of the interval of a mean over seeds, by bisection of the mixture of normals.

        Args:
            seeds: The number of seeds behind each mean, of shape (n,).
            confidence: The probability that the interval holds the mean.

        Returns:
            Half the width, of shape (n, m).
        """
        from scipy.special import ndtr  # slow to load, and most commands compute no interval

        is_noisy = self.deviations[..., -1] > 0
        errors = (self.deviations / np.sqrt(seeds)[:, None, None])[is_noisy]
        weights = self.weights[is_noisy]
        low, high = np.zeros(len(errors)), 10 * errors[:, -1]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            is_short = (weights * (2 * ndtr(middle[:, None] / errors) - 1)).sum(1) < confidence
            low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
        half = np.zeros(is_noisy.shape)
        half[is_noisy] = high
        return half


def estimate_noise(log_density: np.ndarray, runs: Sequence[np.ndarray], is_exact: np.ndarray) -> SeedNoise | None:
    """Estimate the noise of one seed at each point.

    The prior of a point has its mode at the noise of the points of near density, without the point. Below the mode it
    falls as a normal distribution of the logarithm does, above it as a power: a point that seems quiet is lucky more
    often than quiet, and a point that seems noisy is noisy. The noise of a point without two seeds is that of its
    neighbours, within a spread. A point without neighbours has a flat prior of the logarithm, with which the interval
    of its mean is Student's.

    Args:
        log_density: The decimal logarithm of the density, of shape (n,).
        runs: For each point the values of its fresh seeds, of shape (seeds, m); seeds may be 0.
        is_exact: Whether equal values of an objective show that it has no noise, of shape (m,). An accuracy, which
            counts images, can be equal by chance.

    Returns:
        The noise; None where no point has two fresh seeds.
    """
    freedom = np.array([max(len(sample) - 1, 0) for sample in runs])
    if not freedom.any():
        return None
    squares = np.array([((sample - sample.mean(0)) ** 2).sum(0) if len(sample) else is_exact * 0.0 for sample in runs])
    squares[squares < MIN_SQUARES] = 0.0
    nearness = weigh_neighbours(log_density, NOISE_BANDWIDTH_DECADES, MIN_NOISE_WEIGHT)
    shared = nearness @ freedom
    pooled = nearness @ squares / np.where(shared > 0, shared, 1)[:, None]
    has_prior = pooled > 0
    centres = np.where(has_prior, pooled, squares / np.maximum(freedom, 1)[:, None])  # (n, m) variances
    centres[(squares == 0) & (freedom > 0)[:, None] & is_exact] = 0.0
    pooling_variance = np.minimum(MAX_POOLING_VARIANCE, 0.5 / np.where(shared > 0, shared, 0.5))
    spread = np.sqrt(np.where(freedom > 0, NOISE_SPREAD, UNSEEN_SPREAD) ** 2 + pooling_variance)
    steps = np.log(NOISE_RATIOS)
    prior = -((steps / spread[:, None]) ** 2) / 2  # (n, k)
    prior = np.where((steps > 0) & (freedom > 0)[:, None], -NOISE_TAIL * steps, prior)
    scaled_squares = squares / np.where(centres > 0, centres, np.inf)
    likelihood = -freedom[:, None, None] * np.log(NOISE_RATIOS) - scaled_squares[..., None] / (2 * NOISE_RATIOS**2)
    logarithms = likelihood + np.where(has_prior[..., None], prior[:, None], 0.0)
    weights = np.exp(logarithms - logarithms.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return SeedNoise(np.sqrt(centres)[..., None] * NOISE_RATIOS, weights)


def weigh_neighbours(log_density: np.ndarray, bandwidth: float, least: float) -> np.ndarray:
    """Return the weight of each point as a neighbour of each other point, of shape (n, n); 0 on the diagonal.

    Args:
        log_density: The decimal logarithm of the density, of shape (n,).
        bandwidth: The standard deviation of the kernel, in decades.
        least: What the farthest point weighs.
    """
    weights = least + np.exp(-0.5 * ((log_density[:, None] - log_density) / bandwidth) ** 2)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)
