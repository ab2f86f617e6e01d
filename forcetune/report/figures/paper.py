"""The FORCE paper's figures: iterations and schedules, methods side by side, density by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from forcetune.report import paper
from forcetune.report.columns import is_share
from forcetune.report.figures.figure import Figure, bars, best_of, height, mean_line, measure, of
from forcetune.report.looks import DASHES, DIM, INK, SYMBOLS, Style, axis, layout, panels, percent, plain, sparsity_axis

ACROSS = 3  # panels
LABELLED = 7  # points of the heat map that can be named side by side
SCHEDULES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
AT_CHANCE = "with 95 % intervals over seeds and all else that was varied; collapsed trials count at chance."


def iterations(trials: pd.DataFrame, style: Style) -> Figure | None:
    """What is reached by iterations for each schedule; None where iterations were not varied."""
    told = paper.of_iterations(trials)
    if not len(told):
        return None
    if paper.repeats(told):
        return _by_density(paper.by_iterations(told), trials, style)
    relative = paper.relative_to_density(told, trials)
    return _relative(relative) if len(relative) else None


def _by_density(means: pd.DataFrame, trials: pd.DataFrame, style: Style) -> Figure:
    densities = sorted(means["density"].unique(), reverse=True)
    schedules = sorted(means["schedule"].unique())
    traces = []
    for (density, label, schedule), rows in means.groupby(["density", "label", "schedule"], sort=True):
        trace = mean_line("iterations", rows, "iterations", f"{label} {schedule}".strip(), style, str(label))
        trace["line"]["dash"] = DASHES[schedules.index(schedule) % len(DASHES)]
        trace["marker"]["symbol"] = SYMBOLS[schedules.index(schedule) % len(SYMBOLS)]
        traces.append({**trace, **_in_panel(densities.index(density)), "legendgroup": trace["name"]})
    share = is_share(trials.attrs["quality"])
    x = axis("iterations", type="log", **_ticks(means["iterations"]))
    titles = [f"{percent(1 - density)} sparsity" for density in densities]
    axes = panels(titles, ACROSS, x, axis(measure(trials), share=share))
    return Figure(
        "iterations",
        "Iterations and schedules",
        f"Mean {measure(trials)} by pruning iterations at each sparsity, a colour a method and a dash a schedule, "
        + AT_CHANCE,
        best_of(means, ["label", "schedule", "iterations"], trials),
        _once_in_legend(traces),
        layout(360 * -(-len(densities) // ACROSS) + 60, **axes),
        means,
        ["sparsity", "label", "schedule", "iterations", "mean", "low", "high", "trials"],
        {"label": "method"},
        dict.fromkeys(["mean", "low", "high"], "share" if share else "number"),
        wide=True,
    )


def _in_panel(place: int) -> dict[str, str]:
    number = str(place + 1) if place else ""
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _once_in_legend(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [trace["name"] for trace in traces]
    return [{**trace, "showlegend": names.index(trace["name"]) == place} for place, trace in enumerate(traces)]


def _ticks(values: pd.Series) -> dict[str, Any]:
    """The numbers themselves where they are few; else round ones."""
    known = sorted(values.unique().tolist())
    few = known if len(known) <= 6 else [n for n in (1, 2, 3, 5, 10, 20, 50, 100, 200) if known[0] <= n <= known[-1]]
    return {"tickvals": few, "ticktext": [f"{n:g}" for n in few]}


def _relative(relative: pd.DataFrame) -> Figure:
    """frame: the trials, then the means, which have no method."""
    means = paper.in_bins(relative)
    frame = pd.concat([relative, means.assign(name="mean", label="")], ignore_index=True)
    frame = frame[["name", "label", "schedule", "iterations", "sparsity", "points", "low", "high", "trials"]]
    places = enumerate(sorted(relative["schedule"].unique()))
    best = means.loc[means.groupby("schedule")["points"].idxmax()].to_dict("records")
    told = [f"{row['schedule']} {row['points']:+.1f} points near {row['iterations']:g} iterations" for row in best]
    return Figure(
        "iterations",
        "Iterations and schedules",
        "Accuracy of each trial less what trials of like density reach, in points, by pruning iterations; lines: means "
        "over trials with like iterations, with 95 % intervals.",
        f"Each schedule does best so: {'; '.join(told)}.",
        [trace for place, schedule in places for trace in _schedule_traces(frame, schedule, place)],
        layout(
            430,
            xaxis=axis("iterations", type="log", **_ticks(relative["iterations"])),
            yaxis=axis("points above like density", zeroline=True, zerolinecolor=DIM),
        ),
        frame,
        list(frame.columns),
        {"label": "method", "name": "trial", "points": "points above like density"},
        {"points": "points", "low": "points", "high": "points"},
    )


def _schedule_traces(frame: pd.DataFrame, schedule: str, place: int) -> list[dict[str, Any]]:
    """The trials of a schedule as faint points, and the line of their means."""
    own, mean = frame["schedule"] == schedule, frame["trials"].notna()
    colour = SCHEDULES[place % len(SCHEDULES)]
    marker = {"color": colour, "symbol": SYMBOLS[place % len(SYMBOLS)]}
    shared = {"type": "scatter", "name": plain(schedule), "legendgroup": plain(schedule)}
    line = {"color": colour, "width": 2, "dash": DASHES[place % len(DASHES)]}
    edged = {**marker, "size": 9, "line": {"color": "var(--edge)", "width": 0.8}}
    points, means = (
        of("iterations", frame.index[own & rows], "iterations", "points", low="low", high="high", hover="shown")
        for rows in (~mean, mean)
    )
    faint = {"mode": "markers", "showlegend": False, "opacity": 0.45, "marker": {**marker, "size": 6}}
    return [
        {**shared, **faint, "error_y": bars(colour), "meta": points},
        {**shared, "mode": "lines+markers", "line": line, "marker": edged, "error_y": bars(colour, 1.3), "meta": means},
    ]


def methods(trials: pd.DataFrame, style: Style) -> Figure | None:
    """Methods side by side over sparsity; None where there are fewer than two."""
    found, repeated = paper.side_by_side(trials)
    if found["label"].nunique() < 2:
        return None
    share = is_share(trials.attrs["quality"])
    rows = {label: found[found["label"] == label] for label in style.labels}
    shown = ["label", "sparsity", "mean", "low", "high", "trials" if repeated else "name"]
    return Figure(
        "methods",
        "Methods side by side",
        f"Mean {measure(trials)} of each method over sparsity, {AT_CHANCE}"
        if repeated
        else f"Each method's own front: the best {measure(trials)} that its trials reached at each sparsity; intervals "
        "where fresh seeds were run.",
        best_of(found, ["label"], trials) if repeated else _furthest(found),
        [mean_line("methods", own, "density", label, style, label) for label, own in rows.items() if len(own)],
        layout(
            height(430, style),
            xaxis=sparsity_axis(found["density"].tolist(), fewer=True),
            yaxis=axis(measure(trials), share=share),
        ),
        found[[*shown, "density"]],
        shown,
        {"label": "method", "mean": "mean" if repeated else measure(trials), "name": "trial"},
        dict.fromkeys(["mean", "low", "high"], "share" if share else "number"),
    )


def _furthest(found: pd.DataFrame) -> str:
    sparsest = found.loc[found.groupby("label")["sparsity"].idxmax()].sort_values("sparsity", ascending=False)
    told = [f"{row['label']} to {percent(row['sparsity'])}" for row in sparsest.to_dict("records")]
    return "Each method was trained up to a sparsity: " + ", ".join(told) + "."


def layers(trials: pd.DataFrame, found: Mapping[str, list[dict[str, Any]]]) -> list[Figure]:
    """Density by layer over the front, a figure a network."""
    front = trials[trials["on_front"]]
    networks = paper.networks(front, found)
    return [
        _heat_map(f"layers{place or ''}", name if len(networks) > 1 else "", rows, len(front))
        for place, (name, rows) in enumerate(networks)
    ]


def _heat_map(id_: str, network: str, rows: pd.DataFrame, front: int) -> Figure:
    points, names = rows.drop_duplicates("name"), rows["layer"].drop_duplicates().tolist()
    some = "" if len(points) == front else f" ({len(points)} of {front} points)"
    step = -(-len(points) // LABELLED)
    x = axis(
        "sparsity of the front's points",
        type="category",
        showgrid=False,
        tickangle=0,
        tickvals=points["name"].tolist()[::step],
        ticktext=[percent(round(value, 5)) for value in points["sparsity"].tolist()[::step]],
    )
    y = axis("layer", type="category", autorange="reversed", showgrid=False, tickvals=names, automargin=True)
    y["ticktext"] = [plain(name) for name in names]
    return Figure(
        id_,
        f"Density by layer{f': {network}' if network else ''}",
        f"What is kept of each layer in the networks of the front{some}, colours by the logarithm."
        + _told_empty(paper.emptied(rows)),
        _layer_message(rows),
        [_heat(id_, rows), *_crosses(id_, rows)],
        layout(max(320, 150 + 20 * len(names)), xaxis=x, yaxis=y, showlegend=False),
        rows,
        ["name", "label", "sparsity", "layer", "kept", "weights", "density"],
        {"label": "method", "name": "trial"},
    )


def _heat(id_: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Colours of growing lightness, so that they are read without their hue."""
    known = np.log10(rows["density"][rows["kept"] > 0].to_numpy(float))
    lowest = float(known.min()) if len(known) else -1.0
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
        "meta": of(id_, rows.index, "name", "layer", z="density", hover="shown"),
    }


