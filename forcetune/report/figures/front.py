"""Trials and their front: sparsity against what is reached, and other objectives against each other."""

from __future__ import annotations

from typing import Any

import pandas as pd

from forcetune import analysis
from forcetune.report import numbers
from forcetune.report.columns import heading, is_share
from forcetune.report.figures.figure import TRIALS, Figure, bars, height, measure, of, said
from forcetune.report.looks import DASHES, DIM, GRID, INK, Style, axis, layout, percent, plain, sparsity_axis

MANY = 1000  # points, of which each is drawn smaller
AFTER = 1001  # in the legend: what has no rank has 1000
ENDS = (("array", "high"), ("arrayminus", "low"))
SHORT = {"symbol": "line-ns-open", "size": 8, "color": DIM}  # hidden by the interval, but seen in the legend


def main(trials: pd.DataFrame, dense: pd.DataFrame, style: Style, twins: pd.DataFrame | None = None) -> Figure | None:
    """Sparsity against what is reached, every trial; None where no trial has both.

    dense: dense companions; twins: as `numbers.twins` tells them.
    """
    told = numbers.plotted(trials)
    if not len(told):
        return None
    lines = analysis.unpruned(dense, trials.attrs["quality"])
    points = [*_interval_traces(told), *_trial_traces(told, style, "density", "reached")]
    fronts = [
        *_front_traces(told, "density", "reached", numbers.on_main_axes(trials)),
        *_beaten_traces(told),
        *_line_of_controls(numbers.control_front(trials)),
        *_twin_traces(twins),
    ]
    # a line is read through a few points, but lost below many
    traces = [*_dense_traces(lines, told["density"]), *([*points, *fronts] if _many(told) else [*fronts, *points])]
    look = layout(
        height(620, style),
        xaxis=sparsity_axis(told["density"].tolist()),
        yaxis=axis(measure(trials), share=is_share(trials.attrs["quality"])),
        shapes=_bands(lines),
    )
    return Figure("main", f"Sparsity against {measure(trials)}", _told(told, trials), _seen(told, trials), traces, look)


def _told(told: pd.DataFrame, trials: pd.DataFrame) -> str:
    hollow = ", hollow where it was not trained to its end" if (told["outcome"] != "trained").any() else ""
    sentence = (
        f"Every trial by its sparsity, on a logarithmic axis, and its {measure(trials)}: a colour and a shape for each "
        f"method{hollow}."
    )
    if numbers.on_main_axes(trials):
        return sentence
    objectives = " and ".join(heading(name) for name in trials.attrs["objectives"])
    return f"{sentence} The front is one of {objectives}: its points are ringed here."


def _seen(told: pd.DataFrame, trials: pd.DataFrame) -> str:
    front = told[told["on_front"]].sort_values("density", ascending=False)
    if not len(front):
        return f"{len(told)} trials by sparsity and {measure(trials)}; none of them is on the front."
    first, last = (
        f"{said(row['reached'], trials)} at {percent(row['sparsity'])} sparsity"
        for row in front.iloc[[0, -1]].to_dict("records")
    )
    return f"{len(told)} trials by sparsity and {measure(trials)}. The front leads from {first} to {last}."


def objectives(trials: pd.DataFrame, style: Style) -> Figure | None:
    """The first two objectives against each other where the main figure is of others; None where it is not."""
    names = list(trials.attrs["objectives"])
    if numbers.on_main_axes(trials) or len(names) < 2 or not set(names[:2]) <= set(trials):
        return None
    y, x = (name if name != trials.attrs["quality"] else "reached" for name in names[:2])
    told = numbers.plotted(trials, x, y)
    if not len(told):
        return None
    across = sparsity_axis(told[x].tolist()) if x == "density" else axis(heading(names[1]), share=is_share(names[1]))
    traces = [*_front_traces(told, x, y, line=len(names) == 2), *_trial_traces(told, style, x, y)]
    return Figure(
        "objectives",
        f"{heading(names[1])} against {heading(names[0])}".capitalize(),
        "The study's first two objectives, each trial, and the front as it is in them; the numbers are in the list.",
        f"{len(told)} trials by {heading(names[1])} and {heading(names[0])}.",
        traces,
        layout(height(480, style), xaxis=across, yaxis=axis(heading(names[0]), share=is_share(names[0]))),
    )


def _many(told: pd.DataFrame) -> bool:
    return len(told) > MANY


