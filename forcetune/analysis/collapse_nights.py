"""Verdicts on the collapses and divergences of both arms, night by night, and the bounds of their rates."""

import numpy as np

from forcetune.analysis.wealth import Wealth, adjust_for_family, lean

COLLAPSE_STAKES = (0.4, 0.9)  # of the wealth, on each pair in which one arm alone collapses
RATE_PRIOR = (0.5, 9.5)  # the weights of a Beta distribution with a mean of 5 %: the bound is tightest for rare ones
BISECTION_STEPS = 40


class CollapseNights:
    """The verdicts on collapses of a batch of comparisons, from pairs that arrive night by night.

    A pair in which one arm alone collapses is the only evidence on which arm collapses more often: without a difference
    it is either arm with a probability of 1/2. Bets on these pairs are exact, and so is the bound of their rates.

    Args:
        shape: The shape of the batch; the comparisons of the last axis are judged together.
        margin: The difference of two rates, from 0 to 1, below which it does not matter.
        level: The level of the test that one arm collapses more often.
        bound_level: The level of the bound, and of the test that the rates are alike.

    Attributes:
        pairs: The number of pairs, of the batch's shape.
        champion: The number of pairs in which the champion's run collapsed, of the batch's shape.
        twin: The number of pairs in which the twin's run collapsed, of the batch's shape.
        verdicts: `beats` where the champion collapses less often, `loses` where it collapses more often, `ties` where
            the rates differ by less than the margin, or `undecided`, of the batch's shape.
        leanings: `beats` or `loses` where the collapses lean that way, else `undecided`, of the batch's shape.
        p: The p of equal rates, corrected by Bonferroni's method along the last axis, of the batch's shape.
        bounds: The upper bounds of the probability that one arm alone collapses, the larger of both arms, of the
            batch's shape.
    """

    def __init__(self, shape: tuple[int, ...], margin: float, level: float, bound_level: float) -> None:
        self._margin, self._level, self._bound_level = margin, level, bound_level
        self._wealth = Wealth(2, shape, COLLAPSE_STAKES)
        self._largest = np.zeros((2, *shape))
        self._differ = np.full(shape, "undecided")
        self._alone = np.zeros((2, *shape), int)  # pairs in which the champion alone collapsed, and the twin alone
        self.pairs = np.zeros(shape, int)
        self.champion = np.zeros(shape, int)
        self.twin = np.zeros(shape, int)
        self.verdicts = np.full(shape, "undecided")
        self.leanings = np.full(shape, "undecided")
        self.p = np.full(shape, np.nan)
        self.bounds = np.ones(shape)

    def add(self, champion: np.ndarray, twin: np.ndarray) -> None:
        """Add one pair of each comparison.

        Args:
            champion: 1 where the champion's run collapsed and 0 where it lives, of the batch's shape; NaN where a
                comparison has no pair.
            twin: The same for the twin's run.
        """
        balance = twin - champion
        outcomes = np.where(balance == 0, np.nan, balance)
        self._wealth.bet(np.stack([outcomes, -outcomes]))
        self._alone += np.stack([balance < 0, balance > 0])
        self.pairs += ~np.isnan(balance)
        self.champion += champion == 1
        self.twin += twin == 1

    def judge(self) -> None:
        """Judge the comparisons at the end of a night."""
        np.maximum(self._largest, self._wealth.compute_totals(), out=self._largest)
        self.leanings = lean(*self._largest)
        p = 1 / np.maximum(self._largest, 1)
        better, worse = (np.where(self._differ == verdict, 1.0, p[i]) for i, verdict in enumerate(("beats", "loses")))
        is_tested = self.pairs > 0
        self.p = adjust_for_family(np.where(is_tested, np.minimum(2 * np.minimum(better, worse), 1), np.nan))
        differ = np.where(self.p <= self._level, np.where(better < worse, "beats", "loses"), self._differ)
        changes = (differ != self._differ) & (self._differ != "undecided")
        self._wealth.restart(changes)
        self._largest[..., changes] = 0
        self._differ = differ
        comparisons = np.maximum(is_tested.sum(-1, keepdims=True), 1)
        self.bounds = bound_rate(self._alone.max(0), self.pairs, self._bound_level / comparisons)
        self.verdicts = np.where(self.bounds < self._margin, "ties", self._differ)


def bound_rate(count: np.ndarray, runs: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """Return an upper bound of a rate that holds after every run with a probability of at least 1 - level.

    It excludes the rates under which the runs have less than level times the probability that they have under a mixture
    of all rates, a Beta distribution [Robbins 1970].

    Args:
        count: The number of runs that collapsed.
        runs: The number of runs, of a shape that fits.
        level: The probability that the bound does not hold on some night, of a shape that fits.

    Returns:
        The bounds, from 0 to 1.
    """
    from scipy.special import betaln, xlog1py, xlogy

    count, runs = np.broadcast_arrays(np.asarray(count, float), np.asarray(runs, float))
    mixture = betaln(RATE_PRIOR[0] + count, RATE_PRIOR[1] + runs - count) - betaln(*RATE_PRIOR)
    inside = np.where(runs > 0, count / np.maximum(runs, 1), 0.5)
    outside = np.ones(inside.shape)
    for _ in range(BISECTION_STEPS):
        rate = (inside + outside) / 2
        with np.errstate(divide="ignore"):
            is_excluded = mixture - xlogy(count, rate) - xlog1py(runs - count, -rate) >= -np.log(level)
        inside, outside = np.where(is_excluded, inside, rate), np.where(is_excluded, rate, outside)
    return outside
