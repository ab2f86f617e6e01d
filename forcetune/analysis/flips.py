"""Exact sign-flip tests: how often the mean of differences is at least as large when each sign is a coin's.

[Fisher 1935, The design of experiments, section 21; Pitman 1937, Significance tests which may be applied to samples
from any populations]
"""

import numpy as np

EXHAUSTIVE_PAIRS = 12  # the most pairs for which all flips are evaluated one by one
GRID_STEPS = 2**16  # into which the sum of many differences is divided


def sign_flip_p(differences: np.ndarray) -> np.ndarray:
    """Return the one-sided p of the hypothesis that differences are symmetric about 0; for many pairs an upper bound.

    Of many pairs all flips are counted by the shift algorithm [Pagano and Tritchler 1983], on differences that are
    rounded to a grid: a sum within the rounding error of the observed one counts as being as large. One pair has a p
    of 1.

    Args:
        differences: Of shape (pairs, columns); each column is tested by itself.

    Returns:
        The p of each column, of shape (columns,).
    """
    pairs, columns = differences.shape
    if pairs < 2 or not columns:
        return np.ones(columns)
    return (
        _try_flips(differences)
        if pairs <= EXHAUSTIVE_PAIRS
        else np.array([_count_flips(column) for column in differences.T])
    )


def smallest_p(pairs: int) -> float:
    """Return the smallest one-sided p that this number of pairs allows."""
    return 2.0**-pairs if pairs > 1 else 1.0


def _try_flips(differences: np.ndarray) -> np.ndarray:
    from scipy import stats

    test = stats.permutation_test(
        (np.ones(len(differences)),),  # flips of ones are the signs: all columns share them, which is quick
        lambda signs, axis: signs @ differences / len(differences),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXHAUSTIVE_PAIRS,
        alternative="greater",
    )
    return np.asarray(test.pvalue)


def _count_flips(differences: np.ndarray) -> float:
    """Return the probability that random signs give a sum of positive differences at least as large as the observed."""
    sizes = np.abs(differences)
    if not sizes.any():
        return 1.0
    steps = np.rint(sizes / sizes.sum() * GRID_STEPS).astype(int)
    probabilities = np.zeros(steps.sum() + 1)  # of each sum
    probabilities[0], largest = 1.0, 0
    for step in steps:
        halves = probabilities[: largest + 1] / 2
        probabilities[: largest + 1] = halves
        probabilities[step : step + largest + 1] += halves
        largest += step
    observed = steps[differences > 0].sum() - len(steps) // 2  # each step is rounded by at most half a step
    return min(1.0, float(probabilities[max(observed, 0) :].sum()))