def _trial_traces(told: pd.DataFrame, style: Style, x: str, y: str) -> list[dict[str, Any]]:
    """Two a method, under one entry of the legend: what was trained, over what was not."""
    trained = told["outcome"] == "trained"
    return [
        _points(label, style, is_trained, _many(told))
        | {"meta": of(TRIALS, told.index[own], x, y, hover="trial", points=True)}
        | {"legendrank": AFTER + place}
        | {"showlegend": is_trained or not (trained & (told["label"] == label)).any()}
        for is_trained in (False, True)
        for place, label in enumerate(style.labels)
        if (own := (trained == is_trained) & (told["label"] == label)).any()
    ]


def _points(label: str, style: Style, trained: bool, small: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(label),
        "legendgroup": plain(label),
        "marker": style.marker(label, 5 if small else 9, hollow=not trained),
        "opacity": 0.95 if trained else 0.6,
        "unselected": {"marker": {"opacity": 0.1}},
    }


def _front_traces(told: pd.DataFrame, x: str, y: str, line: bool) -> list[dict[str, Any]]:
    """The front as a line, or ringed where it is none."""
    front = told[told["on_front"]].sort_values(x, kind="stable")
    if not len(front):
        return []
    ring = {"symbol": "circle-open", "size": 16, "color": INK, "line": {"width": 2}}
    as_line = line and len(front) > 1
    look = {"mode": "lines", "line": {"color": INK, "width": 2}} if as_line else {"mode": "markers", "marker": ring}
    return [{"type": "scatter", "name": "front", **look, "hoverinfo": "skip", "meta": of(TRIALS, front.index, x, y)}]


def _beaten_traces(told: pd.DataFrame) -> list[dict[str, Any]]:
    """A square around each point of the front that a control beats."""
    rows = told.index[told["beaten_by"].notna()]
    if not len(rows):
        return []
    square = {"symbol": "square-open", "size": 15, "color": INK, "line": {"width": 1.6}}
    look = {"mode": "markers", "marker": square, "hoverinfo": "skip"}
    return [{"type": "scatter", "name": "beaten by a control", **look, "meta": of(TRIALS, rows, "density", "reached")}]


def _line_of_controls(front: pd.DataFrame) -> list[dict[str, Any]]:
    if len(front) < 2:
        return []
    look = {"mode": "lines", "line": {"color": INK, "width": 1.6, "dash": "dash"}, "hoverinfo": "skip"}
    meta = of(TRIALS, front.index, "density", "reached")
    return [{"type": "scatter", "name": "front of the controls alone", **look, "meta": meta}]


def _twin_traces(twins: pd.DataFrame | None) -> list[dict[str, Any]]:
    """What random pruning reached beside champions, with their settings or its own: means over seeds."""
    if twins is None or not len(twins):
        return []
    known = twins.sort_values("density", kind="stable")
    told = [
        f"{row['arm']}: {row['mean']:.4g}, mean over {row['seeds']} seeds at {percent(round(1 - row['density'], 5))}"
        for row in known.to_dict("records")
    ]
    bar = bars(DIM) | {side: (known[end] - known["mean"]).abs().fillna(0).round(6).tolist() for side, end in ENDS}
    look = {"mode": "markers", "marker": {"symbol": "x-thin-open", "size": 9, "color": INK, "line": {"width": 1.6}}}
    places = {"x": known["density"].tolist(), "y": known["mean"].round(6).tolist(), "error_y": bar}
    name = "random twins of champions, over seeds"
    return [{"type": "scatter", "name": name, **look, **places, "hovertext": told, "hoverinfo": "text"}]


def _interval_traces(told: pd.DataFrame) -> list[dict[str, Any]]:
    rows = told.index[told["low"].notna()]
    look = {"mode": "markers", "marker": SHORT, "error_y": bars(DIM), "hoverinfo": "skip"}
    meta = of(TRIALS, rows, "density", "reached", low="low", high="high", intervals=True)
    return [{"type": "scatter", "name": "95 % interval, by fresh seeds", **look, "meta": meta}] if len(rows) else []


def _dense_traces(lines: pd.DataFrame, density: pd.Series) -> list[dict[str, Any]]:
    """What unpruned networks reach, across the figure."""
    ends = [float(density.min()) / 3, float(max(1.0, density.max()))]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plain(f"dense {row['model']}" if len(lines) > 1 else "dense: nothing pruned"),
            "x": ends,
            "y": [row["mean"], row["mean"]],
            "line": {"color": DIM, "width": 1.5, "dash": DASHES[2 + place % 4]},
            "hoverinfo": "name",
        }
        for place, row in enumerate(lines.to_dict("records"))
    ]


def _bands(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """Their intervals."""
    look = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "fillcolor": GRID, "opacity": 0.5, "layer": "below"}
    known = lines.dropna(subset=["low"]).to_dict("records")
    return [{**look, "line": {"width": 0}, "y0": row["low"], "y1": row["high"]} for row in known]
