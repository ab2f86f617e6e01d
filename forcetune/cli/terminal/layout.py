"""The layout of all output: the console, tables, and rows without missing values."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def console(error: bool = False, width: int = 160) -> Console:
    """Return a console for standard output or standard error.

    Without a terminal it has a fixed width, so that a table loses no part of an id.

    Args:
        error: Whether it prints to standard error.
        width: Width in characters where there is no terminal.
    """
    terminal = Console(stderr=error)
    return terminal if terminal.is_terminal else Console(width=width, stderr=error)


def drop_missing(row: dict[Any, Any]) -> dict[str, Any]:
    """Return a row without the fields whose value is missing.

    For example, a one-shot method has no iterations, and a trained trial has no reason.

    Args:
        row: A record of a table, by column.
    """
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}


def format_shape(shape: Any) -> str:
    """Return a shape as text, as in 3x32x32."""
    return "x".join(map(str, shape))


def plain_table() -> Table:
    """Return a table without a header, for pairs of a name and a description."""
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def header_table(*header: str, left: int) -> Table:
    """Return a table with a header.

    Args:
        header: The column names.
        left: Number of text columns, which come first and are aligned to the left; the others hold numbers.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    return table
