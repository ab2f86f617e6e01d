"""Champions against their random twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune.report.figures.figure import Figure, bars, of
from forcetune.report.looks import DIM, GRID, RANDOM, axis, layout, percent, plain

KINDS = {  # as on the page of a night
    "beats": ("#009e73", "triangle-up"),
    "ties": ("#56b4e9", "square"),
    "loses": ("#d55e00", "triangle-down"),
    "undecided": (RANDOM, "circle"),
}
SHOWN = ["champion", "method", "against", "pairs", "mean", "low", "high", "verdict"]


def forest(verdicts: Sequence[Mapping[str, Any]], margin: float | None) -> Figure | None:
    """Differences between champions and their twins; None where no pair says anything."""
    rows = [row for row in verdicts if row.get("mean") is not None]
    if not rows:
        return None
    frame = pd.DataFrame([{**row, "place": f"{place}"} for place, row in enumerate(rows)])
    for side in ("low", "high"):
        frame[side] = pd.to_numeric(frame.get(side, np.nan), errors="coerce")
    names = [plain(f"{_champion(row)} − {row['against']}") for row in rows]
    told = f", the margin of {margin:g} points shaded" if margin else ""
    counts = frame["verdict"].value_counts()
    return Figure(
        "forest",
        "Champions against random pruning",
        "Champion minus twin in points of test accuracy, mean and 95 % interval over pairs that share a seed"
        f"{told}: right of zero the champion is better.",
        "Of the comparisons " + ", ".join(f"{count} say {verdict}" for verdict, count in counts.items()) + ".",
        [_verdict_trace(frame, verdict) for verdict in KINDS if (frame["verdict"] == verdict).any()],
        layout(
            130 + 24 * len(rows),
            xaxis=axis("champion minus twin, points", zeroline=True, zerolinecolor=DIM),
            yaxis=axis(
                type="category",
                autorange="reversed",
                showgrid=False,
                automargin=True,
                tickvals=frame["place"].tolist(),
                ticktext=names,
            ),
            shapes=_shaded(margin),
        ),
        frame[[*SHOWN, "place"]],
        SHOWN,
        {"mean": "difference"},
        {"mean": "points", "low": "points", "high": "points", "place": "words"},
        tabled=False,
    )


def _verdict_trace(frame: pd.DataFrame, verdict: str) -> dict[str, Any]:
    colour, symbol = KINDS[verdict]
    rows = frame.index[frame["verdict"] == verdict]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": verdict,
        "showlegend": True,
        "marker": {"color": colour, "symbol": symbol, "size": 10, "line": {"color": "var(--edge)", "width": 0.8}},
        "error_x": bars(colour, 1.6),
        "meta": of("forest", rows, "mean", "place", low="low", high="high", hover="shown"),
    }


def _shaded(margin: float | None) -> list[dict[str, Any]]:
    """The margin within which two are as good as each other."""
    look = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "fillcolor": GRID, "opacity": 0.6}
    return [{**look, "line": {"width": 0}, "x0": -margin, "x1": margin}] if margin else []


def _champion(row: Mapping[str, Any]) -> str:
    place = percent(round(row["sparsity"], 4)) if row.get("sparsity") is not None else row.get("band", "")
    return f"{row['method']} {place}"
