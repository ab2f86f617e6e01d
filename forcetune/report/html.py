"""Pages that open without a network: their frame, style and tables."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; }
th.words, td.words { text-align: left; }
.alarm { border-left: .4rem solid #d55e00; padding-left: 1rem; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; }
"""


def render_document(title: str, body_parts: Sequence[str], head: str = "", style: str = STYLE) -> str:
    """Render a page as HTML.

    Args:
        title: The title of the page, as text.
        body_parts: The parts of the body, as HTML.
        head: Further elements of the head, as HTML.
        style: The style sheet.
    """
    head_html = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>{head}'
    body = "\n".join(body_parts)
    return f'<!doctype html>\n<html lang="en"><head>{head_html}</head><body>\n{body}\n</body></html>\n'


def render_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], word_columns: set[str], caption: str = ""
) -> str:
    """Render a table as HTML.

    Args:
        header: The names of the columns, as text.
        rows: The cells of each row, as text.
        word_columns: The names of the columns that hold words; the others hold numbers, which stand on the right.
        caption: The caption, as text.
    """
    classes = [' class="words"' if name in word_columns else "" for name in header]
    head = "".join(
        f'<th scope="col"{css_class}>{escape(name)}</th>' for name, css_class in zip(header, classes, strict=True)
    )
    lines = [
        "<tr>"
        + "".join(f"<td{css_class}>{escape(cell)}</td>" for cell, css_class in zip(row, classes, strict=True))
        + "</tr>"
        for row in rows
    ]
    caption_html = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{caption_html}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
