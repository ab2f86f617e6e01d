"""The figure of champions against their random twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune.formats import format_percent
from forcetune.report.figures.figure import Figure, make_error_bars, make_meta
from forcetune.report.looks import DIM, GRID, RANDOM_COLOUR, escape_markup, make_axis, make_layout
from forcetune.report.verdicts import VERDICT_LOOKS

FOREST_COLUMNS = ["champion", "method", "against", "pairs", "mean", "low", "high", "verdict", "statement"]


def draw_forest(verdicts: Sequence[Mapping[str, Any]], margin: float | None) -> Figure | None:
    """Draw the differences between champions and their twins.

    Args:
        verdicts: The rows of the verdicts.
        margin: The margin in points of accuracy, which is shaded; None shades nothing.

    Returns:
        The figure; None where no comparison has a pair in which both runs live.
    """
    rows = [row for row in verdicts if row.get("mean") is not None]
    if not rows:
        return None
    frame = pd.DataFrame([{**row, "place": f"{index}"} for index, row in enumerate(rows)])
    frame["statement"] = frame["statement"].fillna(frame["verdict"]) if "statement" in frame else frame["verdict"]
    for bound in ("low", "high"):
        frame[bound] = pd.to_numeric(frame.get(bound, np.nan), errors="coerce")
    names = [escape_markup(f"{_format_champion(row)} − {row['against']}") for row in rows]
    margin_note = f"; the margin of {margin:g} points is shaded" if margin else ""
    counts = frame["verdict"].value_counts()
    return Figure(
        "forest",
        "Champions against random pruning",
        "Champion minus twin in points of test accuracy, mean and 95 % interval over pairs that share a seed "
        "and in which both runs live"
        f"{margin_note}. Right of zero, the champion is better.{_note_missing(len(verdicts) - len(rows))}",
        "Verdicts of the comparisons: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + ".",
        [_make_verdict_trace(frame, verdict) for verdict in VERDICT_LOOKS if (frame["verdict"] == verdict).any()],
        make_layout(
            130 + 24 * len(rows),
            xaxis=make_axis("champion minus twin, points", zeroline=True, zerolinecolor=DIM),
            yaxis=make_axis(
                type="category",
                autorange="reversed",
                showgrid=False,
                automargin=True,
                tickvals=frame["place"].tolist(),
                ticktext=names,
            ),
            shapes=_make_margin_shape(margin),
        ),
        frame[[*FOREST_COLUMNS, "place"]],
        FOREST_COLUMNS,
        {"mean": "difference"},
        {"mean": "points", "low": "points", "high": "points", "place": "words"},
        has_table_below=False,
    )


def _make_verdict_trace(frame: pd.DataFrame, verdict: str) -> dict[str, Any]:
    look = VERDICT_LOOKS[verdict]
    colour = look.colour or RANDOM_COLOUR
    rows = frame.index[frame["verdict"] == verdict]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": verdict,
        "showlegend": True,
        "marker": {"color": colour, "symbol": look.symbol, "size": 10, "line": {"color": "var(--edge)", "width": 0.8}},
        "error_x": make_error_bars(colour, 1.6),
        "meta": make_meta("forest", rows, "mean", "place", low="low", high="high", hover="shown"),
    }


def _make_margin_shape(margin: float | None) -> list[dict[str, Any]]:
    """Make the shaded margin within which two networks are as good as each other."""
    look = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "fillcolor": GRID, "opacity": 0.6}
    return [{**look, "line": {"width": 0}, "x0": -margin, "x1": margin}] if margin else []


def _note_missing(count: int) -> str:
    """Return a sentence on the comparisons that have no difference to draw; empty where there are none."""
    if not count:
        return ""
    comparisons = "1 comparison has" if count == 1 else f"{count} comparisons have"
    return f" {comparisons} no pair in which both runs live: the table alone shows them."


def _format_champion(row: Mapping[str, Any]) -> str:
    position = format_percent(row["sparsity"]) if row.get("sparsity") is not None else row.get("band", "")
    return f"{row['method']} {position}"
