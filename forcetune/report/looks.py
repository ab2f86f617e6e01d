"""The looks of figures: colours and shapes by method, axes, and panels beside one another.

Colours that depend on the light or dark theme are names of page.css (`var(--ink)`), which page.js looks up whenever it
draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from forcetune.formats import format_percent
from forcetune.report.numbers import is_random_label

# Colour-blind people can tell these colours of Okabe and Ito apart; black is left out. The numbers of colours and of
# shapes, 7 and 11, have no common divisor, so that 77 methods differ in one or the other.
METHOD_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442")
METHOD_SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "triangle-down",
    "pentagon",
    "star",
    "hexagram",
    "bowtie",
    "x",
)
METHOD_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FONT = {"family": "system-ui, sans-serif", "size": 13}
INK, DIM, GRID, CARD, RANDOM_COLOUR = "var(--ink)", "var(--dim)", "var(--grid)", "var(--card)", "var(--random)"
# An axis shows the sparsities that belong to these densities.
DENSITY_TICKS = [1.0, *(digit * 10.0**-power for power in range(1, 7) for digit in (5, 2, 1))]
COARSE_TICKS = [density for density in DENSITY_TICKS if not f"{density:e}".startswith("2")]


class Style:
    """The colour, symbol and dash of each label.

    Random pruning is grey; the other labels have colours of Okabe and Ito.

    Args:
        labels: The labels of the trials.

    Attributes:
        labels: The labels without repetition, random pruning last.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        unique_labels = sorted(set(labels))
        saliency_labels = [label for label in unique_labels if not is_random_label(label)]
        self.labels = [*saliency_labels, *(label for label in unique_labels if is_random_label(label))]
        self._colours = {
            label: METHOD_COLOURS[index % len(METHOD_COLOURS)] for index, label in enumerate(saliency_labels)
        }
        self._indices = {label: index for index, label in enumerate(self.labels)}

    def colour(self, label: str) -> str:
        """Return the colour of a method."""
        return self._colours.get(label, RANDOM_COLOUR)

    def symbol(self, label: str) -> str:
        """Return the symbol of a method's points."""
        return METHOD_SYMBOLS[self._indices[label] % len(METHOD_SYMBOLS)]

    def dash(self, label: str) -> str:
        """Return the dash of a method's lines."""
        return METHOD_DASHES[self._indices[label] % len(METHOD_DASHES)]

    def marker(self, label: str, size: float = 9, hollow: bool = False) -> dict[str, Any]:
        """Return a marker of Plotly.

        Args:
            label: The label of the trials.
            size: The size in pixels.
            hollow: Whether the marker is hollow, as for trials that were not trained to the end.
        """
        colour = self.colour(label)
        edge = (
            {"color": colour, "width": 1.2} if hollow else {"color": "var(--edge)", "width": 0.8 if size > 5 else 0.3}
        )
        return {"color": colour, "symbol": self.symbol(label) + "-open" * hollow, "size": size, "line": edge}


def make_sparsity_axis(densities: Sequence[float], coarse: bool = False, **options: Any) -> dict[str, Any]:
    """Make an axis of densities by their logarithm, falling, with sparsities as ticks.

    Args:
        densities: The densities in the figure.
        coarse: Whether to show fewer ticks.
        options: Further options of Plotly's axis.
    """
    low, high = min(densities), max(densities)
    pad = max(0.05, 0.04 * math.log10(high / low))
    ticks = COARSE_TICKS if coarse or high / low > 300 else DENSITY_TICKS
    return {
        **make_axis("sparsity"),
        "type": "log",
        "range": [min(math.log10(high) + pad, pad), math.log10(low) - pad],
        "tickvals": ticks,
        "ticktext": [format_percent(1 - density) for density in ticks],
        **options,
    }


def make_axis(title: str = "", is_share: bool = False, **options: Any) -> dict[str, Any]:
    """Make an axis with a quiet grid.

    Args:
        title: The title.
        is_share: Whether values from 0 to 1 are shown in percent.
        options: Further options of Plotly's axis.
    """
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": GRID,
        **({"tickformat": "~%"} if is_share else {}),
        **options,
    }


def make_layout(height: int, **options: Any) -> dict[str, Any]:
    """Make a layout without a background of its own.

    The legend lies below the plot; page.js sets how far.

    Args:
        height: The height in pixels.
        options: Further options of Plotly's layout.
    """
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, **FONT},
        "margin": {"l": 64, "r": 16, "t": 36, "b": 52},  # the top has room for Plotly's bar of buttons
        "hoverlabel": {"bgcolor": CARD, "bordercolor": DIM, "font": {"color": INK, **FONT}, "align": "left"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "top", "x": 0, "font": {"size": 12}},
        **options,
    }


def make_panels(titles: Sequence[str], per_row: int, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """Make the axes of panels that share their ranges: `xaxis`, `xaxis2`, ..., with a title above each panel.

    Args:
        titles: The titles of the panels.
        per_row: The panels of a row.
        x: The axis that each x axis is made from.
        y: The axis that each y axis is made from.
    """
    per_row = min(per_row, len(titles))
    row_count = -(-len(titles) // per_row)
    axes: dict[str, Any] = {"annotations": []}
    for index, title in enumerate(titles):
        row, column = divmod(index, per_row)
        domains = _compute_span(column, per_row, 0.06), _compute_span(row_count - 1 - row, row_count, 0.14)
        number = "" if index == 0 else str(index + 1)
        panel_axes = {"x": _drop_title(x, index + per_row >= len(titles)), "y": _drop_title(y, column == 0)}
        for name, anchor, domain in (("x", "y", domains[0]), ("y", "x", domains[1])):
            matched = {"matches": name} if number else {}
            axes[f"{name}axis{number}"] = {
                **panel_axes[name],
                "domain": domain,
                "anchor": f"{anchor}{number}",
                **matched,
            }
        axes["annotations"].append(_make_title(title, domains[0][0], domains[1][1]))
    return axes


def _compute_span(index: int, count: int, gap: float) -> list[float]:
    """Return the span of a panel, as shares of the figure; the topmost panel leaves room for its title."""
    size = (1 - gap * (count - 1)) / count
    start = index * (size + gap)
    return [start, min(start + size, 0.97) if gap > 0.1 else start + size]


def _drop_title(axis: dict[str, Any], with_title: bool) -> dict[str, Any]:
    return axis if with_title else {**axis, "title": {"text": ""}}


def _make_title(text: str, x: float, y: float) -> dict[str, Any]:
    position = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {**position, "text": escape_markup(text), "x": x, "y": min(y, 1.0), "font": {"size": 13, "color": INK}}


def escape_markup(text: str) -> str:
    """Escape the tags that Plotly reads in text."""
    return escape(text, quote=False)
