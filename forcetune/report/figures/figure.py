"""A figure and its numbers, and what all of them are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from forcetune.report.columns import heading, is_share
from forcetune.report.looks import Style, percent, plain

TRIALS = "trials"  # the source of what is drawn from the table of all trials


@dataclass(frozen=True)
class Figure:
    """A figure and its numbers.

    told: what it shows, one sentence. message: what is to be seen in it, for who cannot. frame: its numbers, of which
    the columns `shown` are its table; none where they are the table of trials. across: (rows, columns, values) where
    the table is read across. wide: it takes the page's whole width. tabled: whether its table goes
    with it, or the page has it elsewhere.
    """

    id: str
    heading: str
    told: str
    message: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    frame: pd.DataFrame | None = None
    shown: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    across: tuple[str, str, str] | None = None
    wide: bool = False
    tabled: bool = True


def measure(trials: pd.DataFrame) -> str:
    """What the chosen metric is called."""
    return heading(str(trials.attrs["quality"]))


def height(plot: int, style: Style) -> int:
    """Of a figure with this room for the plot, and a legend of all labels below it."""
    return plot + 20 * (len(style.labels) // 5)


def of(source: str, rows: Sequence[int] | pd.Index[Any], x: str, y: str, **more: Any) -> dict[str, Any]:
    """What page.js fills in: x and y of these rows; low and high, an interval; hover, what is told of each."""
    return {"source": source, "rows": [int(row) for row in rows], "x": x, "y": y, **more}


def bars(colour: str, width: float = 1) -> dict[str, Any]:
    """How an interval looks; page.js fills it in."""
    return {"type": "data", "symmetric": False, "thickness": width, "width": 3, "color": _fainter(colour)}


def _fainter(colour: str) -> str:
    """Intervals lie over one another where densities repeat."""
    return f"{colour}a0" if colour.startswith("#") else colour


def said(value: float, trials: pd.DataFrame) -> str:
    """A value of the chosen metric."""
    return percent(round(value, 4)) if is_share(trials.attrs["quality"]) else f"{value:.4g}"


def mean_line(source: str, rows: pd.DataFrame, x: str, name: str, style: Style, label: str) -> dict[str, Any]:
    """Means over x with their intervals, as a line."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "line": {"color": style.colour(label), "width": 1.8, "dash": style.dash(label)},
        "marker": style.marker(label, 8),
        "error_y": bars(style.colour(label)),
        "meta": of(source, rows.index, x, "mean", low="low", high="high", hover="shown"),
    }


def best_of(means: pd.DataFrame, names: list[str], trials: pd.DataFrame) -> str:
    """The best of each density in words."""
    best = means.loc[means.groupby("density")["mean"].agg("idxmax" if trials.attrs["way"] == "max" else "idxmin")]
    told = [
        f"{' '.join(str(row[name]) for name in names)} at {percent(row['sparsity'])} ({said(row['mean'], trials)})"
        for row in best.sort_values("sparsity").to_dict("records")
    ]
    return "On average the best at each sparsity are " + ", ".join(told) + "."
