"""Paired comparisons of a champion with its random twins: exact sign-flip tests of difference and of equivalence.

The arms of a pair share everything but their masks. If the mask does not matter, the arms are exchangeable: a
difference is as likely with the other sign, so all 2**n flips of n signs are equally likely, whatever the distribution.
That makes the test of a difference exact at any number of pairs. The tests against the margin flip the signs around the
margin, and exchangeable arms do not justify that: these tests assume that differences are symmetric about their mean.
Where differences are not symmetric, more pairs make the tests and the interval better, since no interval covers an
event that no pair has shown. benchmarks/verdicts.py prints how good they are where a twin collapses in some runs.
"""

import gc
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forcetune.analysis.flips import sign_flip_p, smallest_p

CONFIDENCE = 0.95  # of all intervals
POWER = 0.8  # the share of cases in which a number of pairs shows an effect
MAX_PAIRS = 1000  # more would take longer than a user waits


@dataclass(frozen=True)
class Verdict:
    """A verdict on paired differences, champion minus twin.

    The two p values are multiplied by the cost of the look. Each is then adjusted by Holm's method over all comparisons
    that are judged together, the p of differences and the p of equivalence in a family each.

    Attributes:
        pairs: The number of pairs.
        mean: The mean of the differences, in their unit.
        low: The lower end of Student's 95 % interval of the mean; NaN below two pairs.
        high: The upper end of that interval.
        p_difference: The two-sided p of a mean of 0.
        p_equivalence: The p of a mean at the margin or beyond, the larger of two one-sided p (TOST).
        least_p: The smallest unadjusted two-sided p that the flips of this number of pairs allow.
        verdict: `beats`, `ties`, `loses` or `undecided`.
        needed: For an undecided comparison, the total number of pairs that would settle it in four of five cases, if
            the mean and the deviation are as observed and a look costs as much as this one; None where that cannot be
            computed or is more than 1000.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p_difference: float
    p_equivalence: float
    least_p: float
    verdict: str
    needed: int | None


def judge(
    differences: Sequence[np.ndarray], margin: float, cost: Sequence[float] | None = None, alpha: float = 0.05
) -> list[Verdict]:
    """Judge comparisons together, each by its paired differences.

    A comparison ties if its mean is shown to lie within the margin, even if the mean is also shown to differ from 0:
    the interval says so. Comparisons without a pair do not count in the family.

    Args:
        differences: For each comparison its differences, of shape (pairs,), champion minus twin; pairs may be 0.
        margin: The difference below which a difference does not matter, in the unit of the differences.
        cost: For each comparison the factor by which the look multiplies its p; by default 1.
        alpha: The level of the tests.

    Returns:
        A verdict for each comparison.

    Raises:
        ValueError: The margin is negative, or a difference is not finite.
    """
    samples = [np.asarray(values, float) for values in differences]
    if margin < 0 or not all(np.isfinite(sample).all() for sample in samples):
        raise ValueError(f"differences must be finite and the margin at least 0, not {margin}")
    costs = np.ones(len(samples)) if cost is None else np.asarray(cost, float)
    strictest = alpha / costs / max(1, sum(len(sample) > 0 for sample in samples))
    tests = [_adjust(p * costs) for p in _compute_p_values(samples, margin)]
    verdicts = []
    for sample, differ, alike, level in zip(samples, *tests, strictest, strict=True):
        mean, low, high = student_interval(sample)
        verdict = _decide(mean, differ, alike, alpha)
        needed = _find_needed_pairs(sample, margin, level) if verdict == "undecided" else None
        least_p = min(1.0, 2 * smallest_p(len(sample)))
        verdicts.append(Verdict(len(sample), mean, low, high, float(differ), float(alike), least_p, verdict, needed))
    return verdicts


def fewest_pairs(comparisons: int, alpha: float = 0.05) -> int:
    """Return the fewest pairs with which each of several comparisons, judged together, can have a verdict.

    The smallest two-sided p of n pairs is 2 / 2**n, which Holm's correction multiplies by the number of comparisons.

    Args:
        comparisons: The number of comparisons.
        alpha: The level of the tests.
    """
    return next(pairs for pairs in range(1, MAX_PAIRS) if 2 * smallest_p(pairs) * comparisons <= alpha)


def detectable_effect(pairs: int, comparisons: int, alpha: float = 0.05) -> float:
    """Return the mean difference that pairs show in four of five cases, in standard deviations of their differences.

    It is that of Student's test at the level of Holm's first step.

    Args:
        pairs: The number of pairs of each comparison.
        comparisons: The number of comparisons that are judged together.
        alpha: The level of the tests.

    Returns:
        The effect; infinite where this number of pairs allows no verdict.
    """
    from statsmodels.stats.power import TTestPower

    level = alpha / max(1, comparisons)
    if pairs < 2 or 2 * smallest_p(pairs) > level:
        return float("inf")
    return float(TTestPower().solve_power(nobs=pairs, alpha=level, power=POWER, alternative="two-sided"))


def summarize_pairs(sample: np.ndarray) -> tuple[float, float, float, float]:
    """Return the mean of differences (pairs,), Student's 95 % interval of it, and the exact sign-flip p of 0."""
    return (*student_interval(sample), float(_compute_p_values([sample], 0.0)[0][0]))


