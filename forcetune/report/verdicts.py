"""Verdicts on champions and their twins: the columns of their tables, and their looks in figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forcetune.formats import format_percent, format_sparsity
from forcetune.report.tables import Table, drop_missing

ABSENT_CELL = "-"
BEFORE_FIRST_NIGHT = "before"  # in place of a date, for pairs that `forcetune baseline` ran before the first night


@dataclass(frozen=True)
class VerdictLook:
    """The look of a verdict in figures.

    Attributes:
        colour: The colour; None is the neutral colour of the figure.
        symbol: The name of the shape in Plotly.
        marker: The name of the shape in Matplotlib.
    """

    colour: str | None
    symbol: str
    marker: str


# Colour-blind people can tell these colours of Okabe and Ito apart; the shapes differ too.
VERDICT_LOOKS = {
    "beats": VerdictLook("#009e73", "triangle-up", "^"),
    "ties": VerdictLook("#56b4e9", "square", "s"),
    "loses": VerdictLook("#d55e00", "triangle-down", "v"),
    "undecided": VerdictLook(None, "circle", "o"),
}


def tabulate_verdicts(rows: Iterable[Mapping[Any, Any]], columns: Sequence[str], caption: str = "") -> Table:
    """Return a table of verdicts.

    Args:
        rows: The comparisons, as records of `baseline.evidence.judge_comparisons`, or of the verdicts or the history of
            `baseline.Findings`.
        columns: The names of the columns, keys of VERDICT_COLUMNS.
        caption: The caption of the table.
    """
    shown = [VERDICT_COLUMNS[name] for name in columns]
    cells = [[column.format_cell(row) for column in shown] for row in map(drop_missing, rows)]
    text_columns = {column.heading for column in shown if column.holds_text}
    return Table([column.heading for column in shown], cells, text_columns, caption)


@dataclass(frozen=True)
class _Column:
    heading: str
    format_cell: Callable[[dict[str, Any]], str]
    holds_text: bool = False


def _format_number(row: Mapping[str, Any], name: str, format_spec: str) -> str:
    return format(row[name], format_spec) if name in row else ABSENT_CELL


def _format_sparsity(row: Mapping[str, Any]) -> str:
    """Return the sparsity of a champion, or the band of champions that are judged together."""
    return format_sparsity(row["sparsity"]) if "sparsity" in row else str(row.get("band", ABSENT_CELL))


def _format_short_sparsity(row: Mapping[str, Any]) -> str:
    return format_percent(row["sparsity"]) if "sparsity" in row else _format_sparsity(row)


def _format_difference(row: Mapping[str, Any]) -> str:
    """Return the mean difference in points, and its interval where it has one."""
    if "mean" not in row:
        return ABSENT_CELL
    interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if "low" in row else ""
    return f"{row['mean']:+.2f}{interval}"


def _format_pairs(row: Mapping[str, Any]) -> str:
    """Return the number of pairs, and how many of them live where that is fewer."""
    live_pairs = row.get("live_pairs", row["pairs"])
    return str(row["pairs"]) if live_pairs == row["pairs"] else f"{live_pairs} of {row['pairs']}"


def _format_verdict(row: Mapping[str, Any]) -> str:
    """Return the verdict in words, without the bound of collapses, which has a column."""
    if "holds" in row:
        return str(row["holds"])
    return str(row.get("statement", row["verdict"])).partition("; collapses: ")[0]


def _format_collapses(row: Mapping[str, Any]) -> str:
    """Return the collapses of both arms, and the bound of how often one arm alone collapses."""
    if "champion_collapses" not in row:
        return ABSENT_CELL
    counts = f"{row['champion_collapses']} : {row['twin_collapses']} of {row['pairs']}"
    return f"{counts}, at most {100 * row['collapse_bound']:.0f} %"


# A night calls the p by which its verdict was reached `p`, and the verdict that stands `holds`.
VERDICT_COLUMNS = {
    "study": _Column("study", lambda row: row["study"], holds_text=True),
    "champion": _Column("champion", lambda row: row["champion"], holds_text=True),
    "method": _Column("method", lambda row: row["method"], holds_text=True),
    "sparsity": _Column("sparsity", _format_sparsity),
    "short sparsity": _Column("sparsity", _format_short_sparsity),
    "accuracy": _Column("accuracy", lambda row: _format_number(row, "accuracy", ".2%")),
    "against": _Column("against", lambda row: row["against"], holds_text=True),
    "twin accuracy": _Column("accuracy", lambda row: _format_number(row, "twin_accuracy", ".2%")),
    "night": _Column("night", lambda row: row["night"] or BEFORE_FIRST_NIGHT, holds_text=True),
    "pairs": _Column("pairs", _format_pairs),
    "difference": _Column("difference", _format_difference),
    "p": _Column("p", lambda row: _format_number(row, "p" if "p" in row else "p_difference", ".2g")),
    "least p": _Column("least p", lambda row: _format_number(row, "least_p", ".2g")),
    "verdict": _Column("verdict", _format_verdict, holds_text=True),
    "collapses": _Column("collapses", _format_collapses),
    "since": _Column("since", lambda row: row.get("since", ABSENT_CELL) or BEFORE_FIRST_NIGHT, holds_text=True),
    "state": _Column("state", lambda row: row.get("state") or ABSENT_CELL, holds_text=True),
    "needed": _Column("needed", lambda row: _format_number(row, "needed", ".0f")),
}
