"""The findings of a night: which verdicts stand, since when they stand, and tonight's alarms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.analysis import Standing
from forcetune.baseline import sentinels
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.evidence import Pair, describe_comparison
from forcetune.baseline.sentinels import Watch
from forcetune.baseline.twins import Comparison
from forcetune.formats import format_sparsity

AFTER_ALL_NIGHTS = "9"  # it sorts behind every date


@dataclass(frozen=True)
class Findings:
    """The findings of one night.

    Attributes:
        night: The date of the night.
        verdicts: A row for each comparison that has pairs: study, champion, method, sparsity, band, kind, against,
            pairs (of all nights), mean, low, high (of the differences in points, with Student's 95 % interval), p (by
            which the verdict was reached, or of the pairs so far; corrected for every look and for all comparisons),
            needed, holds (the verdict), since (the night since which it stands) and new (whether the comparison has
            pairs of tonight).
        history: A row for each night, by the name of the comparison: night, pairs, mean, low, high, p, needed, holds
            and since.
        watches: Tonight's sentinels, arm by arm.
        alarms: The alarms, a sentence each.
        notes: Remarks that give no alarm, a sentence each.
        run_id: The id of the night's run in MLflow.
    """

    night: str
    verdicts: pd.DataFrame
    history: Mapping[str, pd.DataFrame]
    watches: Sequence[Watch]
    alarms: Sequence[str]
    notes: Sequence[str]
    run_id: str

    def plain(self) -> dict[str, Any]:
        """Return the findings, without their history, as data that JSON can hold."""
        watches = [
            {
                "study": watch.study,
                "arm": watch.arm,
                **vars(watch.drift),
                "shift": watch.shift,
                "failed": list(watch.failure_reasons),
            }
            for watch in self.watches
        ]
        messages = {"alarms": list(self.alarms), "notes": list(self.notes), "run": self.run_id}
        return {
            "night": self.night,
            "verdicts": json.loads(self.verdicts.to_json(orient="records")),
            "sentinels": watches,
            **messages,
        }


def compute_standings(
    champion_studies: Sequence[ChampionStudy], margin: float, until: str = AFTER_ALL_NIGHTS
) -> dict[str, list[Standing]]:
    """Compute where each comparison stood after each night that brought it pairs.

    Args:
        champion_studies: The studies and their champions.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.
        until: The date of the last night that counts.

    Returns:
        The standings, night by night, by the name of the comparison.
    """
    evidence = {
        comparison.name: [(pair.night, pair.difference) for pair in pairs if pair.night <= until]
        for champion_study in champion_studies
        for comparison, pairs in champion_study.list_evidence()
    }
    return analysis.follow(evidence, margin)


def get_standing_verdict(standings: Sequence[Standing] | None) -> str:
    """Return the verdict that stands after these nights; `undecided` where there are none."""
    return standings[-1].holds if standings else "undecided"


def conclude_night(
    champion_studies: Sequence[ChampionStudy], night: str, margin: float, since: str, notes: Sequence[str], run_id: str
) -> Findings:
    """Draw the conclusions from all pairs and sentinels up to a night.

    A verdict that goes from `beats` to `ties`, or back, gives a note and no alarm: a difference smaller than the margin
    is both.

    Args:
        champion_studies: The studies and their champions.
        night: The date of the night.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.
        since: The date at which the sentinels' history begins.
        notes: The notes that the findings begin with.
        run_id: The id of the night's run in MLflow.
    """
    standings_by_name = compute_standings(champion_studies, margin, night)
    rows, history = [], {}
    alarms: list[str] = []
    notes = [*notes]
    for comparison, pairs in (
        compared for champion_study in champion_studies for compared in champion_study.list_evidence()
    ):
        if standings := standings_by_name[comparison.name]:
            history[comparison.name] = _tabulate_history(pairs, standings)
            latest: dict[str, Any] = {**history[comparison.name].iloc[-1], **_decision_columns(standings)}
            rows.append(
                {
                    "name": comparison.name,
                    **describe_comparison(comparison),
                    **latest,
                    "new": standings[-1].night == night,
                }
            )
            if standings[-1].night == night and standings[-1].flipped:
                (alarms if "loses" in (standings[-1].holds, standings[-2].holds) else notes).append(
                    _describe_flip(comparison, standings)
                )
    arm_count = 2 * len(champion_studies)
    watches = [
        arm_watch
        for champion_study in champion_studies
        for arm_watch in sentinels.watch_sentinels(
            champion_study.name, champion_study.companion_table, since, night, arm_count
        )
    ]
    alarms += [line for watch in watches for line in _describe_sentinel_alarms(watch, night)]
    return Findings(night, pd.DataFrame(rows), history, watches, alarms, notes, run_id)


def _tabulate_history(pairs: Sequence[Pair], standings: Sequence[Standing]) -> pd.DataFrame:
    rows = []
    for standing in standings:
        differences = np.array([pair.difference for pair in pairs if pair.night <= standing.night])
        mean, low, high = analysis.student_interval(differences)
        interval_columns = {"night": standing.night, "pairs": len(differences), "mean": mean, "low": low, "high": high}
        verdict_columns = {"p": standing.verdict.p_difference, "needed": standing.verdict.needed}
        rows.append({**interval_columns, **verdict_columns, "holds": standing.holds, "since": standing.since})
    return pd.DataFrame(rows)


def _decision_columns(standings: Sequence[Standing]) -> dict[str, Any]:
    """Return the p by which the standing verdict was reached; an empty dict where no verdict was."""
    for standing in standings:
        if standing.night == standings[-1].since:
            is_tie = standing.holds == "ties"
            return {"p": standing.verdict.p_equivalence if is_tie else standing.verdict.p_difference, "needed": None}
    return {}


def _describe_flip(comparison: Comparison, standings: Sequence[Standing]) -> str:
    champion, previous = comparison.champion, standings[-2]
    return (
        f"{champion.study}: {champion.name} ({champion.label} at {format_sparsity(champion.sparsity)}) against "
        f"{comparison.against}: the verdict was {previous.holds} since {previous.since or 'before the first night'}, "
        f"and the pairs since then give {standings[-1].holds}"
    )


def _describe_sentinel_alarms(watch: Watch, night: str) -> list[str]:
    name = f"{watch.study}: sentinels, the arm {watch.arm}"
    lines = [f"{name}: a run failed: {reason}" for reason in watch.failure_reasons]
    if watch.drift.alarm:
        changes = sentinels.describe_provenance_changes(watch.study, night)
        lines.append(
            f"{name}: results differ from earlier nights: {watch.drift.changed} of {watch.drift.runs} runs changed, on "
            f"average by {watch.shift:+.2f} points of accuracy; "
            f"{'; '.join(changes) or 'versions and device are unchanged'}"
        )
    return lines
