"""A test of a mean that takes the skewness of differences into account.

Where differences are skewed, the rare large ones are missing in most small samples. The mean of such a sample lies too
far on the side without them, and its spread is too small: tests that assume symmetry then err on that side.
"""

import numpy as np


def hall_p(differences: np.ndarray) -> np.ndarray:
    """Return the one-sided p of a mean of at most 0, by Hall's transformation of Student's t.

    The transformation removes what the skewness changes in the distribution of t, to the first order in the number of
    pairs, and is monotone in t [Hall 1992, On the removal of skewness by transformation]. It is compared with
    Student's distribution, which has heavier tails than the normal one of the publication.

    Args:
        differences: Of shape (pairs, columns); each column is tested by itself.

    Returns:
        The p of each column, of shape (columns,). Of equal differences it is 0 or 1, and of one pair 1.
    """
    from scipy import stats

    pairs = len(differences)
    if pairs < 2:
        return np.ones(differences.shape[1])
    mean, deviation, skewness = _measure_moments(differences)
    is_constant = deviation <= 1e-12 * np.abs(mean)
    effect = mean / np.where(is_constant, 1, deviation)
    transformed = effect + skewness * effect**2 / 3 + skewness**2 * effect**3 / 27 + skewness / (6 * pairs)
    p = stats.t.sf(np.sqrt(pairs) * transformed, pairs - 1)
    return np.asarray(np.where(is_constant, np.where(mean > 0, 0.0, 1.0), p))


def measure_skewness(differences: np.ndarray) -> np.ndarray:
    """Return the skewness of samples in standard deviations of what normal samples of this size have.

    Args:
        differences: Of shape (pairs, columns).

    Returns:
        The standardized skewness of each column, of shape (columns,); 0 below three pairs.
    """
    pairs = len(differences)
    if pairs < 3:
        return np.zeros(differences.shape[1])
    return np.asarray(_measure_moments(differences)[2] / np.sqrt(6 * (pairs - 2) / ((pairs + 1) * (pairs + 3))))


def _measure_moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, the standard deviation (divided by n) and the skewness of each column."""
    mean = differences.mean(0)
    centred = differences - mean
    deviation = np.sqrt((centred**2).mean(0))
    return mean, deviation, (centred**3).mean(0) / np.where(deviation > 0, deviation, 1) ** 3
