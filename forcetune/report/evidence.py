"""The evidence of a page: a study with the runs beside it, read from the stores once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.names import COMPANION, VERDICTS_FILE
from forcetune.report import numbers, results
from forcetune.report.results import Results

LAYERS_FILE = "layers.json"
TRAIL_FILE = "trail.json"
ARTIFACT_CONNECTIONS = 8  # at a time, to the store of the artifacts


@dataclass(frozen=True)
class Evidence:
    """A study with its trials and the runs beside them.

    Attributes:
        study: The name of the study.
        results: The results, as `numbers.prepare_trials` returns them.
        dense: The dense companions.
        twins: The random twins of champions, as `numbers.summarize_twins` returns them.
        curves: The learning curves of some trials: run_id, step and value.
        curve_metric: The metric of the curves.
        layers: The rows of layers.json by run id, for points of the front.
        verdicts: The rows of the last `forcetune baseline` that left verdicts.
        margin: The margin of the verdicts, in points of accuracy; None without verdicts.
        band: The best accuracy at each density that is probable, as `numbers.predict_band` returns it.
        trails: The changes of masks in trail.json by run id, for points of the front whose masks changed in training.
    """

    study: str
    results: Results
    dense: pd.DataFrame = field(default_factory=pd.DataFrame)
    twins: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    curve_metric: str = "val_accuracy"
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    margin: float | None = None
    band: pd.DataFrame = field(default_factory=pd.DataFrame)
    trails: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def gather(study: str, stored: Results | None = None) -> Evidence:
    """Read the evidence of a page from the stores.

    Args:
        study: The name of the study.
        stored: Its trials and companions, where they were read already.

    Raises:
        InputError: There is no such study, or none of its trials has ended.
    """
    stored = stored or results.load(study)
    check_has_ended(study, stored.trials)
    prepared = numbers.prepare_trials(stored)
    curve_metric, curves = _load_curves(prepared)
    verdicts, margin = _load_verdicts(study)
    twins = numbers.summarize_twins(stored.companions, prepared.quality)
    front = prepared.trials[prepared.trials["on_front"]]
    return Evidence(
        study,
        prepared,
        stored.dense,
        twins,
        curves,
        curve_metric,
        layers=_load_rows(front, LAYERS_FILE),
        trails=_load_rows(front[front["settled"].notna()], TRAIL_FILE) if "settled" in front else {},
        verdicts=verdicts,
        margin=margin,
        band=numbers.predict_band(stored),
    )


def check_has_ended(study: str, table: pd.DataFrame) -> None:
    """Raise InputError where no trial of the study has ended."""
    if len(table) and table["outcome"].notna().any():
        return
    begun = f"none of its {len(table)} trials has ended yet" if len(table) else "it has no trial yet"
    raise InputError(
        f"study {study!r} has nothing to report: {begun}; run `forcetune search FILE`, or wait until a trial ends"
    )


def _load_curves(prepared: Results) -> tuple[str, pd.DataFrame]:
    """Return the metric that has values of several epochs, preferably the study's quality, and its curves."""
    runs = numbers.select_curves(prepared.trials)["run_id"].tolist()
    curves = pd.DataFrame()
    if not runs:
        return "val_accuracy", curves
    for metric in dict.fromkeys([prepared.quality, "val_accuracy"]):
        curves = tracking.load_curves(runs, metric).dropna()
        if len(curves) and curves.groupby("run_id")["step"].nunique().max() > 1:
            return metric, numbers.thin_curves(curves)
    return "val_accuracy", curves.iloc[:0]


def _load_rows(front: pd.DataFrame, file: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a JSON file by run id, for points of the front as far apart as possible."""
    runs = numbers.select_evenly(front)["run_id"].tolist()
    with ThreadPoolExecutor(ARTIFACT_CONNECTIONS) as pool:
        contents = pool.map(lambda run: tracking.read_json(run, file), runs)
        return {run: rows for run, rows in zip(runs, contents, strict=True) if rows}


def _load_verdicts(study: str) -> tuple[list[dict[str, Any]], float | None]:
    """Return the verdicts and the margin of the last comparison that left verdicts."""
    for run in reversed(tracking.list_records(study + COMPANION, "baseline")):
        if verdicts := tracking.read_json(run["id"], VERDICTS_FILE):
            return verdicts, run["metrics"].get("margin")
    return [], None
