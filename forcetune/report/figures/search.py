"""The figures of the search: hypervolume, learning curves, and masks that change while a trial trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from forcetune.formats import format_percent
from forcetune.report import numbers
from forcetune.report.columns import format_heading, is_share
from forcetune.report.figures.figure import Figure, format_metric, make_meta
from forcetune.report.looks import DIM, Style, escape_markup, make_axis, make_layout, make_panels
from forcetune.report.results import Results


def draw_growth(results: Results) -> Figure | None:
    """Draw the hypervolume over trials, and over device hours where those are known.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.

    Returns:
        The figure; None where the hypervolume never grew.
    """
    volumes = numbers.trace_hypervolume(results)
    if not len(volumes):
        return None
    axis_titles = {"trials": "over trials"}
    if volumes["device_hours"].iloc[-1] > 0:
        axis_titles["device_hours"] = "over device hours"
    axes = make_panels(
        list(axis_titles.values()), 2, make_axis(rangemode="tozero"), make_axis("hypervolume", rangemode="tozero")
    )
    axes.get("xaxis2", {}).pop("matches", None)
    line_look = {"mode": "lines", "line": {"shape": "hv", "color": "var(--accent)", "width": 2}, "showlegend": False}
    traces = [
        {
            "type": "scatter",
            "name": title,
            **line_look,
            "xaxis": f"x{axis_number or ''}",
            "yaxis": f"y{axis_number or ''}",
            "meta": make_meta("growth", volumes.index, column, "hypervolume", hover="shown"),
        }
        for axis_number, (column, title) in zip((0, 2), axis_titles.items(), strict=False)
    ]
    return Figure(
        "growth",
        "Hypervolume",
        f"Hypervolume of the front as trials end, {_describe_references(*numbers.find_references(results))}.",
        _describe_growth(volumes),
        traces,
        make_layout(420, **axes),
        volumes,
        ["trials", "device_hours", "hypervolume", "name"],
        {"name": "trial"},
        {"device_hours": "number", "hypervolume": "number"},
    )


def _describe_references(origin: Mapping[str, float], assumed: Sequence[str]) -> str:
    """Describe the reference that the hypervolume is measured from, and how densities and seeds count."""
    worst_note = " (the worst value of the study, because no reference is set)"
    references = [
        f"{format_heading(name)} {format_metric(value, name)}{worst_note if name in assumed else ''}"
        for name, value in origin.items()
    ]
    return (
        f"measured from {' and '.join(references)}; densities count by their logarithm, and each trial by its result "
        "in the search, from one seed"
    )


def _describe_growth(volumes: pd.DataFrame) -> str:
    final = volumes.iloc[-1]
    nearly_final = volumes[volumes["hypervolume"] >= 0.99 * final["hypervolume"]].iloc[0]
    return (
        f"The hypervolume grew to {final['hypervolume']:.4g} over {int(final['trials'])} trials, and reached 99 % of "
        f"this value after {int(nearly_final['trials'])}."
    )


def draw_curves(trials: pd.DataFrame, curves: pd.DataFrame, metric: str, style: Style) -> Figure | None:
    """Draw learning curves, those of the front in colour.

    Args:
        trials: The trials, as those of `numbers.prepare_trials`.
        curves: The values: run_id, step and value.
        metric: The metric of the curves.
        style: The colours and shapes of the labels.

    Returns:
        The figure; None where there are no curves.
    """
    if not len(curves):
        return None
    trial_rows = trials.set_index("run_id").loc[curves["run_id"]].reset_index()
    frame = trial_rows[["name", "label", "outcome", "on_front"]].assign(
        epoch=curves["step"].to_numpy(), **{metric: curves["value"].to_numpy()}
    )
    metric_heading = format_heading(metric)
    count, front = frame["name"].nunique(), frame["name"][frame["on_front"]].nunique()
    return Figure(
        "curves",
        "Learning curves",
        f"{metric_heading.capitalize()} by epoch of {count} of {len(trials)} trials. Trials on the front are "
        "coloured; other trials are grey, and dotted if they were stopped early.",
        f"Learning curves of {count} trials, {front} of them on the front.",
        _make_curve_traces(frame, metric, style),
        make_layout(
            460,
            xaxis=make_axis("epoch", rangemode="tozero"),
            yaxis=make_axis(metric_heading, is_share=is_share(metric)),
        ),
        frame.drop(columns="on_front"),
        ["name", "label", "outcome", "epoch", metric],
        {"name": "trial", "label": "method"},
        across=("name", "epoch", metric),
    )


def draw_trails(trials: pd.DataFrame, trails: Mapping[str, Sequence[Mapping[str, Any]]], style: Style) -> Figure | None:
    """Draw the density over the training steps of trials whose masks changed.

    Args:
        trials: The trials, as `numbers.prepare_trials` returns them.
        trails: The changes by run id, each with `step`, the weights `kept` in each layer, `returned` and `removed`.
        style: The colours and shapes of the labels.

    Returns:
        The figure; None where no masks changed.
    """
    if not trails:
        return None
    named = trials.set_index("run_id")[["name", "label", "density"]]
    change_rows = []
    for run, changes in trails.items():
        name, label, final_density = named.loc[run]
        last_count = sum(changes[-1]["kept"]) or 1
        change_rows += [
            {
                "name": name,
                "label": label,
                "step": change["step"],
                "density": final_density * sum(change["kept"]) / last_count,
                "returned": change["returned"],
                "removed": change["removed"],
            }
            for change in changes
        ]
    frame = pd.DataFrame(change_rows)
    label_rows = {label: frame.index[frame["label"] == label] for label in style.labels}
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": escape_markup(label),
            "line": {"shape": "hv", "width": 1.5, **_make_line_look(label, style)},
            "marker": style.marker(label, 5),
            "meta": make_meta("trails", rows, "step", "density", gap="name", hover="shown"),
        }
        for label, rows in label_rows.items()
        if len(rows)
    ]
    count, returned = frame["name"].nunique(), int(frame["returned"].sum())
    return Figure(
        "trails",
        "Masks while training",
        "Density after each change of the masks, for points of the front that were pruned while they trained. Each "
        "change shows how many weights were removed and how many returned.",
        f"Density by training step of {count} trials, down to {format_percent(frame['density'].min())}; in all "
        f"{returned} weights returned.",
        traces,
        make_layout(
            460,
            xaxis=make_axis("training step", rangemode="tozero"),
            yaxis=make_axis("density", is_share=True, rangemode="tozero"),
        ),
        frame,
        ["name", "label", "step", "density", "removed", "returned"],
        {"name": "trial", "label": "method"},
    )


def _make_curve_traces(frame: pd.DataFrame, metric: str, style: Style) -> list[dict[str, Any]]:
    """Make the traces, grey ones first, so that the front lies on top."""
    front, trained = frame["on_front"], frame["outcome"] == "trained"
    grey_groups = {
        "stopped early or running": (~front & ~trained, {"color": DIM, "dash": "dot"}, 0.35),
        "trained, not on the front": (~front & trained, {"color": DIM, "dash": "solid"}, 0.45),
    }
    front_groups = {
        f"front: {label}": (front & (frame["label"] == label), _make_line_look(label, style), 1.0)
        for label in style.labels
    }
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape_markup(name),
            "line": {"width": 1.5, **line},
            "opacity": opacity,
            "meta": make_meta("curves", frame.index[rows], "epoch", metric, gap="name", hover="shown"),
        }
        for name, (rows, line, opacity) in {**grey_groups, **front_groups}.items()
        if rows.any()
    ]


def _make_line_look(label: str, style: Style) -> dict[str, str]:
    return {"color": style.colour(label), "dash": style.dash(label)}
