"""Numbers as people read them."""

import pytest

from forcetune.formats import (
    format_bytes,
    format_flops,
    format_hours,
    format_markdown_table,
    format_percent,
    format_sparsity,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "50%"), (0.9544, "95.44%"), (0.999, "99.9%"), (0.99995, "99.995%"), (0.999996, "99.9996%"), (1.0, "100%")],
)
def test_a_share_in_percent(value, text):
    assert format_percent(value) == text


@pytest.mark.parametrize(
    ("sparsity", "text"),
    [(0.5, "50.00%"), (0.98604, "98.60%"), (0.99996, "99.996%"), (0.9999999, "99.99999%"), (1.0, "100.00%")],
)
def test_a_sparsity_below_1_is_not_100_percent(sparsity, text):
    assert format_sparsity(sparsity) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (999.6e6, "1 G"), (4.481e9, "4.48 G"), (2e13, "20 T"), (3e27, "3e+03 Y")],
)
def test_a_number_of_operations(count, text):
    assert format_flops(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (999_700, "1 MB"), (55146, "55.1 kB"), (66_700_000, "66.7 MB")]
)
def test_a_number_of_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("hours", "text"), [(0.015, "0.015"), (9.94, "9.9"), (9.96, "10"), (150.4, "150"), (2156, "2,156")]
)
def test_a_number_of_hours(hours, text):
    assert format_hours(hours) == text


def test_a_table_in_markdown():
    table = format_markdown_table(("name", "ms"), [["dense", "1.5"], ["pruned", "0.5"]], {"name"})
    assert table == "| name | ms |\n| --- | ---: |\n| dense | 1.5 |\n| pruned | 0.5 |"
