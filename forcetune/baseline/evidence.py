"""The evidence of comparisons: test accuracies of a champion and its twin, seed by seed, and the runs that collapsed.

A run has collapsed if the pruning left no path from input to output, so that nothing was trained; if its training
diverged, because a loss or an objective was not a number; or if it was trained and guesses. Each of these is an effect
of the mask. A run that fails for another reason, or breaks a constraint of the study, says nothing of its pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.analysis import Pairs
from forcetune.analysis.effects import ACCURACY_POINTS
from forcetune.baseline.champions import format_band
from forcetune.baseline.twins import COMPARISON_SEED_OFFSET, Comparison
from forcetune.study import Companion, Study

# Of a difference in points. What lies below is rounding, which must not put a difference on one side of the margin:
# (0.03 - 0.025) * 100 is below 0.5 in floats.
DIFFERENCE_DIGITS = 9


@dataclass(frozen=True)
class Margins:
    """The differences below which two networks are as good as each other.

    Attributes:
        accuracy: The difference in points of accuracy.
        collapses: The difference of two rates of collapses, from 0 to 1.
    """

    accuracy: float
    collapses: float


@dataclass(frozen=True)
class Arm:
    """One run of a pair.

    Attributes:
        accuracy: The test accuracy, from 0 to 1; NaN where the run has collapsed.
        has_collapsed: Whether the run has collapsed or diverged.
        has_diverged: Whether its training has diverged.
    """

    accuracy: float
    has_collapsed: bool = False
    has_diverged: bool = False


@dataclass(frozen=True)
class Pair:
    """The two runs of one seed of a comparison.

    Attributes:
        seed: The seed that both runs share.
        night: The date of the night that asked for the later run; empty where no night did.
        champion: The champion's run.
        twin: The twin's run.
    """

    seed: int
    night: str
    champion: Arm
    twin: Arm

    @property
    def is_live(self) -> bool:
        """Whether neither run has collapsed."""
        return not (self.champion.has_collapsed or self.twin.has_collapsed)

    @property
    def has_diverged(self) -> bool:
        """Whether the training of a run has diverged."""
        return self.champion.has_diverged or self.twin.has_diverged

    @property
    def difference(self) -> float:
        """The champion's accuracy minus the twin's, in points; NaN where a run has collapsed."""
        return round((self.champion.accuracy - self.twin.accuracy) * ACCURACY_POINTS, DIFFERENCE_DIGITS)


def collect_pairs(pairs: Sequence[Pair]) -> Pairs:
    """Return pairs in the form in which verdicts take them."""
    return Pairs(
        np.array([pair.difference for pair in pairs if pair.is_live], float),
        np.array([pair.champion.has_collapsed for pair in pairs], bool),
        np.array([pair.twin.has_collapsed for pair in pairs], bool),
    )


class EndedCompanions:
    """The companions of a study that have ended, by their keys.

    Args:
        study: The study.
        table: The companions, as `tracking.load_companions` returns them; None where there are none.
        chance: The accuracy of guessing, from 0 to 1; None where it is unknown, and no trained run counts as collapsed.
    """

    def __init__(self, study: Study, table: pd.DataFrame | None, chance: float | None = None) -> None:
        self._chance = chance
        ended_rows = [] if table is None or table.empty else table.dropna(subset="outcome").to_dict("records")
        self._rows = {row["trial"]: row for row in ended_rows}
        first_seed = study.first_fresh_seed + COMPARISON_SEED_OFFSET
        self._seeds = sorted({int(row["seed"]) for row in ended_rows if row["seed"] >= first_seed})

    def find_missing(self, wanted: Iterable[Companion]) -> list[Companion]:
        """Return the companions that have not ended, each once.

        Args:
            wanted: The companions to look for.
        """
        return list({companion.key: companion for companion in wanted if companion.key not in self._rows}.values())

    def find_pairs(self, comparison: Comparison, seeds: Iterable[int] | None = None) -> list[Pair]:
        """Return the pairs of a comparison of which both runs count.

        Args:
            comparison: The comparison.
            seeds: The seeds of the pairs; None takes all seeds.
        """
        pairs = []
        for seed in self._seeds if seeds is None else seeds:
            rows = [self._rows.get(companion.key, {}) for companion in comparison.make_companions(seed)]
            champion, twin = map(self._read_arm, rows)
            if champion and twin:
                pairs.append(Pair(seed, max(map(_get_night, rows)), champion, twin))
        return pairs

    def count_lost(self, comparison: Comparison, seeds: Iterable[int]) -> int:
        """Count the seeds that say nothing because a run has failed.

        Args:
            comparison: The comparison.
            seeds: The seeds to count.
        """
        return sum(any(self._is_lost(companion) for companion in comparison.make_companions(seed)) for seed in seeds)

    def _is_lost(self, companion: Companion) -> bool:
        row = self._rows.get(companion.key)
        return row is not None and self._read_arm(row) is None

    def _read_arm(self, row: Mapping[Any, Any]) -> Arm | None:
        """Return a run of a pair; None where it has not ended, or says nothing."""
        if analysis.has_diverged(row.get("outcome"), row.get("reason")):
            return Arm(np.nan, has_collapsed=True, has_diverged=True)
        if row.get("outcome") == "collapsed":
            return Arm(np.nan, has_collapsed=True)
        accuracy = row.get("test_accuracy", np.nan)
        if row.get("outcome") != "trained" or pd.isna(accuracy):
            return None
        return Arm(np.nan, has_collapsed=True) if self._is_guessing(accuracy) else Arm(float(accuracy))

    def _is_guessing(self, accuracy: float) -> bool:
        return self._chance is not None and accuracy < analysis.find_least_accuracy({"val_accuracy": self._chance})


def judge_comparisons(
    comparisons: Sequence[Comparison], companions: EndedCompanions, seeds: Sequence[int], margins: Margins
) -> pd.DataFrame:
    """Judge comparisons together, by the pairs that have these seeds.

    Args:
        comparisons: The comparisons.
        companions: The companions that have ended.
        seeds: The seeds of the pairs.
        margins: The differences below which two networks are as good as each other.

    Returns:
        A row for each comparison: study, champion, trial (the champion's key), method, sparsity, band, kind, against,
        accuracy and twin_accuracy (means over the pairs in which both runs live, from 0 to 1), lost (the number of
        pairs that say nothing because a run has failed), diverged (the number of pairs with a run that diverged, which
        counts as a collapse), and the columns of `analysis.Verdict`, with mean and interval in points.
    """
    pairs = [companions.find_pairs(comparison, seeds) for comparison in comparisons]
    judged = analysis.judge(
        [collect_pairs(sample) for sample in pairs], margins.accuracy, collapse_margin=margins.collapses
    )
    rows = [
        {
            **describe_comparison(comparison),
            **_accuracy_columns(sample),
            "lost": companions.count_lost(comparison, seeds),
            "diverged": sum(pair.has_diverged for pair in sample),
            **verdict.columns(),
        }
        for comparison, sample, verdict in zip(comparisons, pairs, judged, strict=True)
    ]
    return _cast_needed(pd.DataFrame(rows))


def judge_pooled(
    comparisons: Sequence[Comparison], companions: EndedCompanions, seeds: Sequence[int], margins: Margins
) -> pd.DataFrame:
    """Judge the champions of one method and band together, where there are several.

    Champions that share a seed share their data and initial weights: their differences are averaged seed by seed, over
    the champions whose pair lives. A seed counts as a collapse of an arm where the run of any champion collapsed in
    that arm. These verdicts are a family of their own, with 5 % of its own.

    Args:
        comparisons: The comparisons.
        companions: The companions that have ended.
        seeds: The seeds of the pairs.
        margins: The differences below which two networks are as good as each other.

    Returns:
        A row for each method, band and rival, with the columns of `judge_comparisons`.
    """
    groups: dict[tuple[object, ...], list[Comparison]] = {}
    for comparison in comparisons:
        key = comparison.champion.label, comparison.champion.band, comparison.against
        groups.setdefault(key, []).append(comparison)
    several = [group for group in groups.values() if len(group) > 1]
    pairs = [[companions.find_pairs(comparison, seeds) for comparison in group] for group in several]
    judged = analysis.judge(
        [_pool_pairs(group, seeds) for group in pairs], margins.accuracy, collapse_margin=margins.collapses
    )
    rows = [
        {
            **describe_comparison(group[0]),
            "champion": f"{len(group)} champions",
            "trial": None,
            "sparsity": np.nan,
            **_accuracy_columns(list(chain(*samples))),
            "lost": 0,  # the rows of the champions count these
            "diverged": 0,
            **verdict.columns(),
        }
        for group, samples, verdict in zip(several, pairs, judged, strict=True)
    ]
    return _cast_needed(pd.DataFrame(rows))


def describe_comparison(comparison: Comparison) -> dict[str, object]:
    """Return the columns that identify a comparison."""
    champion = comparison.champion
    return {
        "study": champion.study,
        "champion": champion.name,
        "trial": champion.key,
        "method": champion.label,
        "sparsity": champion.sparsity,
        "band": format_band(champion.band),
        "kind": comparison.kind,
        "against": comparison.against,
    }


def _pool_pairs(group: Sequence[Sequence[Pair]], seeds: Sequence[int]) -> Pairs:
    """Return the pairs of several champions as one pair a seed."""
    by_seed = {seed: [pair for sample in group for pair in sample if pair.seed == seed] for seed in seeds}
    seed_pairs = [pairs for pairs in by_seed.values() if pairs]
    return Pairs(
        analysis.pool_by_seed([_align_differences(sample, seeds) for sample in group]).round(DIFFERENCE_DIGITS),
        np.array([any(pair.champion.has_collapsed for pair in pairs) for pairs in seed_pairs], bool),
        np.array([any(pair.twin.has_collapsed for pair in pairs) for pairs in seed_pairs], bool),
    )


def _align_differences(pairs: Sequence[Pair], seeds: Sequence[int]) -> np.ndarray:
    """Return the differences of the pairs, (seeds,), in the order of the seeds; NaN where no pair of a seed lives."""
    differences = {pair.seed: pair.difference for pair in pairs}
    return np.array([differences.get(seed, np.nan) for seed in seeds])


def _cast_needed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype({"needed": "Int64"}) if len(rows) else rows


def _accuracy_columns(pairs: Sequence[Pair]) -> dict[str, float]:
    live = [pair for pair in pairs if pair.is_live]
    return {
        "accuracy": float(np.mean([pair.champion.accuracy for pair in live])) if live else np.nan,
        "twin_accuracy": float(np.mean([pair.twin.accuracy for pair in live])) if live else np.nan,
    }


def _get_night(row: Mapping[Any, Any]) -> str:
    night = row.get("night")
    return night if isinstance(night, str) else ""
