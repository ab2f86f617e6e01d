"""The figures of the FORCE paper: iterations and schedules, methods side by side, density by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune.formats import format_percent
from forcetune.report import paper
from forcetune.report.columns import format_heading, is_share
from forcetune.report.figures.figure import (
    Figure,
    compute_height,
    describe_best,
    make_error_bars,
    make_mean_line,
    make_meta,
)
from forcetune.report.looks import (
    DIM,
    INK,
    METHOD_DASHES,
    METHOD_SYMBOLS,
    Style,
    escape_markup,
    make_axis,
    make_layout,
    make_panels,
    make_sparsity_axis,
)
from forcetune.report.results import Results

PANELS_PER_ROW = 3
MAX_CHANGES = 40  # columns of the heat map of changes
MAX_LABELLED_POINTS = 7  # points of the heat map whose names fit side by side
SCHEDULE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MEANS_CAPTION = "with 95 % intervals over seeds and other varied fields; collapsed trials count at chance accuracy."


def draw_iterations(results: Results, style: Style) -> Figure | None:
    """Draw the study's quality by iterations, for each schedule.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.
        style: The colours and shapes of the labels.

    Returns:
        The figure: a panel for each density where densities are repeated, else accuracies relative to what is usual at
        a density. None where fewer than two numbers of iterations were tried, or too few trials show what is usual.
    """
    counted = paper.select_iterations(results.trials)
    if not len(counted):
        return None
    if paper.has_repeated_densities(counted):
        return _draw_panels(paper.average_by_iterations(counted), results, style)
    relative = paper.compare_at_equal_density(counted, results.trials)
    return _draw_relative(relative) if len(relative) else None


def _draw_panels(means: pd.DataFrame, results: Results, style: Style) -> Figure:
    densities = sorted(means["density"].unique(), reverse=True)
    schedules = sorted(means["schedule"].unique())
    traces = []
    for (density, label, schedule), rows in means.groupby(["density", "label", "schedule"], sort=True):
        trace = make_mean_line("iterations", rows, "iterations", f"{label} {schedule}".strip(), style, str(label))
        trace["line"]["dash"] = METHOD_DASHES[schedules.index(schedule) % len(METHOD_DASHES)]
        trace["marker"]["symbol"] = METHOD_SYMBOLS[schedules.index(schedule) % len(METHOD_SYMBOLS)]
        traces.append({**trace, **_name_axes(densities.index(density)), "legendgroup": trace["name"]})
    quality, in_percent = format_heading(results.quality), is_share(results.quality)
    x = make_axis("iterations", type="log", **_make_ticks(means["iterations"]))
    titles = [f"{format_percent(1 - density)} sparsity" for density in densities]
    axes = make_panels(titles, PANELS_PER_ROW, x, make_axis(quality, is_share=in_percent))
    return Figure(
        "iterations",
        "Iterations and schedules",
        f"Mean {quality} by pruning iterations at each sparsity, one colour per method and one dash per "
        "schedule, " + MEANS_CAPTION,
        describe_best(means, ["label", "schedule", "iterations"], results),
        _show_names_once(traces),
        make_layout(360 * -(-len(densities) // PANELS_PER_ROW) + 60, **axes),
        means,
        ["sparsity", "label", "schedule", "iterations", "mean", "low", "high", "trials"],
        {"label": "method"},
        dict.fromkeys(["mean", "low", "high"], "share" if in_percent else "number"),
        is_wide=True,
    )


def _name_axes(index: int) -> dict[str, str]:
    number = str(index + 1) if index else ""
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _show_names_once(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [trace["name"] for trace in traces]
    return [{**trace, "showlegend": names.index(trace["name"]) == index} for index, trace in enumerate(traces)]


def _make_ticks(values: pd.Series) -> dict[str, Any]:
    """Return the values themselves as ticks where they are few; else round numbers."""
    unique_values = sorted(values.unique().tolist())
    ticks = (
        unique_values
        if len(unique_values) <= 6
        else [
            number for number in (1, 2, 3, 5, 10, 20, 50, 100, 200) if unique_values[0] <= number <= unique_values[-1]
        ]
    )
    return {"tickvals": ticks, "ticktext": [f"{number:g}" for number in ticks]}


def _draw_relative(relative: pd.DataFrame) -> Figure:
    """Draw accuracies relative to what is usual at a density.

    The frame of the figure has the trials, then the means, which have no method.
    """
    means = paper.average_in_bins(relative)
    frame = pd.concat([relative, means.assign(name="mean", label="")], ignore_index=True)
    frame = frame[["name", "label", "schedule", "iterations", "sparsity", "points", "low", "high", "trials"]]
    schedules = enumerate(sorted(relative["schedule"].unique()))
    best = means.loc[means.groupby("schedule")["points"].idxmax()].to_dict("records")
    descriptions = [
        f"{row['schedule']} {row['points']:+.1f} points near {row['iterations']:g} iterations" for row in best
    ]
    return Figure(
        "iterations",
        "Iterations and schedules",
        "Accuracy of each trial minus the usual accuracy at its density, in points, by pruning iterations. Lines: "
        "means over trials with similar numbers of iterations, with 95 % intervals.",
        f"Best mean of each schedule: {'; '.join(descriptions)}.",
        [trace for index, schedule in schedules for trace in _make_schedule_traces(frame, schedule, index)],
        make_layout(
            430,
            xaxis=make_axis("iterations", type="log", **_make_ticks(relative["iterations"])),
            yaxis=make_axis("points above the usual accuracy", zeroline=True, zerolinecolor=DIM),
        ),
        frame,
        list(frame.columns),
        {"label": "method", "name": "trial", "points": "points above the usual accuracy"},
        {"points": "points", "low": "points", "high": "points"},
    )


def _make_schedule_traces(frame: pd.DataFrame, schedule: str, index: int) -> list[dict[str, Any]]:
    """Make the trials of a schedule as faint points, and the line of their means."""
    is_of_schedule, is_mean = frame["schedule"] == schedule, frame["trials"].notna()
    colour = SCHEDULE_COLOURS[index % len(SCHEDULE_COLOURS)]
    marker = {"color": colour, "symbol": METHOD_SYMBOLS[index % len(METHOD_SYMBOLS)]}
    shared = {"type": "scatter", "name": escape_markup(schedule), "legendgroup": escape_markup(schedule)}
    line = {"color": colour, "width": 2, "dash": METHOD_DASHES[index % len(METHOD_DASHES)]}
    edged = {**marker, "size": 9, "line": {"color": "var(--edge)", "width": 0.8}}
    points, means = (
        make_meta(
            "iterations",
            frame.index[is_of_schedule & rows],
            "iterations",
            "points",
            low="low",
            high="high",
            hover="shown",
        )
        for rows in (~is_mean, is_mean)
    )
    faint = {"mode": "markers", "showlegend": False, "opacity": 0.45, "marker": {**marker, "size": 6}}
    return [
        {**shared, **faint, "error_y": make_error_bars(colour), "meta": points},
        {
            **shared,
            "mode": "lines+markers",
            "line": line,
            "marker": edged,
            "error_y": make_error_bars(colour, 1.3),
            "meta": means,
        },
    ]


def draw_methods(results: Results, style: Style) -> Figure | None:
    """Draw methods side by side over sparsity.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.
        style: The colours and shapes of the labels.

    Returns:
        The figure; None where there are fewer than two methods.
    """
    means, has_repeats = paper.compare_methods(results)
    if means["label"].nunique() < 2:
        return None
    quality, in_percent = format_heading(results.quality), is_share(results.quality)
    rows_by_label = {label: means[means["label"] == label] for label in style.labels}
    shown = ["label", "sparsity", "mean", "low", "high", "trials" if has_repeats else "name"]
    return Figure(
        "methods",
        "Methods side by side",
        f"Mean {quality} of each method over sparsity, {MEANS_CAPTION}"
        if has_repeats
        else f"Front of each method: the best {quality} of its trials at each sparsity, with intervals "
        "for trials that were run again with fresh seeds.",
        describe_best(means, ["label"], results) if has_repeats else _describe_sparsest(means),
        [
            make_mean_line("methods", label_rows, "density", label, style, label)
            for label, label_rows in rows_by_label.items()
            if len(label_rows)
        ],
        make_layout(
            compute_height(430, style),
            xaxis=make_sparsity_axis(means["density"].tolist(), coarse=True),
            yaxis=make_axis(quality, is_share=in_percent),
        ),
        means[[*shown, "density"]],
        shown,
        {"label": "method", "mean": "mean" if has_repeats else quality, "name": "trial"},
        dict.fromkeys(["mean", "low", "high"], "share" if in_percent else "number"),
    )


def _describe_sparsest(means: pd.DataFrame) -> str:
    sparsest = means.loc[means.groupby("label")["sparsity"].idxmax()].sort_values("sparsity", ascending=False)
    descriptions = [f"{row['label']} {format_percent(row['sparsity'])}" for row in sparsest.to_dict("records")]
    return "Highest sparsity of each method: " + ", ".join(descriptions) + "."


def draw_layers(trials: pd.DataFrame, layer_rows: Mapping[str, list[dict[str, Any]]]) -> list[Figure]:
    """Draw the density by layer over the front, a figure for each network.

    Args:
        trials: The trials, as those of `numbers.prepare_trials`.
        layer_rows: The rows of layers.json by run id.
    """
    front = trials[trials["on_front"]]
    networks = paper.split_by_network(front, layer_rows)
    return [
        _draw_heat_map(f"layers{index or ''}", name if len(networks) > 1 else "", rows, len(front))
        for index, (name, rows) in enumerate(networks)
    ]


def _draw_heat_map(id_: str, network: str, rows: pd.DataFrame, front_size: int) -> Figure:
    points = rows.drop_duplicates("name")
    subset = "" if len(points) == front_size else f" ({len(points)} of {front_size} points)"
    sparsities = [format_percent(value) for value in points["sparsity"]]
    return Figure(
        id_,
        f"Density by layer{f': {network}' if network else ''}",
        f"Share of the weights kept in each layer, in the networks of the front{subset}; the colours are logarithmic."
        + _describe_empty_layers(paper.find_empty_layers(rows)),
        _write_layer_alt_text(rows),
        [_make_heat(id_, rows), *_make_crosses(id_, rows)],
        _make_layer_layout(rows, "sparsity of the front's points", points["name"].tolist(), sparsities),
        rows,
        ["name", "label", "sparsity", "layer", "kept", "weights", "density"],
        {"label": "method", "name": "trial"},
    )


def _make_layer_layout(rows: pd.DataFrame, title: str, columns: list[str], labels: list[str]) -> dict[str, Any]:
    """Make the layout of a heat map with a row for each layer.

    Args:
        rows: The cells, with the column layer.
        title: The title of the x axis.
        columns: The columns of the heat map.
        labels: Their labels, of which the axis shows as many as fit.
    """
    layers, stride = rows["layer"].drop_duplicates().tolist(), -(-len(columns) // MAX_LABELLED_POINTS)
    categories: dict[str, Any] = {"type": "category", "showgrid": False}
    x = make_axis(title, **categories, tickangle=0, tickvals=columns[::stride], ticktext=labels[::stride])
    names = [escape_markup(layer) for layer in layers]
    y = make_axis("layer", **categories, autorange="reversed", automargin=True, tickvals=layers, ticktext=names)
    return make_layout(max(320, 150 + 20 * len(layers)), xaxis=x, yaxis=y, showlegend=False)


def draw_changing_layers(
    trials: pd.DataFrame,
    layer_rows: Mapping[str, list[dict[str, Any]]],
    trails: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Figure | None:
    """Draw the density by layer after each change of the masks, of the sparsest trial whose masks changed.

    Args:
        trials: The trials, as those of `numbers.prepare_trials`.
        layer_rows: The rows of layers.json by run id.
        trails: The changes by run id, each with `step` and the weights `kept` in each layer.

    Returns:
        The figure; None where no trial has both.
    """
    runs = trials[trials["run_id"].isin({*layer_rows} & {*trails})].sort_values("density")
    if not len(runs):
        return None
    trial = runs.iloc[0]
    changes, layers = trails[trial["run_id"]], layer_rows[trial["run_id"]]
    stride = -(-len(changes) // MAX_CHANGES)
    rows = pd.DataFrame(
        [
            {
                "step": f"{change['step']:,}",
                "layer": paper.format_layer_label(layer),
                "kept": kept,
                "weights": layer["weights"],
                "density": kept / layer["weights"],
            }
            for change in changes[::-1][::stride][::-1]
            for layer, kept in zip(layers, change["kept"], strict=True)
        ]
    )
    steps = rows["step"].drop_duplicates().tolist()
    shown_note = "" if stride == 1 else f" One change in {stride} is shown, the last one included."
    return Figure(
        "changes",
        "Density by layer while training",
        f"Share of the weights kept in each layer after each change of the masks of {trial['name']} "
        f"({trial['label']}), the sparsest point of the front that was pruned while it trained; the colours are "
        f"logarithmic.{shown_note}",
        f"Density by layer of {trial['name']} after {len(changes)} changes of its masks.",
        [_make_heat("changes", rows, "step"), *_make_crosses("changes", rows, "step")],
        _make_layer_layout(rows, "training step of the change", steps, steps),
        rows,
        ["step", "layer", "kept", "weights", "density"],
        {},
    )


def _make_heat(id_: str, rows: pd.DataFrame, x: str = "name") -> dict[str, Any]:
    """Make the colours, which grow in lightness so that they can be read without their hue."""
    log_densities = np.log10(rows["density"][rows["kept"] > 0].to_numpy(float))
    lowest = float(log_densities.min()) if len(log_densities) else -1.0
    ticks = [power for power in range(int(np.floor(lowest)), 1) if power >= lowest]
    bar = {"tickvals": ticks, "ticktext": [f"{100 * 10.0**power:g}%" for power in ticks]}
    return {
        "type": "heatmap",
        "colorscale": "Cividis",
        "zmin": lowest,
        "zmax": 0.0,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "density", "font": {"size": 13}}, "thickness": 14, "outlinewidth": 0, **bar},
        "meta": make_meta(id_, rows.index, x, "layer", z="density", hover="shown"),
    }


def _make_crosses(id_: str, rows: pd.DataFrame, x: str = "name") -> list[dict[str, Any]]:
    """Make a cross at each layer that has no weight left."""
    gaps = rows.index[rows["kept"] == 0]
    look = {"symbol": "x-thin", "size": 10, "color": INK, "line": {"color": INK, "width": 2}}
    meta = make_meta(id_, gaps, x, "layer", hover="shown")
    return [{"type": "scatter", "mode": "markers", "name": "empty", "marker": look, "meta": meta}] if len(gaps) else []


def _describe_empty_layers(empty: Mapping[str, list[str]]) -> str:
    if not empty:
        return " No layer is empty."
    descriptions = [
        f"{layer} (in {', '.join(runs[:3])}{f' and {len(runs) - 3} more' if len(runs) > 3 else ''})"
        for layer, runs in empty.items()
    ]
    return f" Crosses mark layers without a weight: {'; '.join(descriptions)}."


def _write_layer_alt_text(rows: pd.DataFrame) -> str:
    last = rows[rows["name"] == rows["name"].iloc[-1]]
    densest, emptiest = last.loc[last["density"].idxmax()], last.loc[last["density"].idxmin()]
    return (
        f"In the sparsest network, {last['name'].iloc[0]}, the densest layer is {densest['layer']} with "
        f"{densest['density']:.2%} of its weights, the sparsest {emptiest['layer']} with {emptiest['density']:.2%}."
    )
