"""Holm's correction of p values that are judged together."""

import numpy as np


def adjust_by_holm(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted by Holm's method along the last axis, over those that are not NaN.

    The k-th smallest of m p is multiplied by m - k + 1, and no adjusted p is smaller than one before it. Whatever the
    dependence of the p, the probability of any false rejection is at most the level [Holm 1979, A simple sequentially
    rejective multiple test procedure].

    statsmodels' `multipletests` takes one family a call and collects garbage in each; simulations judge thousands.

    Args:
        p: Of shape (..., comparisons).

    Returns:
        The adjusted p values, of the same shape, at most 1.
    """
    order = np.argsort(p, axis=-1)  # NaN comes last
    tested = (~np.isnan(p)).sum(-1, keepdims=True)
    factors = np.maximum(tested - np.arange(p.shape[-1]), 1)
    adjusted = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, -1), 1)
    restored = np.empty_like(p)
    np.put_along_axis(restored, order, adjusted, -1)
    return restored
