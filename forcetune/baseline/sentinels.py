"""Sentinels: one pair of a study that runs again every night with the same seeds.

Whatever changes the results of the same runs, such as a new version or another device, shows in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis, tracking
from forcetune.analysis import Drift
from forcetune.analysis.effects import ACCURACY_POINTS
from forcetune.baseline.twins import Comparison
from forcetune.names import COMPANION
from forcetune.stores import mlflow_uri
from forcetune.study import Companion

SENTINEL_TWIN_ARM = "random_erk"  # no saliency touches this arm: if it moves too, training or data has changed
PROVENANCE_TAGS = ("forcetune.version", "forcetune.torch", "forcetune.ray", "forcetune.optuna", "forcetune.device")


@dataclass(frozen=True)
class Watch:
    """The sentinels of one arm of a study.

    Attributes:
        study: The name of the study.
        arm: The arm of the pair.
        accuracies: Test accuracies in points, a row a run and a column a night; NaN where a run is missing.
        drift: The drift of the validation losses, or of the accuracies where a run has no loss.
        shift: The mean of tonight's accuracies minus the runs' own means of the nights before, in points; NaN without
            history.
        failure_reasons: The reasons of tonight's failed runs.
    """

    study: str
    arm: str
    accuracies: pd.DataFrame
    drift: Drift
    shift: float
    failure_reasons: Sequence[str]


def plan_sentinels(comparison: Comparison, seeds: Sequence[int], night: str) -> list[Companion]:
    """Return the sentinels of a night: the pairs of a comparison with these seeds.

    Args:
        comparison: The comparison of a champion with its twin.
        seeds: The seeds of the pairs.
        night: The date of the night.
    """
    night_tags = {"night": night, "again": night}
    companions = [companion for seed in seeds for companion in comparison.make_companions(seed)]
    return [replace(companion, tags={**companion.tags, **night_tags}) for companion in companions]


def find_sentinel_champion(companion_table: pd.DataFrame | None, since: str) -> str | None:
    """Find the champion whose pair ran on the first night of the history.

    Args:
        companion_table: The runs beside the study; None where there are none.
        since: The date at which the history begins.

    Returns:
        The key of the champion; None where there was no such night.
    """
    rows = _select_rows(companion_table, since)
    return None if rows.empty else str(rows.sort_values("again", kind="stable")["of"].iloc[0])


def watch_sentinels(
    study: str, companion_table: pd.DataFrame | None, since: str, night: str, arm_count: int
) -> list[Watch]:
    """Compare tonight's sentinels with their history, arm by arm.

    Args:
        study: The name of the study.
        companion_table: The runs beside the study; None where there are none.
        since: The date at which the history begins.
        night: The date of tonight.
        arm_count: The number of arms of all studies that are compared tonight.
    """
    rows = _select_rows(companion_table, since)
    rows = rows[rows["again"] <= night] if len(rows) else rows
    return (
        [_watch_arm(study, str(arm), arm_rows, night, arm_count) for arm, arm_rows in rows.groupby("arm")]
        if len(rows)
        else []
    )


def describe_provenance_changes(study: str, night: str) -> list[str]:
    """Describe how tonight's sentinels differ in versions and devices from those of the night before."""
    runs = [
        run["tags"] for run in tracking.load_runs(study + COMPANION, mlflow_uri()) if "forcetune.again" in run["tags"]
    ]
    nights = sorted({tags["forcetune.again"] for tags in runs if tags["forcetune.again"] <= night})
    if len(nights) < 2 or nights[-1] != night:
        return []
    before, now = (_collect_provenance(runs, date) for date in nights[-2:])
    return [
        f"{name.removeprefix('forcetune.')} changed from {before[name]} to {now[name]}"
        for name in PROVENANCE_TAGS
        if before[name] != now[name]
    ]


def _watch_arm(study: str, arm: str, rows: pd.DataFrame, night: str, arm_count: int) -> Watch:
    accuracies = _pivot_by_night(rows.assign(points=rows.get("test_accuracy", np.nan) * ACCURACY_POINTS), "points")
    # With few images an accuracy can stay the same by chance; a loss cannot.
    has_loss = "val_loss" in rows and rows["val_loss"].notna().all()
    values = _pivot_by_night(rows, "val_loss") if has_loss else accuracies
    history, tonight = _split_tonight(values, night)
    drift = analysis.detect_drift(history, tonight, look=max(1, len(history) - 1), alpha=0.05 / arm_count)
    before, now = _split_tonight(accuracies, night)
    is_comparable = ~np.isnan(now) & ~np.isnan(before).all(0)
    shift = (
        float((now[is_comparable] - np.nanmean(before[:, is_comparable], axis=0)).mean())
        if is_comparable.any()
        else np.nan
    )
    failed = rows[(rows["again"] == night) & (rows["outcome"] == "failed")]
    return Watch(study, arm, accuracies, drift, shift, [str(reason) for reason in failed["reason"]])


def _pivot_by_night(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return the values with a row for each run and a column for each night."""
    named_rows = rows.assign(run=rows["trial"].str.partition("@")[0])
    return named_rows.pivot_table(index="run", columns="again", values=value, dropna=False).sort_index(axis=1)


def _split_tonight(values: pd.DataFrame, night: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the nights before, (nights, runs), and those of tonight, (runs,)."""
    tonight = values[night].to_numpy(float) if night in values else np.full(len(values), np.nan)
    return values.loc[:, values.columns < night].to_numpy(float).T, tonight


def _select_rows(companion_table: pd.DataFrame | None, since: str) -> pd.DataFrame:
    if companion_table is None or "again" not in companion_table:
        return pd.DataFrame()
    return companion_table[companion_table["again"].notna() & (companion_table["again"] >= since)].dropna(
        subset="outcome"
    )


def _collect_provenance(runs: Sequence[Mapping[str, Any]], night: str) -> dict[str, str]:
    night_tags = [tags for tags in runs if tags["forcetune.again"] == night]
    return {name: " and ".join(sorted({tags.get(name, "?") for tags in night_tags})) for name in PROVENANCE_TAGS}
