"""The table of all trials: its columns, in their order, and those that are shown, hovered over and printed."""

from __future__ import annotations

from collections.abc import Set

import pandas as pd

from forcetune import analysis
from forcetune.report.columns import is_share

LEAD = ("on_front", "name", "label", "sparsity")
TAIL = ("outcome", "reason", "run_id", "trial")
LEFT_OUT = ("study", "started", "ended", "method", "low", "high", "reached", "device_hours")
COSTS = ("macs", "effective_density")
MOST = 6  # fields that a hover tells
FEW = ("model", "dataset", "iterations", "schedule", "seed", "lr")  # fields that are listed at first
LABELS = {
    "name": "trial",
    "label": "method",
    "on_front": "front",
    "trial": "key",
    "front_probability": "on the front",
    "low": "interval from",
    "high": "interval to",
}


def listing(trials: pd.DataFrame) -> pd.DataFrame:
    """Every column that a filter can ask for, a row a trial.

    The chosen metric, and other objectives, are means over fresh seeds where there are any.
    """
    quality = trials.attrs["quality"]
    told = trials.assign(**{quality: trials["reached"]})
    for name in trials.attrs["objectives"]:
        if f"{name}_mean" in trials and name != quality:
            told[name] = trials[f"{name}_mean"].fillna(trials[name])
    again = [name for name in ("seeds", "front_probability") if name in told]
    first = [*LEAD, quality, *again, *others(trials), *analysis.varied(trials)]
    hidden = {*LEFT_OUT, *(f"{name}_{part}" for name in trials.attrs["objectives"] for part in ("mean", "low", "high"))}
    rest = [name for name in told if name not in {*first, *TAIL, *hidden}]
    tail = [name for name in TAIL if name in told]
    columns = [name for name in dict.fromkeys([*first, *rest, *tail]) if told[name].notna().any()]
    intervals = ["low", "high"] if told["low"].notna().any() else []
    return told[[*columns, *intervals]]


def others(trials: pd.DataFrame) -> list[str]:
    """Objectives that have no place in the main figure."""
    known = ("density", "sparsity", trials.attrs["quality"])
    return [name for name in trials.attrs["objectives"] if name not in known and name in trials]


def shown(trials: pd.DataFrame, columns: Set[str]) -> list[str]:
    """The columns that are listed at first."""
    again = [name for name in ("seeds", "front_probability") if name in columns]
    few = [name for name in analysis.varied(trials) if name in FEW]
    wanted = [
        "name",
        "label",
        "sparsity",
        trials.attrs["quality"],
        *others(trials),
        *again,
        *few,
        "macs",
        "outcome",
        "reason",
    ]
    return [name for name in dict.fromkeys(wanted) if name in columns]


def hovered(trials: pd.DataFrame, columns: Set[str]) -> list[str]:
    """What is told of a point in the main figure."""
    again = [name for name in ("seeds", "front_probability") if name in columns]
    wanted = ["name", "run_id", "label", "sparsity", trials.attrs["quality"], *again, *others(trials)]
    wanted += [*analysis.varied(trials)[:MOST], *COSTS, "outcome", "beaten_by"]
    return [name for name in dict.fromkeys(wanted) if name in columns]


def labels(trials: pd.DataFrame) -> dict[str, str]:
    """Headings where they are not the names."""
    return {**LABELS, **({"val_accuracy": "accuracy"} if trials.attrs["quality"] == "val_accuracy" else {})}


def kinds(trials: pd.DataFrame) -> dict[str, str]:
    """Kinds where names do not tell them: an interval is of what it is the interval of."""
    quality = trials.attrs["quality"]
    kind = "share" if is_share(quality) else "number"
    return {quality: kind, "low": kind, "high": kind, "on_front": "flag", "front_probability": "chance"}
