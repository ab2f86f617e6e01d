"""Points of a front that a control beats: random pruning, a shuffled mask or a small dense network."""

import pandas as pd
import pytest
from shared_constants import DEFAULT_OBJECTIVES

from forcetune import analysis
from forcetune.pruning import METHODS


def make_table(*rows, **columns):
    """Make a table of trained trials from rows of (method, density, accuracy, multiply-adds)."""
    frame = pd.DataFrame(rows, columns=["method", "density", "val_accuracy", "macs"])
    names = [f"t{n}" for n in range(len(rows))]
    fixed = {"outcome": "trained", "name": names, "dataset": "digits", "model": "mlp", **columns}
    return frame.assign(sparsity=1 - frame["density"], **fixed)


def name_beating_controls(trials, objectives=DEFAULT_OBJECTIVES):
    points = trials[~analysis.is_control(trials)]
    beating = analysis.find_beating_controls(points, trials, objectives)
    return dict(zip(points["name"], zip(beating["beaten_by"], beating["beaten_at"], strict=True), strict=True))


def test_random_methods_are_those_that_the_table_of_methods_marks():
    assert {name for name, row in METHODS.items() if row.is_random} == {*analysis.RANDOM_METHODS}


def test_random_shuffled_and_small_dense_trials_are_controls():
    trials = make_table(
        *[("force", 0.1, 0.9, 1.0)] * 4,
        ("random_erk", 0.1, 0.9, 1.0),
        shuffle=[True, False, None, False, False],
        small_dense=[None, "macs", None, None, None],
    )
    assert analysis.is_control(trials).tolist() == [True, True, False, False, True]


def test_a_point_is_beaten_at_equal_density_or_equal_multiply_adds():
    trials = make_table(
        ("force", 0.10, 0.90, 100),  # random pruning is equally accurate with fewer weights
        ("random_erk", 0.09, 0.90, 300),
        ("snip", 0.05, 0.80, 100),  # a small network needs fewer multiply-adds and more weights
        ("random", 0.20, 0.85, 90),
        ("synflow", 0.02, 0.60, 50),  # no control needs so few multiply-adds
        small_dense=[None, None, None, "macs", None],
    )
    assert name_beating_controls(trials) == {"t0": ("t1", "density"), "t2": ("t3", "macs"), "t4": (None, None)}


def test_a_control_that_is_equal_in_both_does_not_beat():
    assert name_beating_controls(make_table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.9, 100))) == {
        "t0": (None, None)
    }
    assert name_beating_controls(make_table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.91, 100))) == {
        "t0": ("t1", "density")
    }


def test_the_strongest_control_is_named():
    trials = make_table(("force", 0.1, 0.7, 100), ("random", 0.1, 0.8, 100), ("random_erk", 0.1, 0.9, 100))
    assert name_beating_controls(trials)["t0"] == ("t2", "density")


def test_another_network_is_compared_by_its_multiply_adds_alone():
    trials = make_table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 200), model=["mlp", "convnet"])
    assert name_beating_controls(trials)["t0"] == (None, None)
    trials = make_table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 90), model=["mlp", "convnet"])
    assert name_beating_controls(trials)["t0"] == ("t1", "macs")
    trials = make_table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 90), dataset=["digits", "mnist"])
    assert name_beating_controls(trials)["t0"] == (None, None)


@pytest.mark.parametrize("outcome", ["stopped", "collapsed", "failed"])
def test_controls_count_once_they_are_trained(outcome):
    trials = make_table(("force", 0.1, 0.7, 100), ("random", 0.05, 0.8, 90), outcome=["trained", outcome])
    assert name_beating_controls(trials)["t0"] == (None, None)


def test_means_over_fresh_seeds_count():
    trials = make_table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.8, 100), val_accuracy_mean=[0.7, 0.8], seeds=[3, 3])
    assert name_beating_controls(trials)["t0"] == ("t1", "density")


def test_a_control_with_a_lucky_seed_is_not_compared_with_a_mean():
    trials = make_table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.8, 100), val_accuracy_mean=[0.7, 0.8], seeds=[3, 0])
    assert name_beating_controls(trials)["t0"] == (None, None), "the search chose the point for the value 0.9"


def test_other_objectives_count_their_own_way():
    trials = make_table(("force", 0.1, 0.9, 100), ("random", 0.1, 0.8, 100), val_loss=[0.5, 0.4])
    assert name_beating_controls(trials, {"val_loss": "min", "density": "min"})["t0"] == ("t1", "density")


def test_the_best_controls_are_their_front():
    trials = make_table(
        ("force", 0.1, 0.9, 1), ("random", 0.1, 0.8, 1), ("random", 0.2, 0.7, 1), ("random_erk", 0.05, 0.6, 1)
    )
    assert analysis.best_controls(trials, DEFAULT_OBJECTIVES)["name"].tolist() == ["t1", "t3"]
    assert analysis.best_controls(trials[:1], DEFAULT_OBJECTIVES).empty
