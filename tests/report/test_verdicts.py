"""The columns of tables of verdicts."""

import numpy as np
import pytest

from forcetune.report.figures import draw_forest
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
TWO_PARTS = {
    **COMPARISON,
    "live_pairs": 4,
    "verdict": "ties",
    "statement": "ties where both live; collapses: at most 58 %",
    "champion_collapses": 1,
    "twin_collapses": 2,
    "collapse_bound": 0.5818,
}
STANDING = {**COMPARISON, "p": 0.004, "holds": "beats", "since": "2026-11-04", "night": "2026-11-05"}
STANDING |= {"collapses": "undecided", "champion_collapses": 1, "twin_collapses": 3, "collapse_bound": 0.2204}
STANDING |= {"state": "under symmetric differences"}


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
        ("verdict", TWO_PARTS, "ties where both live"),
        ("collapses", COMPARISON, "-"),
        ("collapses", TWO_PARTS, "1 : 2 of 6, at most 58 %"),
        ("pairs", COMPARISON, "6"),
        ("pairs", TWO_PARTS, "4 of 6"),
        ("verdict", STANDING, "beats"),
        ("since", STANDING, "2026-11-04"),
        ("since", {**STANDING, "since": ""}, "before"),
        ("since", {**STANDING, "since": None}, "-"),
        ("night", {**STANDING, "night": ""}, "before"),
        ("collapses", STANDING, "1 : 3 of 6, at most 22 %"),
        ("state", COMPARISON, "-"),
        ("state", STANDING, "under symmetric differences"),
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


def test_comparisons_without_a_live_pair_are_in_the_table_alone():
    lost = {**COMPARISON, "mean": None, "low": None, "high": None, "verdict": "beats"}
    assert draw_forest([lost], 0.5) is None
    figure = draw_forest([COMPARISON, lost, lost], 0.5)
    assert figure.caption.endswith("2 comparisons have no pair in which both runs live: the table alone shows them.")
    assert len(figure.frame) == 1
    assert "no pair" not in draw_forest([COMPARISON], 0.5).caption


def test_every_column_has_a_cell_and_every_verdict_its_own_look():
    assert len(tabulate_verdicts([STANDING], [*VERDICT_COLUMNS]).rows[0]) == len(VERDICT_COLUMNS)
    for attribute in ("colour", "symbol", "marker"):
        assert len({getattr(look, attribute) for look in VERDICT_LOOKS.values()}) == 4
