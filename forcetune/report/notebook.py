"""The figures of the page as Plotly's own objects, which show themselves in a notebook.

What page.js does in a browser is done here: the numbers are filled in from the columns beside the figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from plotly.graph_objects import Figure as PlotlyFigure  # type: ignore[import-untyped]

from forcetune.report.columns import decode_values
from forcetune.report.evidence import Evidence
from forcetune.report.figures import Figure
from forcetune.report.looks import escape_markup
from forcetune.report.page import collect_data, draw_figures

TITLE_PIXELS = 32  # above the plot
AXIS_PIXELS = 64  # below the plot, for the labels and the title of its axis
MAX_SHARE_DIGITS = 6
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class _Source:
    """A table that figures take their numbers from.

    Attributes:
        columns: The columns by name, as `encode_columns` returns them, each with its `values`.
        hover: The names of the columns that are shown at a point.
    """

    columns: Mapping[str, Mapping[str, Any]]
    hover: Sequence[str]

    def select(self, name: str, rows: Sequence[int | None]) -> list[Any]:
        """Return the values of a column in these rows; None for a gap."""
        values = self.columns[name]["values"]
        return [None if row is None else values[row] for row in rows]

    def describe(self, row: int) -> str:
        """Return the text that is shown at the point of a row, in Plotly's markup."""
        texts = {self.columns[name]["label"]: self._format(name, row) for name in self.hover}
        first, *remaining = [(escape_markup(label), escape_markup(text)) for label, text in texts.items() if text]
        return "<br>".join([f"<b>{first[1]}</b>", *(f"{label}: {text}" for label, text in remaining)])

    def _format(self, name: str, row: int) -> str:
        """Return the value of a column as text, with half of its interval where it has one."""
        column = self.columns[name]
        text = format_value(column["kind"], column["values"][row])
        if not column.get("interval") or not text or self.columns["low"]["values"][row] is None:
            return text
        half = (self.columns["high"]["values"][row] - self.columns["low"]["values"][row]) / 2
        return f"{text} ± {format_value(column['kind'], half)}"


def make_figures(evidence: Evidence) -> dict[str, PlotlyFigure]:
    """Make the figures of a study's page for a notebook.

    Args:
        evidence: The study, as `evidence.gather` returns it.

    Returns:
        The figures by their id, in the order of the page; those for which the study has data.
    """
    drawn = [figure for figure in draw_figures(evidence) if figure]
    sources = {id_: _unpack(source) for id_, source in collect_data(evidence.results, drawn)["sources"].items()}
    colours = _read_colours()
    return {figure.id: _make_figure(figure, sources, colours) for figure in drawn}


def _unpack(source: Mapping[str, Any]) -> _Source:
    columns = {
        column["name"]: {**column, "values": decode_values(column, source["rows"])} for column in source["columns"]
    }
    return _Source(columns, source.get("hover") or source["shown"])


def _read_colours() -> dict[str, str]:
    """Return the colours of the page's light theme by the names that figures use."""
    style = files("forcetune.report").joinpath("page.css").read_text(encoding="utf-8")
    light_theme = style[style.index(":root {") : style.index("}")]
    return {f"var({name})": colour for name, colour in re.findall(r"(--\w+): (#\w+);", light_theme)}


def _make_figure(figure: Figure, sources: Mapping[str, _Source], colours: Mapping[str, str]) -> PlotlyFigure:
    layout = _name_colours(figure.layout, colours)
    height, margin = layout["height"], layout["margin"]
    background = colours["var(--page)"]  # a notebook may be dark, and the colours are those of a light page
    layout |= {
        "title": {"text": escape_markup(figure.heading), "x": 0, "xref": "paper", "font": {"size": 16}},
        "height": height + TITLE_PIXELS,
        "margin": {**margin, "t": margin["t"] + TITLE_PIXELS},
        "legend": {**layout["legend"], "y": -AXIS_PIXELS / (height - 2 * AXIS_PIXELS)},
        "paper_bgcolor": background,
        "plot_bgcolor": background,
        "template": "none",
    }
    return PlotlyFigure(
        {"data": [_fill(_name_colours(trace, colours), sources) for trace in figure.traces], "layout": layout}
    )


