"""A champion against its random twins: paired differences, judged by exact sign flips, equivalence beside difference.

The arms of a pair share everything but their masks. If the mask does not matter, they are exchangeable: a difference
is as likely with the other sign, so all 2**n flips of n signs are equally likely, whatever the distribution. That makes
the test of a difference exact at any number of pairs. The tests against the margin flip around the margin, where no
exchange of arms stands behind it: they assume that differences are symmetric about their mean. Where they are not, all
is as good as the pairs are many, for what no pair has shown is in no interval: benchmarks/verdicts.py prints how good
that is where a twin collapses in some runs.
"""

import gc
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forcetune.analysis.flips import above, least

CONFIDENCE = 0.95
POWER = 0.8
MOST = 1000  # pairs; nobody waits for more


@dataclass(frozen=True)
class Verdict:
    """What `pairs` differences, champion minus twin, say.

    mean, low, high: of the differences, in their unit, with Student's 95 % interval of the mean (NaN below two pairs).
    p_difference: two-sided, that the mean is 0. p_equivalence: that it lies at the margin or beyond, the larger of two
    one-sided p (TOST). Each is multiplied by what the look costs, then adjusted by Holm over all that was judged
    together, in a family of its own. least_p: the smallest unadjusted two-sided p that the flips of so many pairs
    allow. verdict: `beats`, `ties`, `loses` or `undecided`. needed: where undecided, the pairs in all that would settle
    it in four of five cases if mean and deviation are what they look like and a look costs what this one did; None
    where that cannot be told or is more than 1000.
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
    """Judge comparisons together, each by its paired differences (pairs,), perhaps none.

    margin: differences below it do not matter, in the unit of the differences. cost: for each comparison the factor
    that a look multiplies its p by. It ties where it is shown to lie within the margin, even if it is shown to differ
    from 0: the interval says so. Comparisons without a pair are not counted in the family.
    ValueError for a negative margin and for differences that are not finite.
    """
    samples = [np.asarray(found, float) for found in differences]
    if margin < 0 or not all(np.isfinite(sample).all() for sample in samples):
        raise ValueError(f"differences must be finite and the margin at least 0, not {margin}")
    costs = np.ones(len(samples)) if cost is None else np.asarray(cost, float)
    strictest = alpha / costs / max(1, sum(len(sample) > 0 for sample in samples))
    tests = [_adjusted(p * costs) for p in _tests(samples, margin)]
    verdicts = []
    for sample, differ, alike, level in zip(samples, *tests, strictest, strict=True):
        mean, low, high = interval(sample)
        told = _told(mean, differ, alike, alpha)
        needed = _needed(sample, margin, level) if told == "undecided" else None
        smallest = min(1.0, 2 * least(len(sample)))
        verdicts.append(Verdict(len(sample), mean, low, high, float(differ), float(alike), smallest, told, needed))
    return verdicts


def fewest_pairs(comparisons: int, alpha: float = 0.05) -> int:
    """Return the fewest pairs with which each of so many comparisons, judged together, can have a verdict.

    The smallest two-sided p of n pairs is 2 / 2**n, which Holm's correction multiplies by the number of comparisons.
    """
    return next(pairs for pairs in range(1, MOST) if 2 * least(pairs) * comparisons <= alpha)


def shown_effect(pairs: int, comparisons: int, alpha: float = 0.05) -> float:
    """Return the mean difference that pairs show in four of five cases, in standard deviations of their differences.

    It is that of Student's test at the level of Holm's first step; infinite where so many pairs allow no verdict.
    """
    from statsmodels.stats.power import TTestPower

    level = alpha / max(1, comparisons)
    if pairs < 2 or 2 * least(pairs) > level:
        return float("inf")
    return float(TTestPower().solve_power(nobs=pairs, alpha=level, power=POWER, alternative="two-sided"))


def paired(sample: np.ndarray) -> tuple[float, float, float, float]:
    """Of differences (pairs,): the mean, Student's 95 % interval of it, the exact p by sign flips that it is 0."""
    return (*interval(sample), float(_tests([sample], 0.0)[0][0]))


