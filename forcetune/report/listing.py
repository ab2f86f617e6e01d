"""The list of all trials: its columns in their order, and those that are listed at first or shown at a point."""

from __future__ import annotations

from collections.abc import Set

import pandas as pd

from forcetune import analysis
from forcetune.report import numbers
from forcetune.report.columns import is_share
from forcetune.report.results import Results

LEADING_COLUMNS = ("on_front", "name", "label", "sparsity")
TRAILING_COLUMNS = ("outcome", "reason", "run_id", "trial")
UNLISTED_COLUMNS = ("study", "started", "ended", "method", "low", "high", "reached", "device_hours")
HOVER_COST_COLUMNS = ("macs", "training_flops", "effective_density")
SEED_COLUMNS = ("seeds", "collapsed_seeds", "front_probability")
COLLAPSE_COLUMNS = ("collapsed_seeds", "collapse_low", "collapse_high")
MAX_HOVER_FIELDS = 6
FIRST_LISTED_FIELDS = ("model", "dataset", "iterations", "schedule", "seed", "lr")
COLUMN_LABELS = {
    "name": "trial",
    "label": "method",
    "on_front": "front",
    "trial": "key",
    "front_probability": "on the front",
    "collapse_low": "collapses from",
    "collapse_high": "collapses to",
    "low": "interval from",
    "high": "interval to",
    "training_flops": "training FLOPs",
    "training_flops_sparse": "training FLOPs, sparse",
}


def build_listing(results: Results) -> pd.DataFrame:
    """Build the list of trials, with every column that a filter can name.

    The study's quality and the other objectives are means over fresh seeds where there are any.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.

    Returns:
        A row for each trial.
    """
    trials, quality = results.trials, results.quality
    listed = trials.assign(**{quality: trials["reached"]})
    for name in results.objectives:
        if f"{name}_mean" in trials and name != quality:
            listed[name] = numbers.fill_mean(trials, name)
    if "collapsed_seeds" in listed and not listed["collapsed_seeds"].fillna(0).any():
        listed = listed.drop(columns=[*COLLAPSE_COLUMNS])
    seed_columns = [name for name in SEED_COLUMNS if name in listed]
    leading = [
        *LEADING_COLUMNS,
        quality,
        *seed_columns,
        *list_other_objectives(results),
        *analysis.find_varied_fields(trials, results.fields),
    ]
    hidden = {
        *UNLISTED_COLUMNS,
        *(f"{name}_{suffix}" for name in results.objectives for suffix in ("mean", "low", "high")),
    }
    further = [name for name in listed if name not in {*leading, *TRAILING_COLUMNS, *hidden}]
    trailing = [name for name in TRAILING_COLUMNS if name in listed]
    columns = [name for name in dict.fromkeys([*leading, *further, *trailing]) if listed[name].notna().any()]
    intervals = ["low", "high"] if listed["low"].notna().any() else []
    return listed[[*columns, *intervals]]


def list_other_objectives(results: Results) -> list[str]:
    """List the objectives that have no axis in the main figure."""
    main_objectives = ("density", "sparsity", results.quality)
    return [name for name in results.objectives if name not in main_objectives and name in results.trials]


def choose_listed_columns(results: Results, columns: Set[str]) -> list[str]:
    """Choose the columns that are listed at first."""
    varied = analysis.find_varied_fields(results.trials, results.fields)
    candidates = [
        "name",
        "label",
        "sparsity",
        results.quality,
        *list_other_objectives(results),
        *SEED_COLUMNS,
        *(name for name in varied if name in FIRST_LISTED_FIELDS),
        "macs",
        "training_flops",
        "outcome",
        "reason",
    ]
    return [name for name in dict.fromkeys(candidates) if name in columns]


def choose_hover_columns(results: Results, columns: Set[str]) -> list[str]:
    """Choose the columns that are shown at a point of the main figure."""
    candidates = [
        "name",
        "run_id",
        "label",
        "sparsity",
        results.quality,
        *SEED_COLUMNS,
        *list_other_objectives(results),
        *analysis.find_varied_fields(results.trials, results.fields)[:MAX_HOVER_FIELDS],
        *HOVER_COST_COLUMNS,
        "outcome",
        "beaten_by",
    ]
    return [name for name in dict.fromkeys(candidates) if name in columns]


def label_columns(quality: str) -> dict[str, str]:
    """Return the headings of columns whose heading is not their name."""
    return {**COLUMN_LABELS, **({"val_accuracy": "accuracy"} if quality == "val_accuracy" else {})}


def choose_column_kinds(quality: str) -> dict[str, str]:
    """Return the kinds of columns whose kind does not follow from the name; an interval has the kind of its metric."""
    kind = "share" if is_share(quality) else "number"
    return {quality: kind, "low": kind, "high": kind, "on_front": "flag", "front_probability": "chance"}
