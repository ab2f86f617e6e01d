"""Verdicts on pairs of a champion and its twin, in two parts: accuracy where both runs live, and collapses.

The arms of a pair share everything but their masks. A run that collapses or diverges has no accuracy to compare, and
an average over such runs and others says nothing. So the accuracies are tested where both runs live (`live`), and the
collapses are counted beside them (`collapses`). `beats` and `loses` need one part that says so, while the other part
does not contradict it. benchmarks/verdicts.py prints how often the verdicts are wrong.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forcetune.analysis.collapses import DEFAULT_COLLAPSE_MARGIN, Collapses, compare_collapses
from forcetune.analysis.flips import smallest_p
from forcetune.analysis.live import run_live_tests
from forcetune.analysis.pairs import Pairs, combine_parts, find_leaning

CONFIDENCE = 0.95  # of all intervals
POWER = 0.8  # the share of cases in which a number of pairs shows an effect
MAX_PAIRS = 1000  # more would take longer than a user waits
LIVE_SHARE = 0.9  # of the level of the tests, for accuracy where both runs live; collapses have the remainder


@dataclass(frozen=True)
class Decision:
    """The decision of the tests of both parts on a comparison.

    The two p values of the live pairs are adjusted by Holm's method over all comparisons that are judged together: the
    p of differences as one family, the p of equivalence as another.

    Attributes:
        p_difference: The two-sided p of a mean difference of 0, by sign flips.
        p_equivalence: The p of a mean at the margin or beyond, the larger of two one-sided p (TOST), by sign flips.
        live_verdict: `beats`, `ties`, `loses` or `undecided`, on the accuracy where both runs live.
        assumes_symmetry: Whether the live verdict holds only under symmetric differences.
        collapses: The collapses and divergences of both arms, and the verdict on them.
        verdict: The verdict on both parts, as `combine_parts` returns it.
    """

    p_difference: float
    p_equivalence: float
    live_verdict: str
    assumes_symmetry: bool
    collapses: Collapses
    verdict: str

    @property
    def statement(self) -> str:
        """The verdict in words, with its assumption, and with the part that is not settled."""
        symmetry = " under symmetric differences" if self.assumes_symmetry else ""
        live, collapses = f"{self.live_verdict}{symmetry}", self.collapses.verdict
        if collapses not in ("undecided", "ties") and self.verdict == self.live_verdict == "undecided":
            contradiction = "loses" if collapses == "beats" else "beats"
            return f"undecided: leans to {contradiction} where both live; {collapses} by collapses"
        if collapses not in ("undecided", "ties", self.live_verdict):
            statement = f"{live} where both live; {collapses} by collapses"
        elif collapses == "ties" and self.verdict != self.live_verdict:
            arm = "champion" if self.collapses.champion > self.collapses.twin else "twin"
            statement = f"{live} where both live; the {arm} collapses more often, by less than the margin"
        elif collapses == "undecided" and self.live_verdict != "undecided":
            bound = f"{100 * self.collapses.bound:.0f} %"
            statement = f"{self.live_verdict} where both live{symmetry}; collapses: at most {bound}"
        else:
            statement = live
        return statement if self.verdict == self.live_verdict else f"{self.verdict}: {statement}"

    @property
    def needs_live_pairs(self) -> bool:
        """Whether more live pairs could give a verdict: none is reached, on the live pairs neither."""
        return self.verdict == self.live_verdict == "undecided"


@dataclass(frozen=True)
class Verdict(Decision):
    """A verdict on pairs of a champion and its twin.

    Attributes:
        pairs: The number of pairs.
        live_pairs: The number of pairs in which both runs live; their differences are tested.
        mean: The mean of the differences, in their unit.
        low: The lower end of Student's 95 % interval of the mean; NaN below two pairs.
        high: The upper end of that interval.
        least_p: The smallest unadjusted two-sided p that the flips of this number of live pairs allow.
        needed: The total number of live pairs that would settle the live verdict in four of five cases, if the mean
            and the deviation are as observed; None where a verdict is reached, where the live pairs are settled and
            only the collapses are not, and where the number cannot be computed or is more than 1000.
    """

    pairs: int
    live_pairs: int
    mean: float
    low: float
    high: float
    least_p: float
    needed: int | None

    def columns(self) -> dict[str, Any]:
        """Return the verdict as columns of a table.

        Returns:
            The attributes, the statement, and of the collapses: champion_collapses and twin_collapses (the numbers of
            runs), the ends of their exact 95 % intervals with `_low` and `_high`, collapse_p, collapse_bound and
            collapse_verdict.
        """
        attributes = {name: value for name, value in vars(self).items() if name != "collapses"}
        collapses = self.collapses
        return {
            **attributes,
            "statement": self.statement,
            **_make_arm_columns("champion_collapses", collapses.champion, collapses.champion_interval),
            **_make_arm_columns("twin_collapses", collapses.twin, collapses.twin_interval),
            "collapse_p": collapses.p_difference,
            "collapse_bound": collapses.bound,
            "collapse_verdict": collapses.verdict,
        }


def judge(
    comparisons: Sequence[Pairs],
    margin: float,
    alpha: float = 0.05,
    collapse_margin: float = DEFAULT_COLLAPSE_MARGIN,
) -> list[Verdict]:
    """Judge comparisons together, each by its pairs.

    A comparison ties if its mean is shown to lie within the margin, even if the mean is also shown to differ from 0:
    the interval says so. Comparisons without a pair do not count in the family.

    Args:
        comparisons: The pairs of each comparison.
        margin: The difference below which a difference does not matter, in the unit of the differences.
        alpha: The error of both parts together: .9 of it for the differences, .1 for the collapses.
        collapse_margin: The difference of two rates of collapses, from 0 to 1, below which it does not matter.

    Returns:
        A verdict for each comparison.

    Raises:
        ValueError: The margin is negative or not finite, or a difference is not finite.
    """
    level = LIVE_SHARE * alpha / max(1, sum(len(pairs.differences) > 0 for pairs in comparisons))
    verdicts = []
    for pairs, decision in zip(comparisons, decide(comparisons, margin, alpha, collapse_margin), strict=True):
        sample = np.asarray(pairs.differences, float)
        mean, low, high = student_interval(sample)
        verdicts.append(
            Verdict(
                **vars(decision),
                pairs=len(pairs),
                live_pairs=len(sample),
                mean=mean,
                low=low,
                high=high,
                least_p=min(1.0, 2 * smallest_p(len(sample))),
                needed=_find_needed_pairs(sample, margin, level) if decision.needs_live_pairs else None,
            )
        )
    return verdicts


def decide(
    comparisons: Sequence[Pairs],
    margin: float,
    alpha: float = 0.05,
    collapse_margin: float = DEFAULT_COLLAPSE_MARGIN,
    is_family: bool = True,
) -> list[Decision]:
    """Decide comparisons by the tests of both parts, without estimates, so that thousands take seconds.

    Args:
        comparisons: The pairs of each comparison.
        margin: The difference below which a difference does not matter, in the unit of the differences.
        alpha: The error of both parts together.
        collapse_margin: The difference of two rates of collapses, from 0 to 1, below which it does not matter.
        is_family: Whether the p are corrected, because the comparisons are judged together.

    Returns:
        A decision for each comparison.

    Raises:
        ValueError: The margin is negative or not finite, or a difference is not finite.
    """
    samples = [np.asarray(pairs.differences, float) for pairs in comparisons]
    if not 0 <= margin < np.inf or not all(np.isfinite(sample).all() for sample in samples):
        raise ValueError(f"differences must be finite and the margin finite and at least 0, not {margin}")
    uncorrected = run_live_tests(samples, margin)
    corrected = uncorrected.correct() if is_family else uncorrected
    leanings = find_leaning(uncorrected.p_difference, uncorrected.mean > 0)
    all_collapses = compare_collapses(comparisons, collapse_margin, (1 - LIVE_SHARE) * alpha, alpha, is_family)
    decisions = []
    for index, collapses in enumerate(all_collapses):
        live_verdict, assumes_symmetry = corrected.decide(index, LIVE_SHARE * alpha)
        decisions.append(
            Decision(
                float(corrected.p_difference[index]),
                float(corrected.p_equivalence[index]),
                live_verdict,
                assumes_symmetry,
                collapses,
                combine_parts(live_verdict, collapses.verdict, leanings[index], collapses.leaning),
            )
        )
    return decisions


def _make_arm_columns(name: str, count: int, interval: tuple[float, float]) -> dict[str, float]:
    return {name: count, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def fewest_pairs(comparisons: int, alpha: float = 0.05) -> int:
    """Return the fewest pairs with which each of several comparisons, judged together, can have a verdict.

    The smallest two-sided p of n pairs is 2 / 2**n, which Holm's correction multiplies by the number of comparisons.

    Args:
        comparisons: The number of comparisons.
        alpha: The error of both parts of the verdicts.
    """
    return next(pairs for pairs in range(1, MAX_PAIRS) if 2 * smallest_p(pairs) * comparisons <= LIVE_SHARE * alpha)


def detectable_effect(pairs: int, comparisons: int, alpha: float = 0.05) -> float:
    """Return the mean difference that pairs show in four of five cases, in standard deviations of their differences.

    It is that of Student's test at the level of Holm's first step.

    Args:
        pairs: The number of pairs of each comparison.
        comparisons: The number of comparisons that are judged together.
        alpha: The error of both parts of the verdicts.

    Returns:
        The effect; infinite where this number of pairs allows no verdict.
    """
    from statsmodels.stats.power import TTestPower

    level = LIVE_SHARE * alpha / max(1, comparisons)
    if pairs < 2 or 2 * smallest_p(pairs) > level:
        return float("inf")
    return float(TTestPower().solve_power(nobs=pairs, alpha=level, power=POWER, alternative="two-sided"))


def summarize_pairs(sample: np.ndarray) -> tuple[float, float, float, float]:
    """Return the mean of differences (pairs,), Student's 95 % interval of it, and the exact sign-flip p of 0."""
    return (*student_interval(sample), float(run_live_tests([sample], 0.0).p_difference[0]))


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
