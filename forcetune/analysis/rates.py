"""Exact intervals of rates."""

import numpy as np

RATE_CONFIDENCE = 0.95  # of the intervals


def clopper_pearson(count: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact 95 % interval of a share. Clopper and Pearson, Biometrika 1934.

    Args:
        count: The number of cases, of shape (n,).
        total: The number of trials, of shape (n,).

    Returns:
        The lower and the upper end, each of shape (n,); NaN where the total is 0.
    """
    from scipy.special import betaincinv  # slow to load

    tail = (1 - RATE_CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(count > 0, betaincinv(np.maximum(count, 1), total - count + 1, tail), 0.0)
        high = np.where(count < total, betaincinv(count + 1, np.maximum(total - count, 1), 1 - tail), 1.0)
    return np.where(total > 0, low, np.nan), np.where(total > 0, high, np.nan)
