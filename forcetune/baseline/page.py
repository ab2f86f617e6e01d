"""A night as one page that opens without a network: alarms, verdicts, and how both came about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from forcetune import __version__
from forcetune.baseline.findings import Findings
from forcetune.baseline.sentinels import Watch
from forcetune.baseline.twins import ASKED
from forcetune.pages import document, table

# Okabe and Ito's colours, which colour-blind people tell apart, and the same by shape
COLOURS = {"beats": "#009e73", "ties": "#56b4e9", "loses": "#d55e00", "undecided": "#888888"}
MARKERS = {"beats": "^", "ties": "s", "loses": "v", "undecided": "o"}
WIDTH, ROW = 8.0, 1.6  # inches
NEUTRAL = "#808080"  # seen on white and on black
ACROSS = 3  # plots


def page(findings: Findings, margin: float) -> str:
    """The page, HTML with its pictures inside. margin: points within which two are as good as each other."""
    parts = [
        f"<h1>forcetune, night of {escape(findings.night)}</h1>",
        _alarms(findings.alarms),
        "<h2>Champions against random pruning</h2>",
        _verdicts(findings.verdicts),
        f"<p>{escape(legend(margin))}</p>",
        _twins(),
        _figure(history_plot(findings, margin), "Differences by night; below, the same numbers as a table"),
        _histories(findings),
        "<h2>Sentinels</h2>",
        _sentinels(findings.watches),
        *[f"<p>{escape(note)}</p>" for note in findings.notes],
        f"<p>forcetune {__version__}, run {escape(findings.run)}</p>",
    ]
    return document(f"forcetune {findings.night}", parts)


def legend(margin: float) -> str:
    """What the columns of the verdicts mean."""
    return (
        "Difference: champion minus twin in points of test accuracy over all nights, with Student's 95 % interval. "
        f"Ties: the mean lies within {margin:g} points. p: by which the verdict was reached, of no "
        "difference or of one beyond the margin, or of no difference by the pairs so far; corrected for looking every "
        "night and for all comparisons. Needed: pairs that would probably settle it."
    )


def history_plot(findings: Findings, margin: float) -> str:
    """Mean difference and interval by night, a panel a comparison, as SVG; empty where there is no comparison."""
    rows = findings.verdicts.to_dict("records")
    if not rows:
        return ""
    down = -(-len(rows) // ACROSS)
    figure = Figure(figsize=(WIDTH * 1.4, 0.6 + ROW * down), layout="constrained")
    axes = figure.subplots(down, ACROSS, squeeze=False)
    for row, place in zip(rows, axes.flat, strict=False):
        _panel(place, row, findings.history[row["name"]], margin)
    for place in list(axes.flat)[len(rows) :]:
        place.set_visible(False)
    figure.supylabel("champion minus twin, points", fontsize=9, color=NEUTRAL)
    return _svg(figure)


def _panel(place: Axes, row: dict[Any, Any], history: pd.DataFrame, margin: float) -> None:
    nights = np.arange(len(history))
    place.axhspan(-margin, margin, color=NEUTRAL, alpha=0.25, linewidth=0)
    place.axhline(0, color=NEUTRAL, linewidth=0.8)
    for night, step in zip(nights, history.to_dict("records"), strict=True):
        colour, marker = COLOURS[step["holds"]], MARKERS[step["holds"]]
        if not np.isnan(step["low"]):
            place.plot([night, night], [step["low"], step["high"]], color=colour, linewidth=1.5)
        place.plot([night], [step["mean"]], marker, color=colour, markersize=5)
    place.set_title(
        f"{row['method']} {row['sparsity']:.2%} − {row['against']}: {row['holds']}", fontsize=8, color=NEUTRAL
    )
    shown = nights if len(nights) < 5 else nights[:: max(1, len(nights) // 4)]
    labels = [history["night"].iloc[i][5:] or "before" for i in shown]
    place.set_xticks(list(shown), labels, fontsize=7)
    place.margins(x=0.1)


def _sentinel_plot(watches: Sequence[Watch]) -> str:
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots(1, len(watches), squeeze=False)
    for watch, place in zip(watches, axes.flat, strict=True):
        nights = range(watch.accuracies.shape[1])
        for accuracies in watch.accuracies.to_numpy(float):
            place.plot(nights, accuracies, "o-", markersize=4)
        place.set_title(f"{watch.study}: {watch.arm}", fontsize=9, color=NEUTRAL)
        labels = [str(night)[5:] for night in watch.accuracies.columns]
        step = max(1, len(labels) // 5)
        place.set_xticks(list(nights)[::step], labels[::step], fontsize=7)
    figure.supylabel("test accuracy, %", fontsize=9, color=NEUTRAL)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    figure.patch.set_alpha(0)
    for place in figure.axes:
        place.patch.set_alpha(0)
        place.tick_params(colors=NEUTRAL, labelsize=7)
        for spine in place.spines.values():
            spine.set_color(NEUTRAL)
    FigureCanvasSVG(figure)
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "forcetune"}):  # words stay words, equal is equal
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def _twins() -> str:
    """What a champion is held against, and why."""
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in ASKED.items())
    return f"<details><summary>The twins</summary><dl>{told}</dl></details>"


def _figure(svg: str, caption: str) -> str:
    return (
        f'<figure role="img" aria-label="{escape(caption)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
        if svg
        else ""
    )


def _alarms(alarms: Sequence[str]) -> str:
    if not alarms:
        return "<p>No alarm.</p>"
    return (
        '<div class="alarm" role="alert"><h2>Alarm</h2><ul>'
        + "".join(f"<li>{escape(each)}</li>" for each in alarms)
        + "</ul></div>"
    )


def _verdicts(verdicts: pd.DataFrame) -> str:
    if verdicts.empty:
        return "<p>Nothing was compared yet.</p>"
    rows = [
        [
            *(row["study"], row["champion"], row["method"], f"{row['sparsity']:.2%}", row["against"]),
            *(str(row["pairs"]), interval(row), _number(row["p"], ".2g"), row["holds"]),
            *("-" if pd.isna(row["since"]) else row["since"] or "before", _number(row["needed"], ".0f")),
        ]
        for row in verdicts.to_dict("records")
    ]
    header = [
        "study",
        "champion",
        "method",
        "sparsity",
        "against",
        "pairs",
        "difference",
        "p",
        "verdict",
        "since",
        "needed",
    ]
    return table(header, rows, words={"study", "champion", "method", "against", "verdict", "since"})


def _histories(findings: Findings) -> str:
    rows = [
        [
            row["study"],
            row["champion"],
            row["against"],
            step["night"] or "before",
            str(step["pairs"]),
            interval(step),
            step["holds"],
        ]
        for row in findings.verdicts.to_dict("records")
        for step in findings.history[row["name"]].to_dict("records")
    ]
    header = ["study", "champion", "against", "night", "pairs", "difference", "verdict"]
    told = table(header, rows, words={"study", "champion", "against", "night", "verdict"})
    return f"<details><summary>The history as a table</summary>{told}</details>" if rows else ""


def _sentinels(watches: Sequence[Watch]) -> str:
    if not watches:
        return "<p>None were run.</p>"
    rows = [
        [
            watch.study,
            watch.arm,
            str(watch.drift.nights),
            str(watch.drift.runs),
            str(watch.drift.changed),
            _number(watch.shift, "+.2f"),
            _number(watch.drift.p, ".2g"),
            "alarm" if watch.drift.alarm else "-",
        ]
        for watch in watches
    ]
    header = ["study", "arm", "nights before", "runs", "changed", "shift", "p", "alarm"]
    caption = "Test accuracy of the same runs, night by night"
    return table(header, rows, words={"study", "arm", "alarm"}) + _figure(_sentinel_plot(watches), caption)


def interval(row: dict[Any, Any]) -> str:
    """A mean difference with its interval, in points."""
    if np.isnan(row["low"]):
        return f"{row['mean']:+.2f}"
    return f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def _number(value: Any, form: str) -> str:
    return "-" if value is None or pd.isna(value) else format(value, form)
