"""The list of all trials: its columns in their order, and those that are listed at first or shown at a point."""

from __future__ import annotations

from collections.abc import Set

import pandas as pd

from forcetune import analysis
from forcetune.report.columns import is_share

LEADING_COLUMNS = ("on_front", "name", "label", "sparsity")
TRAILING_COLUMNS = ("outcome", "reason", "run_id", "trial")
UNLISTED_COLUMNS = ("study", "started", "ended", "method", "low", "high", "reached", "device_hours")
HOVER_COST_COLUMNS = ("macs", "training_flops", "effective_density")
MAX_HOVER_FIELDS = 6
FIRST_LISTED_FIELDS = ("model", "dataset", "iterations", "schedule", "seed", "lr")
COLUMN_LABELS = {
    "name": "trial",
    "label": "method",
    "on_front": "front",
    "trial": "key",
    "front_probability": "on the front",
    "low": "interval from",
    "high": "interval to",
    "training_flops": "training FLOPs",
    "training_flops_sparse": "training FLOPs, sparse",
}


def build_listing(trials: pd.DataFrame) -> pd.DataFrame:
    """Build the list of trials, with every column that a filter can name.

    The study's quality and the other objectives are means over fresh seeds where there are any.

    Args:
        trials: The trials, as `numbers.prepare_trials` returns them.

    Returns:
        A row for each trial.
    """
    quality = trials.attrs["quality"]
    listed = trials.assign(**{quality: trials["reached"]})
    for name in trials.attrs["objectives"]:
        if f"{name}_mean" in trials and name != quality:
            listed[name] = trials[f"{name}_mean"].fillna(trials[name])
    seed_columns = [name for name in ("seeds", "front_probability") if name in listed]
    leading = [
        *LEADING_COLUMNS,
        quality,
        *seed_columns,
        *list_other_objectives(trials),
        *analysis.find_varied_fields(trials),
    ]
    hidden = {
        *UNLISTED_COLUMNS,
        *(f"{name}_{suffix}" for name in trials.attrs["objectives"] for suffix in ("mean", "low", "high")),
    }
    further = [name for name in listed if name not in {*leading, *TRAILING_COLUMNS, *hidden}]
    trailing = [name for name in TRAILING_COLUMNS if name in listed]
    columns = [name for name in dict.fromkeys([*leading, *further, *trailing]) if listed[name].notna().any()]
    intervals = ["low", "high"] if listed["low"].notna().any() else []
    return listed[[*columns, *intervals]]


def list_other_objectives(trials: pd.DataFrame) -> list[str]:
    """List the objectives that have no axis in the main figure."""
    main_objectives = ("density", "sparsity", trials.attrs["quality"])
    return [name for name in trials.attrs["objectives"] if name not in main_objectives and name in trials]


def choose_listed_columns(trials: pd.DataFrame, columns: Set[str]) -> list[str]:
    """Choose the columns that are listed at first."""
    seed_columns = [name for name in ("seeds", "front_probability") if name in columns]
    fields = [name for name in analysis.find_varied_fields(trials) if name in FIRST_LISTED_FIELDS]
    candidates = [
        "name",
        "label",
        "sparsity",
        trials.attrs["quality"],
        *list_other_objectives(trials),
        *seed_columns,
        *fields,
        "macs",
        "training_flops",
        "outcome",
        "reason",
    ]
    return [name for name in dict.fromkeys(candidates) if name in columns]


def choose_hover_columns(trials: pd.DataFrame, columns: Set[str]) -> list[str]:
    """Choose the columns that are shown at a point of the main figure."""
    seed_columns = [name for name in ("seeds", "front_probability") if name in columns]
    candidates = [
        "name",
        "run_id",
        "label",
        "sparsity",
        trials.attrs["quality"],
        *seed_columns,
        *list_other_objectives(trials),
    ]
    candidates += [*analysis.find_varied_fields(trials)[:MAX_HOVER_FIELDS], *HOVER_COST_COLUMNS, "outcome", "beaten_by"]
    return [name for name in dict.fromkeys(candidates) if name in columns]


def label_columns(trials: pd.DataFrame) -> dict[str, str]:
    """Return the headings of columns whose heading is not their name."""
    return {**COLUMN_LABELS, **({"val_accuracy": "accuracy"} if trials.attrs["quality"] == "val_accuracy" else {})}


def choose_column_kinds(trials: pd.DataFrame) -> dict[str, str]:
    """Return the kinds of columns whose kind does not follow from the name; an interval has the kind of its metric."""
    quality = trials.attrs["quality"]
    kind = "share" if is_share(quality) else "number"
    return {quality: kind, "low": kind, "high": kind, "on_front": "flag", "front_probability": "chance"}
