"""Templates of pages and of their parts, filled with text that is escaped."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


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
