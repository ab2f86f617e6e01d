"""Tables of text in the forms that people read: on a terminal, in HTML, in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forcetune.formats import format_markdown_table

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.table import Table as TerminalTable

LATEX_SIGNS = {"_": r"\_", "%": r"\%", "&": r"\&", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$"}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: The names of the columns. Two columns may share a name.
        rows: The cells of each row.
        text_columns: The names of the columns that hold text, which stands on the left; the others hold numbers, which
            stand on the right. It may name columns that the table lacks.
        caption: The caption, which HTML, Markdown and LaTeX have.
        legend: The meaning of marks in the cells, which Markdown and LaTeX have.
        code_columns: The names of the columns whose cells are code; Markdown sets them between backticks.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Collection[str] = ()
    caption: str = ""
    legend: str = ""
    code_columns: Collection[str] = ()

    def to_terminal(self, shrinking_columns: Collection[str] = ()) -> TerminalTable:
        """Return the header and the rows as a table of Rich.

        Args:
            shrinking_columns: The names of the columns that a narrow terminal shortens before the others.
        """
        from rich.table import Table as TerminalTable
        from rich.text import Text

        table = TerminalTable(box=None, padding=(0, 2, 0, 0))
        for name in self.header:
            justify = "left" if name in self.text_columns else "right"
            table.add_column(name, justify=justify, no_wrap=name not in shrinking_columns)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*map(Text, row))  # Rich would read what stands between brackets as markup
        return table

    def to_html(self) -> Markup:
        """Return the table in HTML, below its caption."""
        from forcetune.report.html import render_template

        return render_template("table.html", table=self)

    def to_markdown(self) -> str:
        """Return the table in Markdown, below its caption and above its legend."""
        rows = [
            [f"`{cell}`" if name in self.code_columns else cell for name, cell in zip(self.header, row, strict=True)]
            for row in self.rows
        ]
        lines = format_markdown_table(self.header, rows, self.text_columns)
        return "\n\n".join(filter(None, [self.caption, lines, self.legend])) + "\n"

    def to_latex(self) -> str:
        """Return the table in LaTeX, with the rules of booktabs, and its legend in its caption."""
        # Styler.to_latex leaves the caption as it is, and ±, † and ‡ as characters that not every LaTeX has.
        alignment = "".join("l" if name in self.text_columns else "r" for name in self.header)
        header, *body = [f"  {' & '.join(map(_escape_latex, row))} \\\\" for row in (self.header, *self.rows)]
        caption = _escape_latex(" ".join(filter(None, [self.caption, self.legend])))
        lines = [
            r"\begin{table}",
            r"  \centering",
            *([f"  \\caption{{{caption}}}"] if caption else []),
            f"  \\begin{{tabular}}{{{alignment}}}",
            *(r"  \toprule", header, r"  \midrule", *body, r"  \bottomrule"),
            r"  \end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _escape_latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def drop_missing(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row without the fields whose value is missing.

    For example, a one-shot method has no iterations, and a trained trial has no reason.

    Args:
        row: A record of a table, by column.
    """
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}
