"""What the nights so far say: which verdicts stand, since when, and what gives alarm tonight."""

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
from forcetune.baseline.evidence import Pair, described
from forcetune.baseline.sentinels import Watch
from forcetune.baseline.twins import Comparison

LAST = "9"  # sorts behind every date


@dataclass(frozen=True)
class Findings:
    """Of one night.

    verdicts: a row a comparison that has pairs: study, champion, method, sparsity, band, kind, against, pairs (of all
    nights), mean, low, high (of their differences in points, Student's 95 %), p (by which the verdict was reached, or
    of the pairs so far; corrected for every look and all comparisons), needed, holds (the verdict), since (the night),
    new (whether it has pairs of tonight). history: the same by night, for each comparison's name. notes: what is no
    alarm, and should be known. run: the id of the night's run in MLflow.
    """

    night: str
    verdicts: pd.DataFrame
    history: Mapping[str, pd.DataFrame]
    watches: Sequence[Watch]
    alarms: Sequence[str]
    notes: Sequence[str]
    run: str

    def plain(self) -> dict[str, Any]:
        """As data that JSON knows, without the history."""
        watches = [
            {
                "study": watch.study,
                "arm": watch.arm,
                **vars(watch.drift),
                "shift": watch.shift,
                "failed": list(watch.failed),
            }
            for watch in self.watches
        ]
        told = {"alarms": list(self.alarms), "notes": list(self.notes), "run": self.run}
        return {
            "night": self.night,
            "verdicts": json.loads(self.verdicts.to_json(orient="records")),
            "sentinels": watches,
            **told,
        }


def standings(benches: Sequence[ChampionStudy], margin: float, until: str = LAST) -> dict[str, list[Standing]]:
    """Where each comparison stood after each night that brought it pairs, by its name."""
    evidence = {
        one.name: [(pair.night, pair.difference) for pair in pairs if pair.night <= until]
        for bench in benches
        for one, pairs in bench.evidence()
    }
    return analysis.follow(evidence, margin)


def holds(steps: Sequence[Standing] | None) -> str:
    """The verdict that stands after these nights."""
    return steps[-1].holds if steps else "undecided"


def conclude(
    benches: Sequence[ChampionStudy], night: str, margin: float, since: str, notes: Sequence[str], run: str
) -> Findings:
    """What follows from all that was run up to a night. since: the night at which the sentinels' history begins.

    From `beats` to `ties`, or back, is a note: a difference smaller than the margin is both.
    """
    stood = standings(benches, margin, night)
    rows, history = [], {}
    alarms: list[str] = []
    notes = [*notes]
    for one, pairs in (found for bench in benches for found in bench.evidence()):
        if steps := stood[one.name]:
            history[one.name] = _history(pairs, steps)
            last: dict[str, Any] = {**history[one.name].iloc[-1], **_decided(steps)}
            rows.append({"name": one.name, **described(one), **last, "new": steps[-1].night == night})
            if steps[-1].night == night and steps[-1].flipped:
                (alarms if "loses" in (steps[-1].holds, steps[-2].holds) else notes).append(_flip(one, steps))
    arms = 2 * len(benches)
    watches = [each for bench in benches for each in sentinels.watch(bench.name, bench.beside, since, night, arms)]
    alarms += [line for watch in watches for line in _moved(watch, night)]
    return Findings(night, pd.DataFrame(rows), history, watches, alarms, notes, run)


def _history(pairs: Sequence[Pair], steps: Sequence[Standing]) -> pd.DataFrame:
    rows = []
    for step in steps:
        known = np.array([pair.difference for pair in pairs if pair.night <= step.night])
        mean, low, high = analysis.interval(known)
        told = {"night": step.night, "pairs": len(known), "mean": mean, "low": low, "high": high}
        judged = {"p": step.verdict.p_difference, "needed": step.verdict.needed}
        rows.append({**told, **judged, "holds": step.holds, "since": step.since})
    return pd.DataFrame(rows)


def _decided(steps: Sequence[Standing]) -> dict[str, Any]:
    """The p by which the verdict that stands was reached; nothing where none was."""
    for step in steps:
        if step.night == steps[-1].since:
            ties = step.holds == "ties"
            return {"p": step.verdict.p_equivalence if ties else step.verdict.p_difference, "needed": None}
    return {}


def _flip(one: Comparison, steps: Sequence[Standing]) -> str:
    champion, before = one.champion, steps[-2]
    return (
        f"{champion.study}: {champion.name} ({champion.label} at {champion.sparsity:.2%}) against {one.against}: the "
        f"verdict was {before.holds} since {before.since or 'before the first night'}, and the pairs since then say "
        f"{steps[-1].holds}"
    )


def _moved(watch: Watch, night: str) -> list[str]:
    name = f"{watch.study}: sentinels, the arm {watch.arm}"
    lines = [f"{name}: a run failed: {reason}" for reason in watch.failed]
    if watch.drift.alarm:
        changed = sentinels.differing(watch.study, night)
        lines.append(
            f"{name}: left their own history, {watch.drift.changed} of {watch.drift.runs} changed, on average by "
            f"{watch.shift:+.2f} points of accuracy; {'; '.join(changed) or 'versions and device are as they were'}"
        )
    return lines
