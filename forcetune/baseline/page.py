"""The page of a night, which opens without a network: alarms, verdicts, and the history behind both."""

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
from forcetune.baseline.twins import RIVAL_DESCRIPTIONS
from forcetune.report.html import render_document
from forcetune.report.tables import Table
from forcetune.report.verdicts import VERDICT_LOOKS, tabulate_verdicts

FIGURE_WIDTH_IN, ROW_HEIGHT_IN = 8.0, 1.6
NEUTRAL_COLOUR = "#808080"  # visible on white and on black
PLOTS_PER_ROW = 3
SHOWN_VERDICT_COLUMNS = (
    *("study", "champion", "method", "sparsity", "against"),
    *("pairs", "difference", "p", "verdict", "since", "needed"),
)
HISTORY_COLUMNS = ("study", "champion", "against", "night", "pairs", "difference", "verdict")


def render_page(findings: Findings, margin: float) -> str:
    """Render the page of a night as HTML, with its figures inside.

    Args:
        findings: The findings of the night.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.
    """
    body_parts = [
        f"<h1>forcetune, night of {escape(findings.night)}</h1>",
        _render_alarms(findings.alarms),
        "<h2>Champions against random pruning</h2>",
        _render_verdicts(findings.verdicts),
        f"<p>{escape(describe_columns(margin))}</p>",
        _render_twins(),
        _render_figure(plot_history(findings, margin), "Differences by night; the table below has the same numbers"),
        _render_histories(findings),
        "<h2>Sentinels</h2>",
        _render_sentinels(findings.watches),
        *[f"<p>{escape(note)}</p>" for note in findings.notes],
        f"<p>forcetune {__version__}, run {escape(findings.run_id)}</p>",
    ]
    return render_document(f"forcetune {findings.night}", body_parts)


def describe_columns(margin: float) -> str:
    """Describe the columns of the table of verdicts."""
    return (
        "Difference: champion minus twin in points of test accuracy over all nights, with Student's 95 % interval. "
        f"Ties: the mean lies within {margin:g} points of 0. p: of the test that decided the verdict (of no "
        "difference; for ties, of a difference beyond the margin); for undecided comparisons, of no difference over "
        "all pairs so far; corrected for looking every night and for all comparisons. Needed: the number of pairs that "
        "would probably decide the comparison."
    )


