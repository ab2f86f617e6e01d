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
# The tags of a run whose change explains another result, and their names in messages: code, libraries, driver and data.
PROVENANCE_TAGS = {
    "forcetune.version": "version",
    "mlflow.source.git.commit": "commit",
    "forcetune.torch": "torch",
    "forcetune.ray": "ray",
    "forcetune.optuna": "optuna",
    "forcetune.driver": "GPU driver",
    "forcetune.device": "device",
    "forcetune.data": "data",
}
INFINITE_LOSS = 1e300  # and above: MLflow keeps infinity as the largest float
SHOWN_TAG_CHARACTERS = 40  # of a value in a message, which is enough for a commit


@dataclass(frozen=True)
class Watch:
    """The sentinels of one arm of a study.

    Attributes:
        study: The name of the study.
        arm: The arm of the pair.
        accuracies: Test accuracies in points, a row a run and a column a night; NaN where a run is missing.
        measure: The measure of the drift: `val_loss`, or `test_accuracy` (in points) where no run has a loss.
        drift: The drift of that measure. Failed runs are skipped.
        since: The night since which the values differ; None without an alarm.
        shift: The mean change of the accuracies in points, since that night, or without an alarm that of tonight; NaN
            without history.
        failure_reasons: The reasons of tonight's runs that failed, or that collapsed or had an infinite loss unlike
            their earlier ones.
    """

    study: str
    arm: str
    accuracies: pd.DataFrame
    measure: str
    drift: Drift
    since: str | None
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
    if rows.empty:
        return []
    arms = rows[rows["again"] <= night].groupby("arm")
    return [_watch_arm(study, str(arm), arm_rows, night, arm_count) for arm, arm_rows in arms]


def describe_provenance_changes(study: str, night: str) -> list[str]:
    """Describe how a night's sentinels differ in code, libraries, driver, device and data from the night before.

    Args:
        study: The name of the study.
        night: The date of the night.
    """
    runs = [
        run["tags"] for run in tracking.load_runs(study + COMPANION, mlflow_uri()) if "forcetune.again" in run["tags"]
    ]
    nights = sorted({tags["forcetune.again"] for tags in runs if tags["forcetune.again"] <= night})
    if len(nights) < 2 or nights[-1] != night:
        return []
    before, now = (_collect_provenance(runs, date) for date in nights[-2:])
    return [
        f"{name} changed from {before[tag]} to {now[tag]}"
        for tag, name in PROVENANCE_TAGS.items()
        if before[tag] and now[tag] and before[tag] != now[tag]
    ]


def _watch_arm(study: str, arm: str, rows: pd.DataFrame, night: str, arm_count: int) -> Watch:
    nights = sorted({*rows["again"], night})
    is_counted = rows["outcome"].isin(analysis.COUNTED_OUTCOMES)
    points = rows.get("test_accuracy", pd.Series(np.nan, rows.index)) * ACCURACY_POINTS
    accuracies = _pivot_by_night(rows.assign(points=points.where(is_counted)), "points", nights)
    measure, values = "test_accuracy", accuracies
    # With few images an accuracy can stay the same by chance; a loss cannot. A run that failed is skipped, and so is
    # one whose loss is infinite.
    if "val_loss" in rows and (losses := rows["val_loss"].where(is_counted & ~_has_infinite_loss(rows))).notna().any():
        measure, values = "val_loss", _pivot_by_night(rows.assign(val_loss=losses), "val_loss", nights)
    drift = analysis.detect_drift(values.to_numpy(float).T, alpha=0.05 / arm_count)
    since = None if drift.start is None else nights[drift.start]
    shift = _measure_shift(accuracies, since or night)
    return Watch(study, arm, accuracies, measure, drift, since, shift, _list_failures(rows, night))


def _measure_shift(accuracies: pd.DataFrame, since: str) -> float:
    """Return the mean change of the accuracies since a night, over the runs that have some before it and since."""
    is_later = accuracies.columns >= since
    changes = accuracies.loc[:, is_later].mean(axis=1) - accuracies.loc[:, ~is_later].mean(axis=1)
    return float(changes.mean())


def _list_failures(rows: pd.DataFrame, night: str) -> list[str]:
    """List the reasons of the runs that failed on a night, or that collapsed though the same run did not before."""
    tonight, earlier = rows[rows["again"] == night], rows[rows["again"] < night]
    failed = [str(reason) for reason in tonight.loc[tonight["outcome"] == "failed", "reason"]]
    healthy = set(_name_runs(earlier[(earlier["outcome"] == "trained") & ~_has_infinite_loss(earlier)]))
    changed = tonight[_name_runs(tonight).isin(healthy)]
    collapsed = changed.loc[changed["outcome"] == "collapsed", "reason"]
    infinite = changed[(changed["outcome"] == "trained") & _has_infinite_loss(changed)]
    return [
        *failed,
        *(f"it collapsed: {reason}" for reason in collapsed),
        *["its validation loss is infinite"] * len(infinite),
    ]


def _has_infinite_loss(rows: pd.DataFrame) -> pd.Series:
    return rows["val_loss"].abs() >= INFINITE_LOSS if "val_loss" in rows else pd.Series(False, rows.index)


def _pivot_by_night(rows: pd.DataFrame, value: str, nights: Sequence[str]) -> pd.DataFrame:
    """Return the values with a row for each run and a column for each night; NaN where a value is missing."""
    named_rows = rows.assign(run=_name_runs(rows))
    table = named_rows.pivot_table(index="run", columns="again", values=value, dropna=False)
    return table.reindex(columns=[*nights])


def _name_runs(rows: pd.DataFrame) -> pd.Series:
    """Return for each row the key that the same run has on all nights."""
    return rows["trial"].str.replace("@.*", "", regex=True)


def _select_rows(companion_table: pd.DataFrame | None, since: str) -> pd.DataFrame:
    if companion_table is None or "again" not in companion_table:
        return pd.DataFrame()
    return companion_table[companion_table["again"].notna() & (companion_table["again"] >= since)].dropna(
        subset="outcome"
    )


def _collect_provenance(runs: Sequence[Mapping[str, Any]], night: str) -> dict[str, str]:
    """Return the values of each tag that the runs of a night have; empty text where none has it."""
    night_tags = [tags for tags in runs if tags["forcetune.again"] == night]
    return {
        name: " and ".join(sorted({tags[name][:SHOWN_TAG_CHARACTERS] for tags in night_tags if name in tags}))
        for name in PROVENANCE_TAGS
    }
