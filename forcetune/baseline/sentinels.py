"""Sentinels: one pair of a study run anew every night, with the same seeds, so that whatever changes them shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis, tracking
from forcetune.analysis import Drift
from forcetune.baseline.evidence import POINTS
from forcetune.baseline.twins import Comparison
from forcetune.names import COMPANION
from forcetune.spec import Companion
from forcetune.stores import mlflow_uri

TWIN = "random_erk"  # the arm that no saliency touches: where it moves too, training or data has changed
PROVENANCE = ("forcetune.version", "forcetune.torch", "forcetune.ray", "forcetune.optuna", "forcetune.device")


@dataclass(frozen=True)
class Watch:
    """A study's sentinels of one arm.

    accuracies: on the test images, in points, a row a run, a column a night, NaN where missing; drift: of the
    validation loss, or of those where a run tells none; shift: of tonight's accuracies from those before, on average.
    """

    study: str
    arm: str
    accuracies: pd.DataFrame
    drift: Drift
    shift: float
    failed: Sequence[str]  # tonight's reasons


def asked(comparison: Comparison, seeds: Sequence[int], night: str) -> list[Companion]:
    """A night's sentinels: a champion and its twin with these seeds."""
    marks = {"night": night, "again": night}
    sides = [side for seed in seeds for side in comparison.sides(seed)]
    return [replace(side, marks={**side.marks, **marks}) for side in sides]


def chosen(beside: pd.DataFrame | None, since: str) -> str | None:
    """The key of the champion whose pair was run on the first night from `since` on; None where there was none."""
    rows = _rows(beside, since)
    return None if rows.empty else str(rows.sort_values("again", kind="stable")["of"].iloc[0])


def watch(study: str, beside: pd.DataFrame | None, since: str, night: str, looked_at: int) -> list[Watch]:
    """What the sentinels of each arm say tonight; looked_at: arms of all studies that are looked at tonight."""
    rows = _rows(beside, since)
    rows = rows[rows["again"] <= night] if len(rows) else rows
    return [_watch(study, str(arm), each, night, looked_at) for arm, each in rows.groupby("arm")] if len(rows) else []


def differing(study: str, night: str) -> list[str]:
    """What of the versions and devices of tonight's sentinels is other than on the night before."""
    runs = [run["tags"] for run in tracking.runs(study + COMPANION, mlflow_uri()) if "forcetune.again" in run["tags"]]
    nights = sorted({tags["forcetune.again"] for tags in runs if tags["forcetune.again"] <= night})
    if len(nights) < 2 or nights[-1] != night:
        return []
    before, now = (_told(runs, each) for each in nights[-2:])
    return [
        f"{name.removeprefix('forcetune.')} was {before[name]}, is {now[name]}"
        for name in PROVENANCE
        if before[name] != now[name]
    ]


def _watch(study: str, arm: str, rows: pd.DataFrame, night: str, looked_at: int) -> Watch:
    accuracies = _by_night(rows.assign(points=rows.get("test_accuracy", np.nan) * POINTS), "points")
    # of few images an accuracy stays the same by chance, a loss does not
    told = "val_loss" in rows and rows["val_loss"].notna().all()
    values = _by_night(rows, "val_loss") if told else accuracies
    history, tonight = _parted(values, night)
    drift = analysis.drift(history, tonight, look=max(1, len(history) - 1), alpha=0.05 / looked_at)
    before, now = _parted(accuracies, night)
    both = ~np.isnan(now) & ~np.isnan(before).all(0)
    shift = float((now[both] - np.nanmean(before[:, both], axis=0)).mean()) if both.any() else np.nan
    failed = rows[(rows["again"] == night) & (rows["outcome"] == "failed")]
    return Watch(study, arm, accuracies, drift, shift, [str(reason) for reason in failed["reason"]])


def _by_night(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """A row a run, a column a night."""
    known = rows.assign(run=rows["trial"].str.partition("@")[0])
    return known.pivot_table(index="run", columns="again", values=value, dropna=False).sort_index(axis=1)


def _parted(values: pd.DataFrame, night: str) -> tuple[np.ndarray, np.ndarray]:
    """The nights before (nights, runs), and this one (runs,)."""
    tonight = values[night].to_numpy(float) if night in values else np.full(len(values), np.nan)
    return values.loc[:, values.columns < night].to_numpy(float).T, tonight


def _rows(beside: pd.DataFrame | None, since: str) -> pd.DataFrame:
    if beside is None or "again" not in beside:
        return pd.DataFrame()
    return beside[beside["again"].notna() & (beside["again"] >= since)].dropna(subset="outcome")


def _told(runs: Sequence[Mapping[str, Any]], night: str) -> dict[str, str]:
    tonight = [tags for tags in runs if tags["forcetune.again"] == night]
    return {name: " and ".join(sorted({tags.get(name, "?") for tags in tonight})) for name in PROVENANCE}
