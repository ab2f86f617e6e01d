"""Pages that open without a network: their frame and style, and templates of HTML that are filled with escaped text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

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


def render_template(name: str, **values: Any) -> Markup:
    """Return a template, filled.

    Args:
        name: The name of a file in forcetune/report/templates.
        values: The values of the template's variables. Text is escaped; `Markup` is HTML and stays as it is.
    """
    return Markup(_open_templates().get_template(name).render(values))


@cache
def _open_templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("forcetune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = mark_code
    return environment


def mark_code(text: str) -> Markup:
    """Return text as HTML, in which what stands between backticks is code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
