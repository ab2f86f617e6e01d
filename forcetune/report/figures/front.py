"""The figures of the trials and their front: sparsity against quality, and other objectives against each other."""

from __future__ import annotations

from typing import Any

import pandas as pd

from forcetune import analysis
from forcetune.formats import format_percent
from forcetune.report import numbers
from forcetune.report.columns import format_heading, is_share
from forcetune.report.figures.figure import (
    TRIALS_SOURCE,
    Figure,
    compute_height,
    format_metric,
    make_error_bars,
    make_meta,
)
from forcetune.report.looks import (
    DIM,
    GRID,
    INK,
    METHOD_DASHES,
    Style,
    escape_markup,
    make_axis,
    make_layout,
    make_sparsity_axis,
)
from forcetune.report.results import Results

MANY_POINTS = 1000  # beyond which points are smaller
FIRST_LABEL_RANK = 1001  # in the legend, where a trace without a rank has 1000
ERROR_ARRAY_BOUNDS = (("array", "high"), ("arrayminus", "low"))
INTERVAL_MARKER = {"symbol": "line-ns-open", "size": 8, "color": DIM}  # the interval hides it, the legend shows it


def draw_main(
    results: Results,
    dense: pd.DataFrame,
    style: Style,
    twins: pd.DataFrame | None = None,
    band: pd.DataFrame | None = None,
) -> Figure | None:
    """Draw the main figure: sparsity against the study's quality, every trial.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.
        dense: The dense companions.
        style: The colours and shapes of the labels.
        twins: The random twins, as `numbers.summarize_twins` returns them.
        band: The best accuracy at each density that is probable, as `numbers.predict_band` returns it.

    Returns:
        The figure; None where no trial has both a density and a quality.
    """
    plottable = numbers.select_plottable(results.trials)
    if not len(plottable):
        return None
    quality = format_heading(results.quality)
    lines = analysis.summarize_dense(dense, results.quality)
    points = [*_make_interval_traces(plottable), *_make_trial_traces(plottable, style, "density", "reached")]
    fronts = [
        *_make_front_traces(plottable, "density", "reached", numbers.is_front_on_main_axes(results)),
        *_make_beaten_traces(plottable),
        *_make_control_line(numbers.select_control_front(results)),
        *_make_twin_traces(twins),
    ]
    # A line stays readable below few points; many points would hide it.
    traces = [
        *_make_band_traces(band),
        *_make_dense_traces(lines, plottable["density"]),
        *([*points, *fronts] if _has_many_points(plottable) else [*fronts, *points]),
    ]
    figure_layout = make_layout(
        compute_height(620, style),
        xaxis=make_sparsity_axis(plottable["density"].tolist()),
        yaxis=make_axis(quality, is_share=is_share(results.quality)),
        shapes=_make_dense_bands(lines),
    )
    return Figure(
        "main",
        f"Sparsity against {quality}",
        _write_caption(plottable, results, has_band=band is not None and len(band) > 0),
        _write_alt_text(plottable, results),
        traces,
        figure_layout,
    )


def _write_caption(plottable: pd.DataFrame, results: Results, has_band: bool) -> str:
    hollow = (
        "; trials that were not trained to their end are hollow" if (plottable["outcome"] != "trained").any() else ""
    )
    sentence = (
        f"Every trial by its sparsity, on a logarithmic axis, and its {format_heading(results.quality)}. Each method "
        f"has a colour and a shape{hollow}."
    )
    if has_band:
        sentence += " The band holds nine of ten runs with a fresh seed of the configuration that is probably best."
    if numbers.is_front_on_main_axes(results):
        return sentence
    objectives = " and ".join(format_heading(name) for name in results.objectives)
    return f"{sentence} The front is over {objectives}; rings mark its points."


def _write_alt_text(plottable: pd.DataFrame, results: Results) -> str:
    front = plottable[plottable["on_front"]].sort_values("density", ascending=False)
    axes = f"{len(plottable)} trials by sparsity and {format_heading(results.quality)}"
    if not len(front):
        return f"{axes}; none of them is on the front."
    first, last = (
        f"{format_metric(row['reached'], results.quality)} at {format_percent(row['sparsity'])} sparsity"
        for row in front.iloc[[0, -1]].to_dict("records")
    )
    return f"{axes}. The front extends from {first} to {last}."


