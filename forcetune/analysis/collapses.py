"""Collapses and divergences of paired runs: exact intervals of their rates, and exact tests of which arm has more.

A pair in which one arm alone collapses is the only evidence on which arm collapses more often. Without a difference,
either arm is the one with probability 1/2 [McNemar 1947, exact form]. The rates of the arms differ by at most the
probability that one arm alone collapses, so an upper bound of that probability [Clopper and Pearson 1934] shows that
the rates are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forcetune.analysis.holm import adjust_by_holm
from forcetune.analysis.pairs import Pairs, find_leaning
from forcetune.analysis.rates import clopper_pearson

DEFAULT_COLLAPSE_MARGIN = 0.1  # 29 pairs without a collapse show that the rates differ by less


@dataclass(frozen=True)
class Collapses:
    """The collapses and divergences of one comparison.

    Attributes:
        pairs: The number of pairs.
        champion: The number of pairs in which the champion's run collapsed or diverged.
        twin: The number of pairs in which the twin's run collapsed or diverged.
        p: The two-sided p of equal rates, without a correction; NaN without a pair.
        p_difference: The same p, corrected by Holm's method for all comparisons that are judged together.
        p_equivalence: The p of rates that differ by the margin or more, corrected by Bonferroni's method.
        bound: The upper bound of the probability that one arm alone collapses, the larger of both arms. It holds for
            all comparisons together with the confidence of the test.
        verdict: `beats` where the champion collapses less often, `loses` where it collapses more often, `ties` where
            the rates differ by less than the margin, or `undecided`.
    """

    pairs: int
    champion: int
    twin: int
    p: float
    p_difference: float
    p_equivalence: float
    bound: float
    verdict: str

    @property
    def champion_interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the rate of the champion's collapses [Clopper and Pearson 1934]."""
        return clopper_pearson_interval(self.champion, self.pairs)

    @property
    def twin_interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the rate of the twin's collapses."""
        return clopper_pearson_interval(self.twin, self.pairs)

    @property
    def leaning(self) -> str:
        """The direction in which the collapses lean, as `find_leaning` returns it."""
        return str(find_leaning(self.p, self.champion < self.twin))


def compare_collapses(
    comparisons: Sequence[Pairs],
    margin: float = DEFAULT_COLLAPSE_MARGIN,
    level: float = 0.005,
    bound_level: float = 0.05,
    is_family: bool = True,
) -> list[Collapses]:
    """Compare how often the arms of comparisons collapse or diverge.

    A tie needs both this and a tie where both runs live, so its test has a level of its own.

    Args:
        comparisons: The pairs of each comparison; comparisons without a pair do not count in the family.
        margin: The difference of two rates, from 0 to 1, below which it does not matter.
        level: The level of the test that one arm collapses more often.
        bound_level: The level of the test that the rates are alike, and of the bound.
        is_family: Whether the p are corrected, because the comparisons are judged together.
    """
    from scipy import stats

    pairs = np.array([len(sample) for sample in comparisons], int)
    champion = np.array([sample.champion_alone for sample in comparisons], int)
    twin = np.array([sample.twin_alone for sample in comparisons], int)
    fewer, more, is_tested = np.minimum(champion, twin), np.maximum(champion, twin), pairs > 0
    family = max(1, int(is_tested.sum())) if is_family else 1
    p = np.where(is_tested, np.minimum(1, 2 * stats.binom.cdf(fewer, fewer + more, 0.5)), np.nan)
    p_difference = adjust_by_holm(p) if is_family else p
    p_equivalence = np.where(is_tested, np.minimum(1, family * stats.binom.cdf(more, pairs, margin)), np.nan)
    bound = np.where(more < pairs, stats.beta.ppf(1 - bound_level / family, more + 1, np.maximum(pairs - more, 1)), 1.0)
    differ = np.where(p_difference <= level, np.where(champion < twin, "beats", "loses"), "undecided")
    verdicts = np.where(p_equivalence <= bound_level, "ties", differ)
    return [
        Collapses(
            len(sample),
            int(sample.champion_collapses.sum()),
            int(sample.twin_collapses.sum()),
            float(p[index]),
            float(p_difference[index]),
            float(p_equivalence[index]),
            float(bound[index]),
            str(verdicts[index]),
        )
        for index, sample in enumerate(comparisons)
    ]


def clopper_pearson_interval(count: int, runs: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate; from 0 to 1 without a run.

    Args:
        count: The number of runs that collapsed or diverged.
        runs: The number of runs.
    """
    if not runs:
        return 0.0, 1.0
    low, high = clopper_pearson(np.array([count]), np.array([runs]))
    return float(low[0]), float(high[0])


def bound_without_collapse(pairs: int, comparisons: int = 1, level: float = 0.05) -> float:
    """Return the upper bound of the probability that one arm alone collapses, after pairs without a collapse.

    Args:
        pairs: The number of pairs of each comparison, at least 1.
        comparisons: The number of comparisons that are judged together.
        level: The probability that a bound of any comparison is wrong.
    """
    return float(1 - (level / max(1, comparisons)) ** (1 / pairs))


def fewest_pairs_without_collapse(
    comparisons: int = 1, margin: float = DEFAULT_COLLAPSE_MARGIN, level: float = 0.05
) -> int:
    """Return the fewest pairs that show, without a collapse in any, that the rates differ by less than the margin.

    Args:
        comparisons: The number of comparisons that are judged together.
        margin: The difference of two rates, from 0 to 1, below which it does not matter.
        level: The level of the test.
    """
    return int(np.ceil(np.log(level / max(1, comparisons)) / np.log1p(-margin)))
