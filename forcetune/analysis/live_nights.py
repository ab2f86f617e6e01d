"""Verdicts on the differences of pairs in which both runs live, night by night."""

import numpy as np

from forcetune.analysis.wealth import FIRST_SHARE, RunningSpread, Wealth, adjust_for_family, lean

STAKES = (0.2, 0.5)  # of the wealth, for a difference of a deviation
# The hypotheses, by their centre in margins, and the direction in which the bets against them win.
ABOVE_ZERO, BELOW_ZERO, BELOW_MARGIN, ABOVE_MINUS_MARGIN, ABOVE_MARGIN, BELOW_MINUS_MARGIN = range(6)
CENTRES_IN_MARGINS = (0, 0, 1, -1, 1, -1)
DIRECTIONS = (1, -1, -1, 1, 1, -1)


class LiveNights:
    """The verdicts on live differences of a batch of comparisons, from pairs that arrive night by night.

    `beats` needs evidence against a mean of at most 0, `loses` against one of at least 0, `ties` against both a mean at
    the margin or above it and one at minus the margin or below it. A tie gives way to a difference only where that is
    larger than the margin. Where a verdict gives way to another one all bets begin anew; nothing else ends them.

    All false verdicts on comparisons that stay as they are, on all nights together, have a probability of at most the
    level. By Bonferroni's method each of m comparisons has the share level / m, so it is enough to bound one of them
    [Ville 1939, for each window of bets]:

    - Its mean is the margin or more: both `ties` and `loses` need bets against that to win. A bet against a mean of at
      least 0 never wins more than the bet against one at the margin or above, and the bets for a tie count with their
      poorer half. So both errors need the same wealth to exceed m / level.
    - Its mean is 0: `beats` and `loses` need 2 m / level, each of one wealth. Where a tie stands they need more.
    - Its mean lies between: `loses` needs 2 m / level. Bets begin anew where `beats` gives way to `ties`, both of which
      are true. From there on only an error changes the verdict, and has half of the share again.

    A family that grows from m to n comparisons may err with level * (1 + log(n / m)): those that were there before have
    spent their larger shares.

    Args:
        shape: The shape of the batch; the comparisons of the last axis are judged together.
        margin: The difference below which a difference does not matter, in the unit of the differences.
        level: The level of the tests.

    Attributes:
        verdicts: The verdicts that stand, of the batch's shape.
        p_difference: The p of the differences that could change the verdict, corrected by Bonferroni's method along the
            last axis, of the batch's shape; NaN before a pair.
        p_equivalence: The p of no tie, corrected in the same way; 1 where a tie stands.
        leanings: `beats` or `loses` where the differences lean that way, else `undecided`, of the batch's shape.
        nearest: The verdicts that are nearest to standing in place of the present ones, of the batch's shape.
        progress: The part of the way to them, from 0 to 1, of the batch's shape.
        needed: The number of pairs after which they would stand if the evidence went on growing as it has grown, of the
            batch's shape; infinite where it does not grow.
    """

    def __init__(self, shape: tuple[int, ...], margin: float, level: float) -> None:
        columns = (-1, *[1] * len(shape))
        self._centres = margin * np.array(CENTRES_IN_MARGINS).reshape(columns)
        self._directions = np.array(DIRECTIONS).reshape(columns)
        self._level = level
        self._wealth = Wealth(len(DIRECTIONS), shape, STAKES)
        self._spread = RunningSpread(shape)
        self._largest = np.zeros((len(DIRECTIONS) + 1, *shape))  # the wealth against each hypothesis, and for a tie
        self._pairs = np.zeros(shape, int)
        self._restarted_at = np.zeros(shape, int)
        self.verdicts = np.full(shape, "undecided")
        self.p_difference = np.full(shape, np.nan)
        self.p_equivalence = np.full(shape, np.nan)
        self.leanings = np.full(shape, "undecided")
        self.nearest = np.full(shape, "undecided")
        self.progress = np.zeros(shape)
        self.needed = np.full(shape, np.inf)

    def add(self, differences: np.ndarray) -> None:
        """Add one pair of each comparison.

        Args:
            differences: The differences, of the batch's shape; NaN where a comparison has no pair.
        """
        self._wealth.bet(self._standardize(differences), self._spread.compute_caution(self._directions))
        self._spread.add(differences)
        self._pairs += ~np.isnan(differences)

    def judge(self) -> None:
        """Judge the comparisons at the end of a night."""
        totals = self._wealth.compute_totals()
        tie = self._wealth.compute_joint_total(BELOW_MARGIN, ABOVE_MINUS_MARGIN)
        np.maximum(self._largest, np.concatenate([totals, tie[None]]), out=self._largest)
        upwards, downwards, tied = self._select_p()
        differ = np.minimum(2 * np.minimum(upwards, downwards), 1)
        self.p_difference, self.p_equivalence = adjust_for_family(differ), adjust_for_family(tied)
        self.leanings = lean(self._largest[ABOVE_ZERO], self._largest[BELOW_ZERO])
        verdicts = np.where(
            self.p_equivalence <= self._level,
            "ties",
            np.where(self.p_difference <= self._level, np.where(upwards < downwards, "beats", "loses"), self.verdicts),
        )
        changes = (verdicts != self.verdicts) & (self.verdicts != "undecided")
        self.verdicts = verdicts
        self._restart(changes)
        self._measure_progress(*self._select_p())

    def _standardize(self, differences: np.ndarray) -> np.ndarray:
        """Return the distances from the centres in deviations; NaN where there is no pair, or no deviation yet."""
        deviation = self._spread.deviation
        distances = self._directions * (differences - self._centres)
        with np.errstate(divide="ignore", invalid="ignore"):
            outcomes = distances / deviation
        return np.where((deviation == 0) & (distances == 0), 0.0, outcomes)

    def _select_p(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the p of a change to `beats`, to `loses` and to `ties`; 1 where that stands, NaN before a pair."""
        p = 1 / np.maximum(self._largest, 1)
        is_tied = self.verdicts == "ties"
        upwards = np.where(is_tied, p[ABOVE_MARGIN], p[ABOVE_ZERO])
        downwards = np.where(is_tied, p[BELOW_MINUS_MARGIN], p[BELOW_ZERO])
        changes = {"beats": upwards, "loses": downwards, "ties": p[-1]}
        selected = [np.where(self.verdicts == verdict, 1.0, change) for verdict, change in changes.items()]
        upwards, downwards, tied = (np.where(self._pairs > 0, change, np.nan) for change in selected)
        return upwards, downwards, tied

    def _measure_progress(self, upwards: np.ndarray, downwards: np.ndarray, tied: np.ndarray) -> None:
        """Measure how far the nearest verdict is, at the level that Bonferroni's correction leaves."""
        comparisons = np.maximum((self._pairs > 0).sum(-1, keepdims=True), 1)
        price = np.log(len(STAKES) / FIRST_SHARE)  # the most that the division of the money costs the best bet
        candidates = {"beats": (upwards, 2), "loses": (downwards, 2), "ties": (tied, 1)}
        way = np.stack(
            [-np.log(np.nan_to_num(p, nan=1.0)) for p, _ in candidates.values()],
        )
        ends = np.stack([np.log(directions * comparisons / self._level) for _, directions in candidates.values()])
        fractions = way / ends
        best = fractions.argmax(0)
        self.progress = np.clip(fractions.max(0), 0, 1) + 0.0  # no negative 0
        self.nearest = np.where(self.progress > 0, np.array([*candidates])[best], self.verdicts)
        best_way = np.take_along_axis(way, best[None], 0)[0]
        best_end = np.take_along_axis(np.broadcast_to(ends, way.shape), best[None], 0)[0]
        pairs = self._pairs - self._restarted_at
        ratio = (best_end + price) / (best_way + price)
        self.needed = np.where(best_way > 0, self._restarted_at + np.ceil(pairs * np.maximum(ratio, 1)), np.inf)

    def _restart(self, changes: np.ndarray) -> None:
        self._wealth.restart(changes)
        self._largest[..., changes] = 0
        self._restarted_at[changes] = self._pairs[changes]
