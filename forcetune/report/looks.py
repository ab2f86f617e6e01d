"""How figures look: colours and shapes by method, axes, and panels beside one another.

Colours that hang on light or dark are names of page.css (`var(--ink)`), which page.js looks up whenever it draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from forcetune.report.numbers import is_random_label

# Okabe and Ito's colours but black, which colour-blind people tell apart, and the same by shape: 7 and 11 have no
# common divisor, so 77 methods differ in one or the other
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442")
SYMBOLS = (
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
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FONT = {"family": "system-ui, sans-serif", "size": 13}
INK, DIM, GRID, CARD, RANDOM = "var(--ink)", "var(--dim)", "var(--grid)", "var(--card)", "var(--random)"
# sparsities that an axis names, by the density that is left
TICKS = [1.0, *(digit * 10.0**-power for power in range(1, 7) for digit in (5, 2, 1))]
FEWER = [density for density in TICKS if not f"{density:e}".startswith("2")]


class Style:
    """The colour, symbol and dash of each label: random pruning is grey, all others in Okabe and Ito's colours."""

    def __init__(self, labels: Iterable[str]) -> None:
        known = sorted(set(labels))
        plain = [label for label in known if not is_random_label(label)]
        self.labels = [*plain, *(label for label in known if is_random_label(label))]
        self._colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(plain)}
        self._places = {label: place for place, label in enumerate(self.labels)}

    def colour(self, label: str) -> str:
        return self._colours.get(label, RANDOM)

    def symbol(self, label: str) -> str:
        return SYMBOLS[self._places[label] % len(SYMBOLS)]

    def dash(self, label: str) -> str:
        return DASHES[self._places[label] % len(DASHES)]

    def marker(self, label: str, size: float = 9, hollow: bool = False) -> dict[str, Any]:
        """A marker; of trials that were not trained to their end hollow, so that they can be told without colour."""
        colour = self.colour(label)
        edge = (
            {"color": colour, "width": 1.2} if hollow else {"color": "var(--edge)", "width": 0.8 if size > 5 else 0.3}
        )
        return {"color": colour, "symbol": self.symbol(label) + "-open" * hollow, "size": size, "line": edge}


def percent(value: float) -> str:
    """A share in percent, with as many digits as it takes to tell a sparsity from 1."""
    if not 0.9 < value < 1:
        return f"{value * 100:.4g}%"
    digits = max(2, -math.floor(math.log10(1 - value)) - 1)
    return f"{value * 100:.{digits}f}".rstrip("0").rstrip(".") + "%"


def sparsity_axis(densities: Sequence[float], fewer: bool = False, **more: Any) -> dict[str, Any]:
    """Density by its logarithm, falling, and named by its sparsity."""
    low, high = min(densities), max(densities)
    pad = max(0.05, 0.04 * math.log10(high / low))
    ticks = FEWER if fewer or high / low > 300 else TICKS
    return {
        **axis("sparsity"),
        "type": "log",
        "range": [min(math.log10(high) + pad, pad), math.log10(low) - pad],
        "tickvals": ticks,
        "ticktext": [percent(1 - density) for density in ticks],
        **more,
    }


def axis(title: str = "", share: bool = False, **more: Any) -> dict[str, Any]:
    """An axis with a quiet grid; share: 0 to 1, told in percent."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": GRID,
        **({"tickformat": "~%"} if share else {}),
        **more,
    }


def layout(height: int, **more: Any) -> dict[str, Any]:
    """A figure without a background of its own; the legend lies below, page.js says how far."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, **FONT},
        "margin": {"l": 64, "r": 16, "t": 36, "b": 52},  # above, room for Plotly's bar
        "hoverlabel": {"bgcolor": CARD, "bordercolor": DIM, "font": {"color": INK, **FONT}, "align": "left"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "top", "x": 0, "font": {"size": 12}},
        **more,
    }


def panels(titles: Sequence[str], across: int, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """Axes of panels that share their ranges, `xaxis`, `xaxis2`, ..., with a title above each."""
    across = min(across, len(titles))
    down = -(-len(titles) // across)
    found: dict[str, Any] = {"annotations": []}
    for place, title in enumerate(titles):
        row, column = divmod(place, across)
        sides = _span(column, across, 0.06), _span(down - 1 - row, down, 0.14)
        number = "" if place == 0 else str(place + 1)
        own = {"x": _bare(x, place + across >= len(titles)), "y": _bare(y, column == 0)}
        for name, other, side in (("x", "y", sides[0]), ("y", "x", sides[1])):
            shared = {"matches": name} if number else {}
            found[f"{name}axis{number}"] = {**own[name], "domain": side, "anchor": f"{other}{number}", **shared}
        found["annotations"].append(_title(title, sides[0][0], sides[1][1]))
    return found


def _span(place: int, count: int, gap: float) -> list[float]:
    """Where a panel lies among so many, as shares of the figure; the topmost leaves room for its title."""
    size = (1 - gap * (count - 1)) / count
    start = place * (size + gap)
    return [start, min(start + size, 0.97) if gap > 0.1 else start + size]


def _bare(one: dict[str, Any], with_title: bool) -> dict[str, Any]:
    return one if with_title else {**one, "title": {"text": ""}}


def _title(text: str, x: float, y: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {**place, "text": plain(text), "x": x, "y": min(y, 1.0), "font": {"size": 13, "color": INK}}


def plain(text: str) -> str:
    """Text that Plotly shows as it is: it reads tags in what it is given."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