def _name_colours(spec: Any, colours: Mapping[str, str]) -> Any:
    """Return a copy of a specification with colours in place of their names."""
    if isinstance(spec, str):
        return colours.get(spec, spec)
    if isinstance(spec, Mapping):
        return {name: _name_colours(value, colours) for name, value in spec.items()}
    return [_name_colours(value, colours) for value in spec] if isinstance(spec, list | tuple) else spec


def _fill(trace: dict[str, Any], sources: Mapping[str, _Source]) -> dict[str, Any]:
    """Fill the numbers that the `meta` of a trace names into the trace, a copy that may be changed."""
    meta = trace.pop("meta", None)
    if not meta:
        return trace
    source = sources[meta["source"]]
    if "z" in meta:
        return trace | _make_grid(source, meta)
    rows: list[int | None] = _insert_gaps(source, meta) if "gap" in meta else meta["rows"]
    trace |= {"x": source.select(meta["x"], rows), "y": source.select(meta["y"], rows)}
    if "low" in meta:
        _fill_intervals(trace, source.select(meta["low"], rows), source.select(meta["high"], rows))
    if "hover" in meta:
        trace |= {"hovertext": ["" if row is None else source.describe(row) for row in rows], "hoverinfo": "text"}
    return trace


def _insert_gaps(source: _Source, meta: Mapping[str, Any]) -> list[int | None]:
    """Return the rows with a gap wherever the column `gap` changes, so that a line ends there."""
    owners = source.columns[meta["gap"]]["values"]
    rows: list[int | None] = []
    for index, row in enumerate(meta["rows"]):
        if index and owners[row] != owners[meta["rows"][index - 1]]:
            rows.append(None)
        rows.append(row)
    return rows


def _fill_intervals(trace: dict[str, Any], low: Sequence[Any], high: Sequence[Any]) -> None:
    bars, means = (trace["error_x"], trace["x"]) if "error_x" in trace else (trace["error_y"], trace["y"])
    bars["array"] = [None if end is None else end - mean for end, mean in zip(high, means, strict=True)]
    bars["arrayminus"] = [None if end is None else mean - end for end, mean in zip(low, means, strict=True)]


def _make_grid(source: _Source, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Make the cells of a heat map, whose colours follow the logarithm of the values."""
    columns, rows, values = (source.columns[meta[axis]]["values"] for axis in ("x", "y", "z"))
    x, y = list(dict.fromkeys(columns)), list(dict.fromkeys(rows))
    z: list[list[float | None]] = [[None] * len(x) for _ in y]
    hover_texts = [[""] * len(x) for _ in y]
    for row in meta["rows"]:
        i, j = y.index(rows[row]), x.index(columns[row])
        z[i][j] = math.log10(values[row]) if values[row] and values[row] > 0 else None
        hover_texts[i][j] = source.describe(row)
    return {"x": x, "y": y, "z": z, "hovertext": hover_texts, "hoverinfo": "text", "hoverongaps": False}


def format_value(kind: str, value: Any) -> str:
    """Format a value as page.js formats it.

    Args:
        kind: The kind of its column, as `encode_columns` returns it.
        value: The value; None gives an empty text.
    """
    if value is None:
        return ""
    if kind == "share":
        return _format_share(value)
    if kind == "chance":
        return f"{math.floor(value * 100 + 0.5)}%"  # Python would round a half to the even number
    if kind == "whole":
        return f"{value:,.0f}"
    if kind == "points":
        return f"{MINUS if value < 0 else '+'}{abs(value):.2f}"
    if kind == "number":
        rounded = float(f"{value:.4g}")
        if 1e-6 <= abs(rounded) < 1e21:
            return np.format_float_positional(rounded, trim="-")
        return re.sub("e([+-])0", r"e\1", f"{rounded:.15g}")
    if kind == "flag":
        return "yes" if value else "no"
    return str(value)


def _format_share(value: float) -> str:
    """Format a share in percent, with as many digits as distinguish it from 0 and from 1."""
    distance = min(abs(value), abs(1 - value))
    digits = min(MAX_SHARE_DIGITS, math.ceil(-math.log10(100 * distance)) + 1) if 0 < distance < 0.001 else 2
    return f"{value:.{digits}%}"
