"""The evidence of comparisons: test accuracies of a champion and its twin, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.analysis.effects import ACCURACY_POINTS
from forcetune.baseline.champions import format_band
from forcetune.baseline.twins import COMPARISON_SEED_OFFSET, Comparison
from forcetune.study import Companion, Study

# The reason of a failed trial begins with one of these where its loss or its objective is not a number.
DIVERGENCE_PREFIXES = ("Diverged: ", "the objective ")


@dataclass(frozen=True)
class Pair:
    """The two runs of one seed of a comparison.

    Attributes:
        seed: The seed that both runs share.
        night: The date of the night that asked for the later run; empty where no night did.
        champion_accuracy: The champion's test accuracy, from 0 to 1.
        twin_accuracy: The twin's test accuracy, from 0 to 1.
        has_diverged: Whether a run of the pair has diverged, and counts at the accuracy of guessing.
    """

    seed: int
    night: str
    champion_accuracy: float
    twin_accuracy: float
    has_diverged: bool = False

    @property
    def difference(self) -> float:
        """The champion's accuracy minus the twin's, in points."""
        return (self.champion_accuracy - self.twin_accuracy) * ACCURACY_POINTS


class EndedCompanions:
    """The companions of a study that have ended, by their keys.

    Args:
        study: The study.
        table: The companions, as `tracking.load_companions` returns them; None where there are none.
        chance: The accuracy of guessing, from 0 to 1, at which a training that diverged counts; None where it is
            unknown.
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
            champion, twin = map(self._get_accuracy, rows)
            if champion is not None and twin is not None:
                pairs.append(Pair(seed, max(map(_get_night, rows)), champion, twin, any(map(_has_diverged, rows))))
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
        return row is not None and self._get_accuracy(row) is None

    def _get_accuracy(self, row: Mapping[Any, Any]) -> float | None:
        """Return the accuracy that a run counts with; None where it has not ended, or does not count."""
        if _has_accuracy(row):
            return float(row["test_accuracy"])
        return self._chance if _has_diverged(row) else None


def judge_comparisons(
    comparisons: Sequence[Comparison], companions: EndedCompanions, seeds: Sequence[int], margin: float
) -> pd.DataFrame:
    """Judge comparisons together, by the pairs that have these seeds.

    Args:
        comparisons: The comparisons.
        companions: The companions that have ended.
        seeds: The seeds of the pairs.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.

    Returns:
        A row for each comparison: study, champion, trial (the champion's key), method, sparsity, band, kind, against,
        accuracy and twin_accuracy (means, from 0 to 1), lost (the number of pairs that say nothing because a run has
        failed), diverged (the number of pairs with a run that diverged, which counts at chance), and the columns of
        `analysis.Verdict`, with mean and interval in points.
    """
    pairs = [companions.find_pairs(comparison, seeds) for comparison in comparisons]
    judged = analysis.judge([np.array([pair.difference for pair in sample]) for sample in pairs], margin)
    rows = [
        {
            **describe_comparison(comparison),
            **_accuracy_columns(sample),
            **_fault_columns(sample, companions.count_lost(comparison, seeds)),
            **asdict(verdict),
        }
        for comparison, sample, verdict in zip(comparisons, pairs, judged, strict=True)
    ]
    return _cast_needed(pd.DataFrame(rows))


def judge_pooled(
    comparisons: Sequence[Comparison], companions: EndedCompanions, seeds: Sequence[int], margin: float
) -> pd.DataFrame:
    """Judge the champions of one method and band together, where there are several.

    Champions that share a seed share their data and initial weights: their differences are averaged seed by seed.

    Args:
        comparisons: The comparisons.
        companions: The companions that have ended.
        seeds: The seeds of the pairs.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.

    Returns:
        A row for each method, band and rival, with the columns of `judge_comparisons`.
    """
    groups: dict[tuple[object, ...], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.champion.label, comparison.champion.band, comparison.against), []).append(
            comparison
        )
    several = [group for group in groups.values() if len(group) > 1]
    pairs = [[companions.find_pairs(comparison, seeds) for comparison in group] for group in several]
    differences = [analysis.pool_by_seed([_align_differences(sample, seeds) for sample in group]) for group in pairs]
    judged = analysis.judge(differences, margin)
    rows = [
        {
            **describe_comparison(group[0]),
            **_group_columns(group),
            **_accuracy_columns(list(chain(*samples))),
            **_fault_columns([], 0),  # the rows of the champions count them
            **asdict(verdict),
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


def _align_differences(pairs: Sequence[Pair], seeds: Sequence[int]) -> np.ndarray:
    """Return the differences of the pairs, (seeds,), in the order of the seeds; NaN where a seed has no pair."""
    differences = {pair.seed: pair.difference for pair in pairs}
    return np.array([differences.get(seed, np.nan) for seed in seeds])


def _cast_needed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype({"needed": "Int64"}) if len(rows) else rows


def _group_columns(group: Sequence[Comparison]) -> dict[str, object]:
    return {"champion": f"{len(group)} champions", "trial": None, "sparsity": np.nan}


def _fault_columns(pairs: Sequence[Pair], lost: int) -> dict[str, int]:
    return {"lost": lost, "diverged": sum(pair.has_diverged for pair in pairs)}


def _accuracy_columns(pairs: Sequence[Pair]) -> dict[str, float]:
    return {
        "accuracy": float(np.mean([pair.champion_accuracy for pair in pairs])) if pairs else np.nan,
        "twin_accuracy": float(np.mean([pair.twin_accuracy for pair in pairs])) if pairs else np.nan,
    }


def _has_accuracy(row: Mapping[Any, Any]) -> bool:
    return row.get("outcome") in analysis.COUNTED_OUTCOMES and not pd.isna(row.get("test_accuracy", np.nan))


def _has_diverged(row: Mapping[Any, Any]) -> bool:
    """Return whether a training ended with numbers that are not finite.

    That is no accident, but an effect of the mask.
    """
    reason = row.get("reason")
    return row.get("outcome") == "failed" and isinstance(reason, str) and reason.startswith(DIVERGENCE_PREFIXES)


def _get_night(row: Mapping[Any, Any]) -> str:
    night = row.get("night")
    return night if isinstance(night, str) else ""
