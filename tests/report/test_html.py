"""The templates of pages."""

import tomllib

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from shared_constants import REPOSITORY

from forcetune.report.html import mark_code, render_template
from forcetune.report.tables import Table


def test_text_is_escaped_and_what_stands_between_backticks_is_code():
    assert mark_code("`a < b` & c") == Markup("<code>a &lt; b</code> &amp; c")


def test_a_value_that_is_missing_is_an_error_and_no_gap():
    with pytest.raises(UndefinedError, match="'table' is undefined"):
        render_template("table.html")


def test_a_table_stays_html_in_a_template():
    assert isinstance(Table(["a"], [["<b>"]]).to_html(), Markup)


def test_wheels_ship_the_templates():
    package_data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "templates/*" in package_data["forcetune.report"]