def draw_objectives(results: Results, style: Style) -> Figure | None:
    """Draw the first two objectives against each other.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.
        style: The colours and shapes of the labels.

    Returns:
        The figure; None where the main figure shows the objectives, or trials have no values for them.
    """
    names = list(results.objectives)
    if numbers.is_front_on_main_axes(results) or len(names) < 2 or not set(names[:2]) <= set(results.trials):
        return None
    y, x = (name if name != results.quality else "reached" for name in names[:2])
    means = {name: numbers.fill_mean(results.trials, name) for name in (x, y) if name not in ("reached", "density")}
    plottable = numbers.select_plottable(results.trials.assign(**means), x, y)
    if not len(plottable):
        return None
    x_axis = (
        make_sparsity_axis(plottable[x].tolist())
        if x == "density"
        else make_axis(format_heading(names[1]), is_share=is_share(names[1]))
    )
    traces = [*_make_front_traces(plottable, x, y, line=len(names) == 2), *_make_trial_traces(plottable, style, x, y)]
    return Figure(
        "objectives",
        f"{format_heading(names[1])} against {format_heading(names[0])}".capitalize(),
        "Every trial, and the front, by the study's first two objectives; the list has the numbers.",
        f"{len(plottable)} trials by {format_heading(names[1])} and {format_heading(names[0])}.",
        traces,
        make_layout(
            compute_height(480, style),
            xaxis=x_axis,
            yaxis=make_axis(format_heading(names[0]), is_share=is_share(names[0])),
        ),
    )


def _has_many_points(plottable: pd.DataFrame) -> bool:
    return len(plottable) > MANY_POINTS


def _make_trial_traces(plottable: pd.DataFrame, style: Style, x: str, y: str) -> list[dict[str, Any]]:
    """Make two traces for each label, with one entry in the legend: trained trials above the others."""
    trained = plottable["outcome"] == "trained"
    return [
        _make_points(label, style, is_trained, _has_many_points(plottable))
        | {"meta": make_meta(TRIALS_SOURCE, plottable.index[is_drawn], x, y, hover="trial", points=True)}
        | {"legendrank": FIRST_LABEL_RANK + index}
        | {"showlegend": is_trained or not (trained & (plottable["label"] == label)).any()}
        for is_trained in (False, True)
        for index, label in enumerate(style.labels)
        if (is_drawn := (trained == is_trained) & (plottable["label"] == label)).any()
    ]


def _make_points(label: str, style: Style, trained: bool, small: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape_markup(label),
        "legendgroup": escape_markup(label),
        "marker": style.marker(label, 5 if small else 9, hollow=not trained),
        "opacity": 0.95 if trained else 0.6,
        "unselected": {"marker": {"opacity": 0.1}},
    }


def _make_front_traces(plottable: pd.DataFrame, x: str, y: str, line: bool) -> list[dict[str, Any]]:
    """Make the front as a line, or as rings around its points where it is no line in these axes."""
    front = plottable[plottable["on_front"]].sort_values(x, kind="stable")
    if not len(front):
        return []
    ring = {"symbol": "circle-open", "size": 16, "color": INK, "line": {"width": 2}}
    as_line = line and len(front) > 1
    look = {"mode": "lines", "line": {"color": INK, "width": 2}} if as_line else {"mode": "markers", "marker": ring}
    return [_make_overlay("front", front.index, look, x, y)]


def _make_beaten_traces(plottable: pd.DataFrame) -> list[dict[str, Any]]:
    """Make a square around each point of the front that a control beats."""
    rows = plottable.index[plottable["beaten_by"].notna()]
    if not len(rows):
        return []
    square = {"symbol": "square-open", "size": 15, "color": INK, "line": {"width": 1.6}}
    return [_make_overlay("beaten by a control", rows, {"mode": "markers", "marker": square})]


