"""The layout of all output: the console, and pairs of a name and a description."""

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


def format_shape(shape: Any) -> str:
    """Return a shape as text, as in 3x32x32."""
    return "x".join(map(str, shape))


def plain_table() -> Table:
    """Return a table without a header, for pairs of a name and a description."""
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))
