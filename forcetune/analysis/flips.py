"""All flips of the signs of differences: how often their mean would be as large as it is, were each sign a coin's."""

import numpy as np

FEW = 12  # pairs of which all flips are tried one by one
GRID = 2**16  # steps into which the sum of many differences is divided


def above(differences: np.ndarray) -> np.ndarray:
    """One-sided p of each column of (pairs, columns) that its differences are symmetric about 0, at most.

    Of many pairs all flips are counted by the shift algorithm [Pagano and Tritchler 1983], on differences that are
    rounded to a grid: what lies within the rounding counts as being as large. One pair tells nothing.
    """
    pairs, columns = differences.shape
    if pairs < 2 or not columns:
        return np.ones(columns)
    return _tried(differences) if pairs <= FEW else np.array([_counted(column) for column in differences.T])


def least(pairs: int) -> float:
    """The smallest p that so many pairs allow."""
    return 2.0**-pairs if pairs > 1 else 1.0


def _tried(differences: np.ndarray) -> np.ndarray:
    from scipy import stats

    test = stats.permutation_test(
        (np.ones(len(differences)),),  # flips of ones are the signs: all columns share them, which is quick
        lambda signs, axis: signs @ differences / len(differences),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**FEW,
        alternative="greater",
    )
    return np.asarray(test.pvalue)


def _counted(differences: np.ndarray) -> float:
    """How likely it is that those whose sign is plus have a sum as large as those have that are above 0."""
    sizes = np.abs(differences)
    if not sizes.any():
        return 1.0
    steps = np.rint(sizes / sizes.sum() * GRID).astype(int)
    chances = np.zeros(steps.sum() + 1)  # of each sum
    chances[0], reached = 1.0, 0
    for step in steps:
        halves = chances[: reached + 1] / 2
        chances[: reached + 1] = halves
        chances[step : step + reached + 1] += halves
        reached += step
    seen = steps[differences > 0].sum() - len(steps) // 2  # each was rounded by at most half a step
    return min(1.0, float(chances[max(seen, 0) :].sum()))
