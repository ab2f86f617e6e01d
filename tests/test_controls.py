"""Which points of a front a network that nobody chose is as good as."""

import pandas as pd
import pytest

from forcetune import analysis
from forcetune.pruning import METHODS


def table(*rows, **columns):
    """Trained trials of (method, density, accuracy, multiply-adds)."""
    made = pd.DataFrame(rows, columns=["method", "density", "val_accuracy", "macs"])
    names = [f"t{n}" for n in range(len(rows))]
    fixed = {"outcome": "trained", "name": names, "dataset": "digits", "model": "mlp", **columns}
    made = made.assign(sparsity=1 - made["density"], **fixed)
    made.attrs = {"objectives": {"val_accuracy": "max", "density": "min"}}
    return made


def beaten(found):
    points = found[~analysis.is_control(found)]
    answer = analysis.beaten(points, found)
    return dict(zip(points["name"], zip(answer["beaten_by"], answer["beaten_at"], strict=True), strict=True))


def test_the_rows_of_random_pruning_are_those_of_the_table_of_methods():
    assert {name for name, row in METHODS.items() if row.is_random} == {*analysis.RANDOM_METHODS}


def test_what_is_a_control():
    found = table(
        *[("force", 0.1, 0.9, 1.0)] * 4,
        ("random_erk", 0.1, 0.9, 1.0),
        shuffle=[True, False, None, False, False],
        small_dense=[None, "macs", None, None, None],
    )
    assert analysis.is_control(found).tolist() == [True, True, False, False, True]


def test_a_point_is_beaten_at_equal_density_or_equal_multiply_adds():
    found = table(
        ("force", 0.10, 0.90, 100),  # random pruning is as good with fewer weights
        ("random_erk", 0.09, 0.90, 300),
        ("snip", 0.05, 0.80, 100),  # a small network needs fewer multiply-adds and more weights
        ("random", 0.20, 0.85, 90),
        ("synflow", 0.02, 0.60, 50),  # nothing is as cheap
        small_dense=[None, None, None, "macs", None],
    )
    assert beaten(found) == {"t0": ("t1", "density"), "t2": ("t3", "macs"), "t4": (None, None)}


def test_a_control_that_is_equal_in_both_does_not_beat():
    assert beaten(table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.9, 100))) == {"t0": (None, None)}
    assert beaten(table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.91, 100))) == {"t0": ("t1", "density")}


def test_the_strongest_control_is_named():
    found = table(("force", 0.1, 0.7, 100), ("random", 0.1, 0.8, 100), ("random_erk", 0.1, 0.9, 100))
    assert beaten(found)["t0"] == ("t2", "density")


def test_another_network_is_compared_by_its_multiply_adds_alone():
    found = table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 200), model=["mlp", "convnet"])
    assert beaten(found)["t0"] == (None, None)
    found = table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 90), model=["mlp", "convnet"])
    assert beaten(found)["t0"] == ("t1", "macs")
    found = table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 90), dataset=["digits", "mnist"])
    assert beaten(found)["t0"] == (None, None)


@pytest.mark.parametrize("outcome", ["stopped", "collapsed", "failed"])
def test_controls_count_once_they_are_trained(outcome):
    found = table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 90), outcome=["trained", outcome])
    assert beaten(found)["t0"] == (None, None)


def test_means_over_fresh_seeds_count():
    found = table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.8, 100), val_accuracy_mean=[0.7, 0.8], seeds=[3, 3])
    assert beaten(found)["t0"] == ("t1", "density")


def test_one_lucky_seed_of_a_control_is_not_held_against_a_mean():
    found = table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.8, 100), val_accuracy_mean=[0.7, 0.8], seeds=[3, 0])
    assert beaten(found)["t0"] == (None, None), "the value that chose the point is 0.9"


def test_other_objectives_count_their_own_way():
    found = table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.8, 100), val_loss=[0.5, 0.4])
    found.attrs = {"objectives": {"val_loss": "min", "density": "min"}}
    assert beaten(found)["t0"] == ("t1", "density")


def test_the_front_of_the_controls():
    found = table(
        ("force", 0.1, 0.9, 1), ("random", 0.1, 0.8, 1), ("random", 0.2, 0.7, 1), ("random_erk", 0.05, 0.6, 1)
    )
    assert analysis.best_controls(found)["name"].tolist() == ["t1", "t3"]
    assert analysis.best_controls(found[:1].assign()).empty
