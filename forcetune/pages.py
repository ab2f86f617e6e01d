"""Pages that open without a network: the frame and its style, tables."""

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


def document(title: str, parts: Sequence[str], head: str = "", style: str = STYLE) -> str:
    """The page, HTML; head: what stands in its head besides title and style."""
    told = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>{head}'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{told}</head><body>\n{body}\n</body></html>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: set[str], caption: str = "") -> str:
    """A table in HTML; words: the columns that are read, not compared."""
    kinds = [' class="words"' if name in words else "" for name in header]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    ]
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