def plot_history(findings: Findings, margin: float) -> str:
    """Plot mean difference and interval by night, a panel a comparison, as SVG; empty where there is no comparison."""
    rows = findings.verdicts.to_dict("records")
    if not rows:
        return ""
    row_count = -(-len(rows) // PLOTS_PER_ROW)
    figure = Figure(figsize=(FIGURE_WIDTH_IN * 1.4, 0.6 + ROW_HEIGHT_IN * row_count), layout="constrained")
    grid = figure.subplots(row_count, PLOTS_PER_ROW, squeeze=False)
    for row, axes in zip(rows, grid.flat, strict=False):
        _plot_comparison(axes, row, findings.history[row["name"]], margin)
    for axes in list(grid.flat)[len(rows) :]:
        axes.set_visible(False)
    figure.supylabel("champion minus twin, points", fontsize=9, color=NEUTRAL_COLOUR)
    return _to_svg(figure)


def _plot_comparison(axes: Axes, row: dict[Any, Any], history: pd.DataFrame, margin: float) -> None:
    nights = np.arange(len(history))
    axes.axhspan(-margin, margin, color=NEUTRAL_COLOUR, alpha=0.25, linewidth=0)
    axes.axhline(0, color=NEUTRAL_COLOUR, linewidth=0.8)
    for night, standing in zip(nights, history.to_dict("records"), strict=True):
        look = VERDICT_LOOKS[standing["holds"]]
        colour = look.colour or NEUTRAL_COLOUR
        if not np.isnan(standing["low"]):
            axes.plot([night, night], [standing["low"], standing["high"]], color=colour, linewidth=1.5)
        axes.plot([night], [standing["mean"]], look.marker, color=colour, markersize=5)
    axes.set_title(
        f"{row['method']} {row['sparsity']:.2%} − {row['against']}: {row['holds']}", fontsize=8, color=NEUTRAL_COLOUR
    )
    shown = nights if len(nights) < 5 else nights[:: max(1, len(nights) // 4)]
    labels = [history["night"].iloc[i][5:] or "before" for i in shown]
    axes.set_xticks(list(shown), labels, fontsize=7)
    axes.margins(x=0.1)


def _plot_sentinels(watches: Sequence[Watch]) -> str:
    figure = Figure(figsize=(FIGURE_WIDTH_IN, 2.4), layout="constrained")
    grid = figure.subplots(1, len(watches), squeeze=False)
    for watch, axes in zip(watches, grid.flat, strict=True):
        nights = range(watch.accuracies.shape[1])
        for accuracies in watch.accuracies.to_numpy(float):
            axes.plot(nights, accuracies, "o-", markersize=4)
        axes.set_title(f"{watch.study}: {watch.arm}", fontsize=9, color=NEUTRAL_COLOUR)
        labels = [str(night)[5:] for night in watch.accuracies.columns]
        stride = max(1, len(labels) // 5)
        axes.set_xticks(list(nights)[::stride], labels[::stride], fontsize=7)
    figure.supylabel("test accuracy, %", fontsize=9, color=NEUTRAL_COLOUR)
    return _to_svg(figure)


def _to_svg(figure: Figure) -> str:
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=NEUTRAL_COLOUR, labelsize=7)
        for spine in axes.spines.values():
            spine.set_color(NEUTRAL_COLOUR)
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    # Text stays text, and equal figures give equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "forcetune"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _render_twins() -> str:
    """Render the list of rivals and their meaning."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(description)}</dd>" for name, description in RIVAL_DESCRIPTIONS.items()
    )
    return f"<details><summary>The twins</summary><dl>{items}</dl></details>"


def _render_figure(svg: str, caption: str) -> str:
    return (
        f'<figure role="img" aria-label="{escape(caption)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
        if svg
        else ""
    )


def _render_alarms(alarms: Sequence[str]) -> str:
    if not alarms:
        return "<p>No alarm.</p>"
    return (
        '<div class="alarm" role="alert"><h2>Alarm</h2><ul>'
        + "".join(f"<li>{escape(alarm)}</li>" for alarm in alarms)
        + "</ul></div>"
    )


def _render_verdicts(verdicts: pd.DataFrame) -> str:
    if verdicts.empty:
        return "<p>There is no comparison yet.</p>"
    return tabulate_verdicts(verdicts.to_dict("records"), SHOWN_VERDICT_COLUMNS).to_html()


def _render_histories(findings: Findings) -> str:
    rows = [
        {**row, **standing}
        for row in findings.verdicts.to_dict("records")
        for standing in findings.history[row["name"]].to_dict("records")
    ]
    table_html = tabulate_verdicts(rows, HISTORY_COLUMNS).to_html()
    return f"<details><summary>The history as a table</summary>{table_html}</details>" if rows else ""


def _render_sentinels(watches: Sequence[Watch]) -> str:
    if not watches:
        return "<p>No sentinel has run.</p>"
    rows = [
        [
            watch.study,
            watch.arm,
            str(watch.drift.nights),
            str(watch.drift.runs),
            str(watch.drift.changed),
            _format_number(watch.shift, "+.2f"),
            _format_number(watch.drift.p, ".2g"),
            "alarm" if watch.drift.alarm else "-",
        ]
        for watch in watches
    ]
    header = ["study", "arm", "earlier nights", "runs", "changed", "shift", "p", "alarm"]
    caption = "Test accuracy of the same runs by night"
    return (
        f"{Table(header, rows, {'study', 'arm', 'alarm'}).to_html()}{_render_figure(_plot_sentinels(watches), caption)}"
    )


def _format_number(value: Any, format_spec: str) -> str:
    return "-" if value is None or pd.isna(value) else format(value, format_spec)
