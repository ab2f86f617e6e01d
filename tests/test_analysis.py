"""The front of a table."""

import numpy as np
import pandas as pd
import pytest

from forcetune.analysis import best, front, non_dominated

OBJECTIVES = {"val_accuracy": "max", "density": "min"}


def table(*rows):
    columns = ["method", "density", "val_accuracy", "outcome"]
    made = pd.DataFrame(rows, columns=columns).assign(sparsity=lambda t: 1 - t["density"])
    made.attrs["objectives"] = OBJECTIVES
    return made


ROWS = [
    ("snip", 0.5, 0.99, "trained"),
    ("force", 0.05, 0.90, "trained"),
    ("random", 0.05, 0.80, "trained"),  # worse at the same density
    ("force", 0.1, 0.90, "trained"),  # denser for the same accuracy
    ("synflow", 0.01, 0.60, "trained"),
    ("snip", 0.005, 0.10, "collapsed"),  # sparsest, but never trained
    ("snip", 0.004, 0.95, "stopped"),
    ("grasp", 0.003, np.nan, "trained"),
]


def test_front():
    found = front(table(*ROWS), OBJECTIVES)
    assert list(found["density"]) == [0.5, 0.05, 0.01]
    assert list(found["method"]) == ["snip", "force", "synflow"]


def test_equal_rows_stay_together():
    twins = [("snip", 0.1, 0.9, "trained"), ("force", 0.1, 0.9, "trained")]
    assert len(front(table(*twins), OBJECTIVES)) == 2


def test_one_objective_keeps_the_best():
    assert list(front(table(*ROWS), {"val_accuracy": "max"})["density"]) == [0.5]


@pytest.mark.parametrize(
    ("conditions", "densities"),
    [
        ({"min_sparsity": 0.95}, [0.05, 0.01]),  # 1 - 0.05 is a hair less than 0.95 in floating point
        ({"min_sparsity": 0.951}, [0.01]),
        ({"min_accuracy": 0.9}, [0.5, 0.05]),
        ({"method": "force"}, [0.05]),
        ({"method": "random"}, [0.05]),  # the front of its own trials, though off the study's
        ({"min_accuracy": 0.999}, []),
    ],
)
def test_best_of_what_meets_the_conditions(conditions, densities):
    assert list(best(table(*ROWS), **conditions)["density"]) == densities


def test_empty_table():
    empty = pd.DataFrame()
    empty.attrs["objectives"] = OBJECTIVES
    assert best(empty, min_sparsity=0.5, method="snip").empty


def test_non_dominated_agrees_with_the_definition():
    values = np.random.default_rng(0).integers(0, 6, size=(60, 3)).astype(float)
    ways = ["max", "min", "max"]
    signs = np.array([1, -1, 1])

    def dominated(row):
        return any((signs * other >= signs * row).all() and (other != row).any() for other in values)

    assert list(non_dominated(values, ways)) == [not dominated(row) for row in values]