def holm(p: np.ndarray) -> np.ndarray:
    """Each p adjusted for all that are not NaN."""
    return _adjusted(p)


def pooled(differences: Sequence[np.ndarray]) -> np.ndarray:
    """Differences of several champions over the same seeds, each (seeds,), averaged by seed; NaN where one is missing.

    Champions share a seed's split and initial weights, so they are no independent pairs: a seed counts once.
    Seeds that no champion has are dropped. ValueError where lengths differ.
    """
    if not len(differences):
        return np.empty(0)
    table = np.stack([np.asarray(found, float) for found in differences])
    return np.asarray(np.nanmean(table[:, ~np.isnan(table).all(0)], axis=0))


def _told(mean: float, differ: float, alike: float, alpha: float) -> str:
    if alike <= alpha:
        return "ties"
    if differ <= alpha:
        return "beats" if mean > 0 else "loses"
    return "undecided"


def _tests(samples: Sequence[np.ndarray], margin: float) -> tuple[np.ndarray, np.ndarray]:
    """For each sample the p of no difference, and the p of a difference at the margin or beyond; NaN without pairs."""
    differ, alike = np.full((2, len(samples)), np.nan)
    sizes = np.array([len(sample) for sample in samples], int)
    for pairs in set(sizes[sizes > 0]):
        these = sizes == pairs
        block = np.stack([sample for sample in samples if len(sample) == pairs], axis=1)
        upwards = block * np.where(block.mean(0) < 0, -1, 1)  # flips are symmetric: the other side has the larger p
        differ[these] = np.minimum(1, 2 * above(upwards))
        alike[these] = np.maximum(above(block + margin), above(margin - block))
    return differ, alike


def _adjusted(p: np.ndarray) -> np.ndarray:
    """By Holm, over those that are not NaN."""
    from statsmodels.stats.multitest import multipletests

    found, known = np.minimum(p, 1), ~np.isnan(p)
    if known.sum() > 1:  # one stays as it is, and the call is slow
        gc.freeze()  # it collects garbage each time, which beside torch would take a third of a second
        try:
            found[known] = multipletests(found[known], method="holm")[1]
        finally:
            gc.unfreeze()
    return found


def interval(sample: np.ndarray) -> tuple[float, float, float]:
    """The mean of differences (pairs,) and Student's 95 % interval of it; NaN where there are too few."""
    from scipy import stats

    if len(sample) < 2:
        return float(sample.mean()) if len(sample) else np.nan, np.nan, np.nan
    mean, error = float(sample.mean()), sample.std(ddof=1) / np.sqrt(len(sample))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1) * error)
    return mean, mean - half, mean + half


def _needed(sample: np.ndarray, margin: float, level: float) -> int | None:
    """The fewest pairs, more than there are, with which a difference or equivalence would be shown."""
    if len(sample) < 2:
        return None
    mean, deviation = abs(float(sample.mean())), float(sample.std(ddof=1))

    def differs(pairs: int) -> float:
        return _power(mean, deviation, pairs, level / 2)

    def ties(pairs: int) -> float:
        near, far = (_power(margin + sign * mean, deviation, pairs, level) for sign in (-1, 1))
        return near + far - 1  # at least so often both sides are shown

    sizes = [_fewest(differs, len(sample) + 1), _fewest(ties, len(sample) + 1)]
    return min((size for size in sizes if size <= MOST), default=None)


def _fewest(power: Callable[[int], float], start: int) -> int:
    return start + bisect_left(range(start, MOST + 1), POWER, key=power)


def _power(distance: float, deviation: float, pairs: int, level: float) -> float:
    """How often a one-sided t test sees that distance; 0 where the pairs are too few for such a level."""
    from statsmodels.stats.power import TTestPower

    if distance <= 0 or least(pairs) > level:
        return 0.0
    effect = min(distance / deviation, 5.0) if deviation else 5.0  # beyond that, the flips are what it takes
    power = TTestPower().power(effect, pairs, level, alternative="larger")
    return float(np.nan_to_num(power, nan=1.0))  # scipy's distribution has holes where it is 1