def _crosses(id_: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Where a layer has no weight left."""
    gaps = rows.index[rows["kept"] == 0]
    look = {"symbol": "x-thin", "size": 10, "color": INK, "line": {"color": INK, "width": 2}}
    meta = of(id_, gaps, "name", "layer", hover="shown")
    return [{"type": "scatter", "mode": "markers", "name": "empty", "marker": look, "meta": meta}] if len(gaps) else []


def _told_empty(empty: Mapping[str, list[str]]) -> str:
    if not empty:
        return " No layer is empty."
    told = [
        f"{layer} (in {', '.join(runs[:3])}{f' and {len(runs) - 3} more' if len(runs) > 3 else ''})"
        for layer, runs in empty.items()
    ]
    return f" Crosses: layers without a weight, {'; '.join(told)}."


def _layer_message(rows: pd.DataFrame) -> str:
    last = rows[rows["name"] == rows["name"].iloc[-1]]
    densest, emptiest = last.loc[last["density"].idxmax()], last.loc[last["density"].idxmin()]
    return (
        f"In the sparsest network, {last['name'].iloc[0]}, the densest layer is {densest['layer']} with "
        f"{densest['density']:.2%} of its weights, the emptiest {emptiest['layer']} with {emptiest['density']:.2%}."
    )
