"""The columns of tables of verdicts."""

import numpy as np
import pytest

from forcetune.report.verdicts import VERDICT_COLUMNS, VERDICT_LOOKS, tabulate_verdicts

COMPARISON = {
    "study": "s",
    "champion": "trial-0001",
    "method": "snip",
    "sparsity": 0.99999,
    "against": "random_erk",
    "accuracy": 0.5,
    "twin_accuracy": 0.25,
    "pairs": 6,
    "mean": 2.0,
    "low": 1.0,
    "high": 3.0,
    "p_difference": 0.0312,
    "least_p": 0.03125,
    "needed": 9.0,
    "verdict": "undecided",
}
POOLED = {
    **{name: COMPARISON[name] for name in ("study", "champion", "method", "against", "pairs", "verdict")},
    "band": "0.9 to 1",
    "sparsity": np.nan,
    "mean": None,
    "low": None,
    "p_difference": None,
    "needed": np.nan,
}
STANDING = {**COMPARISON, "p": 0.004, "holds": "beats", "since": "2026-11-04", "night": "2026-11-05"}


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("sparsity", COMPARISON, "99.999%"),
        ("short sparsity", COMPARISON, "99.999%"),
        ("sparsity", POOLED, "0.9 to 1"),
        ("short sparsity", POOLED, "0.9 to 1"),
        ("accuracy", COMPARISON, "50.00%"),
        ("twin accuracy", COMPARISON, "25.00%"),
        ("accuracy", POOLED, "-"),
        ("difference", COMPARISON, "+2.00 [+1.00, +3.00]"),
        ("difference", {**COMPARISON, "low": np.nan, "high": np.nan}, "+2.00"),
        ("difference", POOLED, "-"),
        ("p", COMPARISON, "0.031"),
        ("p", POOLED, "-"),
        ("p", STANDING, "0.004"),
        ("least p", COMPARISON, "0.031"),
        ("verdict", COMPARISON, "undecided"),
        ("verdict", STANDING, "beats"),
        ("since", STANDING, "2026-11-04"),
        ("since", {**STANDING, "since": ""}, "before"),
        ("since", {**STANDING, "since": None}, "-"),
        ("night", {**STANDING, "night": ""}, "before"),
        ("needed", COMPARISON, "9"),
        ("needed", POOLED, "-"),
    ],
)
def test_a_cell(name, row, text):
    assert tabulate_verdicts([row], [name]).rows == [[text]]


def test_a_table_has_the_columns_that_it_names():
    table = tabulate_verdicts([STANDING], ["champion", "accuracy", "twin accuracy", "verdict"], "A caption")
    assert table.header == ["champion", "accuracy", "accuracy", "verdict"]
    assert table.text_columns == {"champion", "verdict"}
    assert table.caption == "A caption"


def test_every_column_has_a_cell_and_every_verdict_its_own_look():
    assert len(tabulate_verdicts([STANDING], [*VERDICT_COLUMNS]).rows[0]) == len(VERDICT_COLUMNS)
    for attribute in ("colour", "symbol", "marker"):
        assert len({getattr(look, attribute) for look in VERDICT_LOOKS.values()}) == 4
