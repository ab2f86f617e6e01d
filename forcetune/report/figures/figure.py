"""A figure with its numbers, and the parts that all figures are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from forcetune.formats import format_percent
from forcetune.report.columns import is_share
from forcetune.report.looks import Style, escape_markup
from forcetune.report.results import Results

TRIALS_SOURCE = "trials"  # the id of the table of all trials among the sources of page.js


@dataclass(frozen=True)
class Figure:
    """A figure with its numbers.

    Attributes:
        id: The id in the page.
        heading: The heading.
        caption: What the figure shows, one sentence.
        alt_text: What a reader sees in the figure, for those who cannot see it.
        traces: The traces, as Plotly reads them; their `meta` says which numbers page.js fills in.
        layout: The layout, as Plotly reads it.
        frame: The numbers; None where they are the table of trials.
        shown: The columns of `frame` that the figure's table shows.
        labels: The headings of columns whose heading does not follow from the name.
        kinds: The kinds of columns whose kind does not follow from the name and the type.
        across: The columns (rows, columns, values) of a table that has a row for each group and a column for each step;
            None where the table has the rows of `frame`.
        is_wide: Whether the figure has the whole width of the page.
        has_table_below: Whether the table stands below the figure; else the page has the numbers elsewhere.
    """

    id: str
    heading: str
    caption: str
    alt_text: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    frame: pd.DataFrame | None = None
    shown: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    across: tuple[str, str, str] | None = None
    is_wide: bool = False
    has_table_below: bool = True


def compute_height(plot: int, style: Style) -> int:
    """Return the height of a figure, in pixels, that has this room for the plot and a legend of all labels below."""
    return plot + 20 * (len(style.labels) // 5)


def make_meta(source: str, rows: Sequence[int] | pd.Index[Any], x: str, y: str, **options: Any) -> dict[str, Any]:
    """Make the `meta` of a trace, which says what page.js fills in.

    Args:
        source: The id of the table.
        rows: The rows of the table.
        x: The column of the x values.
        y: The column of the y values.
        options: Further keys, such as low and high (the columns of an interval) and hover.
    """
    return {"source": source, "rows": [int(row) for row in rows], "x": x, "y": y, **options}


def make_error_bars(colour: str, width: float = 1) -> dict[str, Any]:
    """Make the look of an interval, whose values page.js fills in."""
    return {"type": "data", "symmetric": False, "thickness": width, "width": 3, "color": _fade(colour)}


def _fade(colour: str) -> str:
    """Return a fainter colour, since intervals lie over one another where densities repeat."""
    return f"{colour}a0" if colour.startswith("#") else colour


def format_metric(value: float, metric: str) -> str:
    """Format a value of a metric, in percent where the metric lies between 0 and 1."""
    return format_percent(value) if is_share(metric) else f"{value:.4g}"


def make_mean_line(source: str, rows: pd.DataFrame, x: str, name: str, style: Style, label: str) -> dict[str, Any]:
    """Make a line of means over x, with their intervals.

    Args:
        source: The id of the table.
        rows: The rows of the table, with the columns mean, low and high.
        x: The column of the x values.
        name: The name in the legend.
        style: The colours and shapes of the labels.
        label: The label that the line has the look of.
    """
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape_markup(name),
        "line": {"color": style.colour(label), "width": 1.8, "dash": style.dash(label)},
        "marker": style.marker(label, 8),
        "error_y": make_error_bars(style.colour(label)),
        "meta": make_meta(source, rows.index, x, "mean", low="low", high="high", hover="shown"),
    }


def describe_best(means: pd.DataFrame, names: list[str], results: Results) -> str:
    """Describe the best means at each sparsity."""
    best = means.loc[means.groupby("density")["mean"].agg("idxmax" if results.way == "max" else "idxmin")]
    descriptions = [
        f"{' '.join(str(row[name]) for name in names)} at {format_percent(row['sparsity'])} "
        f"({format_metric(row['mean'], results.quality)})"
        for row in best.sort_values("sparsity").to_dict("records")
    ]
    return "Best mean at each sparsity: " + ", ".join(descriptions) + "."
