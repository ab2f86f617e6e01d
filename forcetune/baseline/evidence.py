"""What pairs of runs say: test accuracies of a champion and its twin, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.baseline.champions import told
from forcetune.baseline.twins import COMPARED, Comparison
from forcetune.spec import Companion, Study

POINTS = 100.0  # of accuracy
# The reason of a failed trial begins with one of these where its loss or its objective is not a number.
DIVERGED = ("Diverged: ", "the objective ")


@dataclass(frozen=True)
class Pair:
    """One seed of a comparison: test accuracies from 0 to 1; night: on which the later one was asked for, or "".

    diverged: whether one of the two did, and counts at chance.
    """

    seed: int
    night: str
    champion: float
    twin: float
    diverged: bool = False

    @property
    def difference(self) -> float:
        """In points."""
        return (self.champion - self.twin) * POINTS


class Companions:
    """The companions of a study that have ended, by their keys.

    chance: the accuracy of guessing, at which a training that diverged counts; None where it is not known.
    """

    def __init__(self, study: Study, table: pd.DataFrame | None, chance: float | None = None) -> None:
        self._chance = chance
        found = [] if table is None or table.empty else table.dropna(subset="outcome").to_dict("records")
        self._rows = {row["trial"]: row for row in found}
        first = study.first_fresh_seed + COMPARED
        self._seeds = sorted({int(row["seed"]) for row in found if row["seed"] >= first})

    def lacks(self, wanted: Iterable[Companion]) -> list[Companion]:
        """Those that have not ended, each once."""
        return list({one.key: one for one in wanted if one.key not in self._rows}.values())

    def pairs(self, comparison: Comparison, seeds: Iterable[int] | None = None) -> list[Pair]:
        """Of these seeds, or all, those of which both sides count."""
        found = []
        for seed in self._seeds if seeds is None else seeds:
            sides = [self._rows.get(side.key, {}) for side in comparison.sides(seed)]
            champion, twin = map(self._accuracy, sides)
            if champion is not None and twin is not None:
                found.append(Pair(seed, max(map(_night, sides)), champion, twin, any(map(_diverged, sides))))
        return found

    def lost(self, comparison: Comparison, seeds: Iterable[int]) -> int:
        """How many of these seeds can say nothing, since a run failed."""
        return sum(any(self._failed(side) for side in comparison.sides(seed)) for seed in seeds)

    def _failed(self, side: Companion) -> bool:
        row = self._rows.get(side.key)
        return row is not None and self._accuracy(row) is None

    def _accuracy(self, row: Mapping[Any, Any]) -> float | None:
        """What a run counts with; None where it says nothing, or has not ended."""
        if _counts(row):
            return float(row["test_accuracy"])
        return self._chance if _diverged(row) else None


def verdicts(
    comparisons: Sequence[Comparison], companions: Companions, seeds: Sequence[int], margin: float
) -> pd.DataFrame:
    """One row a comparison, all judged together by these seeds.

    Its columns: study, champion, trial (the key), method, sparsity, band, kind, against, accuracy and twin_accuracy
    (means, from 0 to 1), lost (pairs that say nothing, since a run failed), diverged (pairs with a run that diverged,
    which counts at chance), and those of `analysis.Verdict`, mean and interval in points.
    """
    pairs = [companions.pairs(one, seeds) for one in comparisons]
    judged = analysis.judge([np.array([pair.difference for pair in each]) for each in pairs], margin)
    rows = [
        {**described(one), **_accuracies(each), **_faults(each, companions.lost(one, seeds)), **asdict(verdict)}
        for one, each, verdict in zip(comparisons, pairs, judged, strict=True)
    ]
    return _whole(pd.DataFrame(rows))


def pooled(
    comparisons: Sequence[Comparison], companions: Companions, seeds: Sequence[int], margin: float
) -> pd.DataFrame:
    """The same with the champions of one method and band taken together, where there are several.

    Those with a seed in common share their data and initial weights: they are averaged seed by seed.
    """
    groups: dict[tuple[object, ...], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault((one.champion.label, one.champion.band, one.against), []).append(one)
    several = [group for group in groups.values() if len(group) > 1]
    pairs = [[companions.pairs(one, seeds) for one in group] for group in several]
    differences = [analysis.pooled([_aligned(each, seeds) for each in group]) for group in pairs]
    judged = analysis.judge(differences, margin)
    rows = [
        {
            **described(group[0]),
            **_several(group),
            **_accuracies(list(chain(*each))),
            **_faults([], 0),  # they are counted in the rows of the champions
            **asdict(verdict),
        }
        for group, each, verdict in zip(several, pairs, judged, strict=True)
    ]
    return _whole(pd.DataFrame(rows))


def described(comparison: Comparison) -> dict[str, object]:
    """Which comparison a row is of."""
    champion = comparison.champion
    return {
        "study": champion.study,
        "champion": champion.name,
        "trial": champion.key,
        "method": champion.label,
        "sparsity": champion.sparsity,
        "band": told(champion.band),
        "kind": comparison.kind,
        "against": comparison.against,
    }


def _aligned(pairs: Sequence[Pair], seeds: Sequence[int]) -> np.ndarray:
    """Their differences, one a seed, NaN where it has none."""
    known = {pair.seed: pair.difference for pair in pairs}
    return np.array([known.get(seed, np.nan) for seed in seeds])


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype({"needed": "Int64"}) if len(rows) else rows


def _several(group: Sequence[Comparison]) -> dict[str, object]:
    return {"champion": f"{len(group)} champions", "trial": None, "sparsity": np.nan}


def _faults(pairs: Sequence[Pair], lost: int) -> dict[str, int]:
    return {"lost": lost, "diverged": sum(pair.diverged for pair in pairs)}


def _accuracies(pairs: Sequence[Pair]) -> dict[str, float]:
    return {
        "accuracy": float(np.mean([pair.champion for pair in pairs])) if pairs else np.nan,
        "twin_accuracy": float(np.mean([pair.twin for pair in pairs])) if pairs else np.nan,
    }


def _counts(row: Mapping[Any, Any]) -> bool:
    return row.get("outcome") in analysis.COUNTED and not pd.isna(row.get("test_accuracy", np.nan))


def _diverged(row: Mapping[Any, Any]) -> bool:
    """Whether a training ended with numbers that are not finite: no accident, but what this mask leads to."""
    reason = row.get("reason")
    return row.get("outcome") == "failed" and isinstance(reason, str) and reason.startswith(DIVERGED)


def _night(row: Mapping[Any, Any]) -> str:
    night = row.get("night")
    return night if isinstance(night, str) else ""
