"""The page of a night, which opens without a network: alarms, verdicts, and the history behind both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from forcetune import __version__
from forcetune.baseline.findings import Findings
from forcetune.baseline.registered import tabulate_proofs
from forcetune.baseline.sentinels import Watch
from forcetune.baseline.twins import RIVAL_DESCRIPTIONS
from forcetune.formats import format_sparsity
from forcetune.report.html import render_template
from forcetune.report.tables import Table
from forcetune.report.verdicts import VERDICT_LOOKS, tabulate_verdicts

FIGURE_WIDTH_IN, ROW_HEIGHT_IN = 8.0, 1.6
NEUTRAL_COLOUR = "#808080"  # visible on white and on black
PLOTS_PER_ROW = 3
NIGHT_PAGE_COLUMNS = (
    *("study", "champion", "method", "sparsity", "against"),
    *("pairs", "difference", "p", "collapses", "verdict", "since", "state"),
)
HISTORY_COLUMNS = (
    *("study", "champion", "against", "night"),
    *("pairs", "difference", "collapses", "verdict", "state"),
)


def render_page(findings: Findings, margin: float) -> str:
    """Render the page of a night as HTML, with its figures inside.

    Args:
        findings: The findings of the night.
        margin: The difference, in points of accuracy, below which two networks are as good as each other.
    """
    page = render_template(
        "night.html",
        findings=findings,
        margin=f"{margin:g}",
        verdicts=tabulate_verdicts(findings.verdicts.to_dict("records"), NIGHT_PAGE_COLUMNS),
        rivals=RIVAL_DESCRIPTIONS,
        history=_tabulate_history(findings),
        history_svg=plot_history(findings, margin),
        sentinels=_tabulate_sentinels(findings.watches),
        sentinels_svg=_plot_sentinels(findings.watches),
        registered=tabulate_proofs(findings.proofs),
        version=__version__,
    )
    return str(page)


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
        f"{row['method']} {format_sparsity(row['sparsity'])} − {row['against']}: {row['holds']}",
        fontsize=8,
        color=NEUTRAL_COLOUR,
    )
    shown = nights if len(nights) < 5 else nights[:: max(1, len(nights) // 4)]
    labels = [history["night"].iloc[i][5:] or "before" for i in shown]
    axes.set_xticks(list(shown), labels, fontsize=7)
    axes.margins(x=0.1)


def _plot_sentinels(watches: Sequence[Watch]) -> str:
    """Plot the accuracy of the sentinels by night, a panel an arm, as SVG; empty where no sentinel has run."""
    if not watches:
        return ""
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


def _tabulate_history(findings: Findings) -> Table:
    """Return a table with a row for each comparison and night."""
    rows = [
        {**row, **standing}
        for row in findings.verdicts.to_dict("records")
        for standing in findings.history[row["name"]].to_dict("records")
    ]
    return tabulate_verdicts(rows, HISTORY_COLUMNS)


def _tabulate_sentinels(watches: Sequence[Watch]) -> Table:
    rows = [
        [
            watch.study,
            watch.arm,
            str(watch.drift.nights),
            str(watch.drift.runs),
            str(watch.drift.changed),
            _format_number(watch.shift, "+.2f"),
            watch.measure,
            _format_number(watch.drift.shift, "+.3g"),
            _format_number(watch.drift.p, ".2g"),
            f"alarm, since {watch.since}" if watch.since else "-",
        ]
        for watch in watches
    ]
    header = [
        *("study", "arm", "earlier nights", "runs", "changed", "shift in points"),
        *("measure", "shift of it", "p", "alarm"),
    ]
    return Table(header, rows, {"study", "arm", "measure", "alarm"})


def _format_number(value: Any, format_spec: str) -> str:
    return "-" if value is None or pd.isna(value) else format(value, format_spec)
