"""All that a page tells of a study, read from the stores once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from forcetune import results, tracking
from forcetune.errors import InputError
from forcetune.names import COMPANION
from forcetune.report import numbers

LAYERS = "layers.json"
VERDICTS = "verdicts.json"
CONNECTIONS = 8


@dataclass(frozen=True)
class Evidence:
    """A study: its trials as `numbers.trials` tells them, and what is known beside them.

    dense: dense companions. twins: random ones of champions, as `numbers.twins` tells them. curves: run_id, step, value
    of the metric `curve` for some trials. layers: rows of layers.json by run id, for points of the front. verdicts:
    rows of the last `forcetune baseline`; margin: points.
    """

    study: str
    trials: pd.DataFrame
    dense: pd.DataFrame = field(default_factory=pd.DataFrame)
    twins: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    curve: str = "val_accuracy"
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    margin: float | None = None


def gather(study: str) -> Evidence:
    """Raises InputError where there is no such study, or none of its trials has ended."""
    known = results.read(study)
    check_ended(study, known.trials)
    trials = numbers.trials(known.trials)
    metric, curves = _curves(trials)
    verdicts, margin = _verdicts(study)
    twins = numbers.twins(known.companions, trials.attrs["quality"])
    return Evidence(study, trials, known.dense, twins, curves, metric, _layers(trials), verdicts, margin)


def check_ended(study: str, table: pd.DataFrame) -> None:
    """Raise InputError where there is nothing to tell yet."""
    if len(table) and table["outcome"].notna().any():
        return
    begun = f"of its {len(table)} trials none has ended yet" if len(table) else "it has no trial yet"
    raise InputError(
        f"study {study!r} has nothing to report: {begun}; run `forcetune search FILE`, or let it go on, and ask again"
    )


def _curves(trials: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The metric that was measured epoch by epoch, the chosen one if it was, and its values."""
    runs = numbers.drawn(trials)["run_id"].tolist()
    found = pd.DataFrame()
    if not runs:
        return "val_accuracy", found
    for metric in dict.fromkeys([trials.attrs["quality"], "val_accuracy"]):
        found = tracking.curves(runs, metric)
        if len(found) and found.groupby("run_id")["step"].nunique().max() > 1:
            return metric, numbers.thinned(found.dropna())
    return "val_accuracy", found.iloc[:0]


def _layers(trials: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    runs = numbers.spread(trials[trials["on_front"]])["run_id"].tolist()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        told = pool.map(lambda run: tracking.read_json(run, LAYERS), runs)
        return {run: layers for run, layers in zip(runs, told, strict=True) if layers}


def _verdicts(study: str) -> tuple[list[dict[str, Any]], float | None]:
    """Of the last comparison that left some."""
    for run in reversed(tracking.records(study + COMPANION, "baseline")):
        if found := tracking.read_json(run["id"], VERDICTS):
            return found, run["metrics"].get("margin")
    return [], None
