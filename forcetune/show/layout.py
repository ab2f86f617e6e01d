"""How anything is printed: the console, tables, rows without what they lack."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def console(error: bool = False, width: int = 160) -> Console:
    """Standard output (or error) as it is, but never so narrow that a table loses an id where there is no terminal.

    width: in characters, where there is no terminal.
    """
    found = Console(stderr=error)
    return found if found.is_terminal else Console(width=width, stderr=error)


def present(row: dict[Any, Any]) -> dict[str, Any]:
    """The row without what it does not have: a one-shot method's iterations, a trained trial's reason."""
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}


def sizes(shape: Any) -> str:
    """A shape as it is written: 3x32x32."""
    return "x".join(map(str, shape))


def plain() -> Table:
    """A table of names and what is said of them."""
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def ruled(*header: str, left: int) -> Table:
    """A table with a header; the first `left` columns are read, the others compared."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
    return table
