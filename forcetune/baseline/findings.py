"""The findings of a night: which verdicts stand, since when they stand, and tonight's alarms."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pandas as pd

from forcetune import analysis
from forcetune.analysis import Standing
from forcetune.baseline import sentinels
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.evidence import Margins, Pair, collect_pairs, describe_comparison
from forcetune.baseline.rounds import group_pairs_by_night
from forcetune.baseline.sentinels import Watch
from forcetune.baseline.twins import Comparison
from forcetune.formats import format_sparsity

if TYPE_CHECKING:
    from forcetune.deploy.proving import Proof

SYMMETRY = "symmetric differences"  # the assumption of the verdicts on differences
AFTER_ALL_NIGHTS = "9"  # it sorts behind every date


@dataclass(frozen=True)
class Findings:
    """The findings of one night.

    Attributes:
        night: The date of the night.
        verdicts: A row for each comparison that has pairs: study, champion, method, sparsity, band, kind, against,
            pairs (of all nights), live_pairs (in which both runs live), mean, low, high (of their differences in
            points, with Student's 95 % interval of all pairs, which is not corrected for looking every night), p (by
            which the verdict was reached, or of the pairs so far; it holds on all nights and for all comparisons),
            needed (live pairs), holds (the verdict), since (the night since which it stands), live and collapses (the
            verdicts on the differences and on the collapses), champion_collapses, twin_collapses, collapse_bound (the
            upper bound of the probability that one arm alone collapses), nearest and progress (the verdict that is
            nearest to standing, and the part of the way to it), state (in plain words), assumes (the assumption of the
            verdict) and new (whether the comparison has pairs of tonight).
        history: A row for each night, by the name of the comparison: night, and the columns of `verdicts` from pairs
            to assumes.
        watches: Tonight's sentinels, arm by arm.
        alarms: The alarms, a sentence each.
        notes: Remarks that give no alarm, a sentence each.
        run_id: The id of the night's run in MLflow.
        proofs: The proofs of the registered networks.
    """

    night: str
    verdicts: pd.DataFrame
    history: Mapping[str, pd.DataFrame]
    watches: Sequence[Watch]
    alarms: Sequence[str]
    notes: Sequence[str]
    run_id: str
    proofs: Sequence[Proof] = ()

    def plain(self) -> dict[str, Any]:
        """Return the findings, without their history, as data that JSON can hold."""
        watches = [
            {
                "study": watch.study,
                "arm": watch.arm,
                **vars(watch.drift),
                "start": watch.since,
                "measure": watch.measure,
                "measure_shift": watch.drift.shift,
                "shift": watch.shift,
                "failed": list(watch.failure_reasons),
            }
            for watch in self.watches
        ]
        return {
            "night": self.night,
            "verdicts": json.loads(self.verdicts.to_json(orient="records")),
            "sentinels": watches,
            "registered": [proof.plain() for proof in self.proofs],
            "alarms": list(self.alarms),
            "notes": list(self.notes),
            "run": self.run_id,
        }


def compute_standings(
    champion_studies: Sequence[ChampionStudy], margins: Margins, until: str = AFTER_ALL_NIGHTS
) -> dict[str, list[Standing]]:
    """Compute where each comparison stood after each night that brought it pairs.

    Args:
        champion_studies: The studies and their champions.
        margins: The differences below which two networks are as good as each other.
        until: The date of the last night that counts.

    Returns:
        The standings, night by night, by the name of the comparison.
    """
    evidence = {
        comparison.name: group_pairs_by_night(pairs, until)
        for champion_study in champion_studies
        for comparison, pairs in champion_study.list_evidence()
    }
    return analysis.follow(evidence, margins.accuracy, margins.collapses)


def is_open(standings: Sequence[Standing] | None) -> bool:
    """Return whether a comparison has no verdict after these nights, or one that is contested."""
    return not standings or standings[-1].holds == "undecided" or standings[-1].is_contested


def conclude_night(
    champion_studies: Sequence[ChampionStudy],
    night: str,
    margins: Margins,
    since: str,
    notes: Sequence[str],
    run_id: str,
) -> Findings:
    """Draw the conclusions from all pairs and sentinels up to a night.

    A verdict that goes from `beats` to `ties`, or back, gives a note and no alarm: a difference smaller than the margin
    is both.

    Args:
        champion_studies: The studies and their champions.
        night: The date of the night.
        margins: The differences below which two networks are as good as each other.
        since: The date at which the sentinels' history begins.
        notes: The notes that the findings begin with.
        run_id: The id of the night's run in MLflow.
    """
    standings_by_name = compute_standings(champion_studies, margins, night)
    rows, history = [], {}
    alarms: list[str] = []
    notes = [*notes]
    for comparison, pairs in (
        compared for champion_study in champion_studies for compared in champion_study.list_evidence()
    ):
        if not (standings := standings_by_name[comparison.name]):
            continue
        is_new = standings[-1].night == night
        history[comparison.name] = pd.DataFrame([_make_history_row(pairs, standing) for standing in standings])
        latest: dict[str, Any] = {**history[comparison.name].iloc[-1], **_decision_columns(standings)}
        rows.append({"name": comparison.name, **describe_comparison(comparison), **latest, "new": is_new})
        if is_new and standings[-1].flipped:
            messages = alarms if "loses" in (standings[-1].holds, standings[-2].holds) else notes
            messages.append(_describe_flip(comparison, standings))
    arm_count = 2 * len(champion_studies)
    watches = [
        arm_watch
        for champion_study in champion_studies
        for arm_watch in sentinels.watch_sentinels(
            champion_study.name, champion_study.companion_table, since, night, arm_count
        )
    ]
    alarms += [line for watch in watches for line in _describe_sentinel_alarms(watch)]
    return Findings(night, pd.DataFrame(rows), history, watches, alarms, notes, run_id)


def _make_history_row(pairs: Sequence[Pair], standing: Standing) -> dict[str, Any]:
    live = collect_pairs([pair for pair in pairs if pair.night <= standing.night])
    mean, low, high = analysis.student_interval(live.differences)
    return {
        "night": standing.night,
        "pairs": standing.pairs,
        "live_pairs": standing.live_pairs,
        "mean": mean,
        "low": low,
        "high": high,
        "p": standing.p_difference,
        "needed": standing.needed,
        "holds": standing.holds,
        "since": standing.since,
        "live": standing.live,
        "collapses": standing.collapses,
        "champion_collapses": standing.champion_collapses,
        "twin_collapses": standing.twin_collapses,
        "collapse_bound": standing.bound,
        "nearest": standing.nearest,
        "progress": standing.progress,
        "state": analysis.describe_standing(standing),
        "assumes": SYMMETRY if standing.holds == standing.live != "undecided" else None,
    }


def _decision_columns(standings: Sequence[Standing]) -> dict[str, Any]:
    """Return the p by which the standing verdict was reached; an empty dict where no verdict was.

    The part that decides may have reached it on an earlier night, and have waited for the other part.
    """
    last = standings[-1]
    until = [standing for standing in standings if last.since and standing.night <= last.since]
    if not until:
        return {}
    deciding = "live" if until[-1].live == last.holds else "collapses"
    decided = until[-1]
    for standing in takewhile(lambda standing: getattr(standing, deciding) == last.holds, reversed(until)):
        decided = standing
    p_live = decided.p_equivalence if last.holds == "ties" else decided.p_difference
    return {
        "p": p_live if deciding == "live" else decided.p_collapses,
        "needed": last.needed if last.is_contested else None,
    }


def _describe_flip(comparison: Comparison, standings: Sequence[Standing]) -> str:
    champion, previous = comparison.champion, standings[-2]
    return (
        f"{champion.study}: {champion.name} ({champion.label} at {format_sparsity(champion.sparsity)}) against "
        f"{comparison.against}: the verdict was {previous.holds} since {previous.since or 'before the first night'}, "
        f"and the pairs since then give {standings[-1].holds}"
    )


def _describe_sentinel_alarms(watch: Watch) -> list[str]:
    name = f"{watch.study}: sentinels, the arm {watch.arm}"
    lines = [f"{name}: a run failed: {reason}" for reason in watch.failure_reasons]
    if watch.since is not None:
        changes = sentinels.describe_provenance_changes(watch.study, watch.since)
        shifts = [f"by {watch.shift:+.2f} points of accuracy"] if math.isfinite(watch.shift) else []
        shifts += [f"{watch.measure} by {watch.drift.shift:+.3g}"] if watch.measure == "val_loss" else []
        lines.append(
            f"{name}: results differ from earlier nights since {watch.since}: on average {', and '.join(shifts)}; "
            f"tonight {watch.drift.changed} of {watch.drift.runs} runs changed; that night "
            f"{'; '.join(changes) or 'versions, driver, device and data were unchanged'}"
        )
    return lines