def adjust_by_holm(p: np.ndarray) -> np.ndarray:
    """Return each p adjusted by Holm's method over all that are not NaN."""
    return _adjust(p)


def pool_by_seed(differences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the differences of several champions over the same seeds, averaged by seed.

    Champions share a seed's split and initial weights, so they are no independent pairs: a seed counts once.

    Args:
        differences: For each champion its differences, of shape (seeds,); NaN where one is missing.

    Returns:
        The averages, without the seeds that no champion has.

    Raises:
        ValueError: The lengths differ.
    """
    if not len(differences):
        return np.empty(0)
    table = np.stack([np.asarray(values, float) for values in differences])
    return np.asarray(np.nanmean(table[:, ~np.isnan(table).all(0)], axis=0))


def _decide(mean: float, differ: float, alike: float, alpha: float) -> str:
    """Return the verdict on a mean, from the adjusted p of no difference and of no equivalence."""
    if alike <= alpha:
        return "ties"
    if differ <= alpha:
        return "beats" if mean > 0 else "loses"
    return "undecided"


def _compute_p_values(samples: Sequence[np.ndarray], margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sample the p of no difference, and the p of a difference at the margin or beyond.

    A sample without pairs has NaN.
    """
    differ, alike = np.full((2, len(samples)), np.nan)
    sizes = np.array([len(sample) for sample in samples], int)
    for pairs in set(sizes[sizes > 0]):
        same_size = sizes == pairs
        block = np.stack([sample for sample in samples if len(sample) == pairs], axis=1)
        upwards = block * np.where(block.mean(0) < 0, -1, 1)  # flips are symmetric: the other direction has a larger p
        differ[same_size] = np.minimum(1, 2 * sign_flip_p(upwards))
        alike[same_size] = np.maximum(sign_flip_p(block + margin), sign_flip_p(margin - block))
    return differ, alike


def _adjust(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted by Holm's method, over those that are not NaN."""
    from statsmodels.stats.multitest import multipletests

    adjusted: np.ndarray = np.minimum(p, 1)
    is_tested = ~np.isnan(p)
    if is_tested.sum() > 1:  # one p needs no adjustment, and the call is slow
        gc.freeze()  # statsmodels collects garbage in each call, which beside torch takes a third of a second
        try:
            adjusted[is_tested] = multipletests(adjusted[is_tested], method="holm")[1]
        finally:
            gc.unfreeze()
    return adjusted


def student_interval(sample: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of a sample and Student's 95 % interval of it.

    Args:
        sample: Of shape (n,).

    Returns:
        The mean, and the lower and upper end of the interval. The ends are NaN below two values, the mean is NaN
        without any.
    """
    if len(sample) < 2:
        return float(sample.mean()) if len(sample) else np.nan, np.nan, np.nan
    mean, error = float(sample.mean()), sample.std(ddof=1) / np.sqrt(len(sample))
    half = float(student_half_width(error, len(sample) - 1))
    return mean, mean - half, mean + half


def student_half_width(error: ArrayLike, freedom: ArrayLike) -> np.ndarray:
    """Return half the width of Student's 95 % interval of a mean; NaN without a degree of freedom.

    Args:
        error: The standard error of the mean.
        freedom: The degrees of freedom of that error, of a shape that fits.
    """
    from scipy import stats  # slow to load, and most commands compute no interval

    # scipy's intervals that take the error or the sample are NaN where all values are equal
    return np.asarray(stats.t.interval(CONFIDENCE, freedom)[1] * np.asarray(error))


def _find_needed_pairs(sample: np.ndarray, margin: float, level: float) -> int | None:
    """Return the fewest pairs, more than there are, with which a difference or equivalence would be shown."""
    if len(sample) < 2:
        return None
    mean, deviation = abs(float(sample.mean())), float(sample.std(ddof=1))

    def power_of_difference(pairs: int) -> float:
        return _power(mean, deviation, pairs, level / 2)

    def power_of_equivalence(pairs: int) -> float:
        near, far = (_power(margin + sign * mean, deviation, pairs, level) for sign in (-1, 1))
        return near + far - 1  # a lower bound of how often both one-sided tests succeed

    sizes = [_find_fewest(power_of_difference, len(sample) + 1), _find_fewest(power_of_equivalence, len(sample) + 1)]
    return min((size for size in sizes if size <= MAX_PAIRS), default=None)


def _find_fewest(power: Callable[[int], float], start: int) -> int:
    return start + bisect_left(range(start, MAX_PAIRS + 1), POWER, key=power)


def _power(distance: float, deviation: float, pairs: int, level: float) -> float:
    """Return how often a one-sided t test detects a distance; 0 where the pairs are too few for the level."""
    from statsmodels.stats.power import TTestPower

    if distance <= 0 or smallest_p(pairs) > level:
        return 0.0
    effect = min(distance / deviation, 5.0) if deviation else 5.0  # beyond that, the number of flips limits the power
    power = TTestPower().power(effect, pairs, level, alternative="larger")
    return float(np.nan_to_num(power, nan=1.0))  # scipy's distribution has NaN in places where the power is 1