def _make_control_line(front: pd.DataFrame) -> list[dict[str, Any]]:
    if len(front) < 2:
        return []
    look = {"mode": "lines", "line": {"color": INK, "width": 1.6, "dash": "dash"}}
    return [_make_overlay("front of the controls", front.index, look)]


def _make_twin_traces(twins: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Make the points of random twins, with the champion's settings or with their own: means over seeds."""
    if twins is None or not len(twins):
        return []
    ordered = twins.sort_values("density", kind="stable")
    hover_texts = [
        f"{row['arm']}: {row['mean']:.4g}, mean over {row['seeds']} seeds at {format_percent(1 - row['density'])}"
        for row in ordered.to_dict("records")
    ]
    bar = make_error_bars(DIM) | {
        array_name: (ordered[bound] - ordered["mean"]).abs().fillna(0).round(6).tolist()
        for array_name, bound in ERROR_ARRAY_BOUNDS
    }
    look = {"mode": "markers", "marker": {"symbol": "x-thin-open", "size": 9, "color": INK, "line": {"width": 1.6}}}
    coordinates = {"x": ordered["density"].tolist(), "y": ordered["mean"].round(6).tolist(), "error_y": bar}
    name = "random twins of champions, means over seeds"
    return [{"type": "scatter", "name": name, **look, **coordinates, "hovertext": hover_texts, "hoverinfo": "text"}]


def _make_interval_traces(plottable: pd.DataFrame) -> list[dict[str, Any]]:
    rows = plottable.index[plottable["low"].notna()]
    if not len(rows):
        return []
    look = {"mode": "markers", "marker": INTERVAL_MARKER, "error_y": make_error_bars(DIM)}
    return [_make_overlay("95 % interval over fresh seeds", rows, look, low="low", high="high", intervals=True)]


def _make_overlay(
    name: str, rows: pd.Index[Any], look: dict[str, Any], x: str = "density", y: str = "reached", **options: Any
) -> dict[str, Any]:
    """Make a trace over trials that shows no text at its points; `options` are further keys of its `meta`."""
    meta = make_meta(TRIALS_SOURCE, rows, x, y, **options)
    return {"type": "scatter", "name": name, **look, "hoverinfo": "skip", "meta": meta}


def _make_band_traces(band: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Make the band that holds nine of ten runs with a fresh seed, and the line of what is expected."""
    if band is None or not len(band):
        return []
    ordered = band.sort_values("density", kind="stable").round({"accuracy": 6, "low": 6, "high": 6})
    density = ordered["density"].tolist()
    outline = {"x": density + density[::-1], "y": ordered["low"].tolist() + ordered["high"].tolist()[::-1]}
    group = {"type": "scatter", "mode": "lines", "legendgroup": "band", "hoverinfo": "skip"}
    look = {"fill": "toself", "fillcolor": GRID, "opacity": 0.6, "line": {"width": 0}}
    line = {"line": {"color": DIM, "width": 1.2, "dash": "dot"}, "showlegend": False}
    name = "expected of a run with a fresh seed, nine of ten"
    expected = {"x": density, "y": ordered["accuracy"].tolist()}
    return [{**group, "name": name, **look, **outline}, {**group, "name": name, **line, **expected}]


def _make_dense_traces(lines: pd.DataFrame, density: pd.Series) -> list[dict[str, Any]]:
    """Make a line across the figure for each unpruned network."""
    ends = [float(density.min()) / 3, float(max(1.0, density.max()))]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape_markup(f"dense {row['model']}" if len(lines) > 1 else "dense network"),
            "x": ends,
            "y": [row["mean"], row["mean"]],
            "line": {"color": DIM, "width": 1.5, "dash": METHOD_DASHES[2 + index % 4]},
            "hoverinfo": "name",
        }
        for index, row in enumerate(lines.to_dict("records"))
    ]


def _make_dense_bands(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """Make the intervals of the unpruned networks."""
    look = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "fillcolor": GRID, "opacity": 0.5, "layer": "below"}
    intervals = lines.dropna(subset=["low"]).to_dict("records")
    return [{**look, "line": {"width": 0}, "y0": row["low"], "y1": row["high"]} for row in intervals]
