"""How the search went: hypervolume and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from forcetune.report import numbers
from forcetune.report.columns import heading, is_share
from forcetune.report.figures.figure import Figure, of
from forcetune.report.looks import DIM, Style, axis, layout, panels, percent, plain


def growth(trials: pd.DataFrame) -> Figure | None:
    """The hypervolume over trials and over compute; None where it never grew."""
    found = numbers.growth(trials)
    if not len(found):
        return None
    over = {"trials": "over trials"}
    if found["device_hours"].iloc[-1] > 0:
        over["device_hours"] = "over device hours"
    axes = panels(list(over.values()), 2, axis(rangemode="tozero"), axis("hypervolume", rangemode="tozero"))
    axes.get("xaxis2", {}).pop("matches", None)
    look = {"mode": "lines", "line": {"shape": "hv", "color": "var(--accent)", "width": 2}, "showlegend": False}
    traces = [
        {
            "type": "scatter",
            "name": title,
            **look,
            "xaxis": f"x{place or ''}",
            "yaxis": f"y{place or ''}",
            "meta": of("growth", found.index, column, "hypervolume", hover="shown"),
        }
        for place, (column, title) in zip((0, 2), over.items(), strict=False)
    ]
    return Figure(
        "growth",
        "Hypervolume",
        f"How much the front covers as trials end, {_measured(*numbers.references(trials))}.",
        _grown(found),
        traces,
        layout(420, **axes),
        found,
        ["trials", "device_hours", "hypervolume", "name"],
        {"name": "trial"},
        {"device_hours": "number", "hypervolume": "number"},
    )


def _measured(origin: Mapping[str, float], guessed: Sequence[str]) -> str:
    """From where, and how."""
    worst = " (the worst there is, since no reference is known)"
    said = [
        f"{heading(name)} {_value(name, value)}{worst if name in guessed else ''}" for name, value in origin.items()
    ]
    return (
        f"measured from {' and '.join(said)}; densities count by their logarithm, and each trial by the one seed that "
        "the search saw"
    )


def _value(name: str, value: float) -> str:
    return percent(value) if is_share(name) else f"{value:.4g}"


def _grown(found: pd.DataFrame) -> str:
    end = found.iloc[-1]
    near = found[found["hypervolume"] >= 0.99 * end["hypervolume"]].iloc[0]
    return (
        f"The hypervolume grew to {end['hypervolume']:.4g} over {int(end['trials'])} trials, and had 99 % of it after "
        f"{int(near['trials'])}."
    )


def curves(trials: pd.DataFrame, found: pd.DataFrame, metric: str, style: Style) -> Figure | None:
    """Learning curves, the front's in colour; None where there are none."""
    if not len(found):
        return None
    owner = trials.set_index("run_id").loc[found["run_id"]].reset_index()
    frame = owner[["name", "label", "outcome", "on_front"]].assign(
        epoch=found["step"].to_numpy(), **{metric: found["value"].to_numpy()}
    )
    y = heading(metric)
    count, front = frame["name"].nunique(), frame["name"][frame["on_front"]].nunique()
    return Figure(
        "curves",
        "Learning curves",
        f"{y.capitalize()} by epoch of {count} of {len(trials)} trials: the front's in colour, the others grey, dotted "
        "where they were stopped early.",
        f"Learning curves of {count} trials, {front} of them on the front.",
        _curves(frame, metric, style),
        layout(460, xaxis=axis("epoch", rangemode="tozero"), yaxis=axis(y, share=is_share(metric))),
        frame.drop(columns="on_front"),
        ["name", "label", "outcome", "epoch", metric],
        {"name": "trial", "label": "method"},
        across=("name", "epoch", metric),
    )


def _curves(frame: pd.DataFrame, metric: str, style: Style) -> list[dict[str, Any]]:
    """What is grey first, so that the front lies on top."""
    front, trained = frame["on_front"], frame["outcome"] == "trained"
    grey = {
        "stopped early, or running": (~front & ~trained, {"color": DIM, "dash": "dot"}, 0.35),
        "trained, not on the front": (~front & trained, {"color": DIM, "dash": "solid"}, 0.45),
    }
    own = {f"front: {label}": (front & (frame["label"] == label), _line(label, style), 1.0) for label in style.labels}
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plain(name),
            "line": {"width": 1.5, **line},
            "opacity": opacity,
            "meta": of("curves", frame.index[rows], "epoch", metric, gap="name", hover="shown"),
        }
        for name, (rows, line, opacity) in {**grey, **own}.items()
        if rows.any()
    ]


def _line(label: str, style: Style) -> dict[str, str]:
    return {"color": style.colour(label), "dash": style.dash(label)}
