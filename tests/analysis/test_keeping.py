"""The trials whose weights are kept, by the front and by the intervals of fresh seeds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from forcetune.analysis import add_seed_estimates, front, select_kept
from forcetune.analysis.keeping import select_ranks

OBJECTIVES = {"val_accuracy": "max", "density": "min"}


def make_trials(*points, outcome="trained"):
    """Return a table of trials with these accuracies and densities."""
    rows = [
        {"run_id": f"run{n}", "trial": f"key{n}", "outcome": outcome, "val_accuracy": accuracy, "density": density}
        for n, (accuracy, density) in enumerate(points)
    ]
    return pd.DataFrame(rows).assign(sparsity=lambda rows: 1 - rows["density"])


def list_kept(trials, keep="front", has_seeds=False, objectives=OBJECTIVES):
    return [int(run.removeprefix("run")) for run in select_kept(trials, objectives, keep, has_seeds)["run_id"]]


POINTS = [(0.9, 0.1), (0.8, 0.1), (0.7, 0.1), (0.6, 0.1), (0.95, 0.5), (0.95, 0.6)]


@pytest.mark.parametrize(
    ("keep", "has_seeds", "kept"),
    [
        ("front", False, [0, 4]),
        ("best", False, [4, 5]),  # they tie
        ("all", False, [0, 1, 2, 3, 4, 5]),
        ("none", False, []),
        ("front", True, [0, 1, 2, 4, 5]),  # the first three ranks, until fresh seeds judge
    ],
)
def test_what_is_kept(keep, has_seeds, kept):
    assert list_kept(make_trials(*POINTS), keep, has_seeds) == kept


def test_only_trained_trials_are_kept():
    trials = make_trials(*POINTS, outcome="stopped")
    assert list_kept(trials, "all") == list_kept(trials) == list_kept(trials.iloc[:0]) == []


def test_a_study_without_a_quality_keeps_its_front_as_best():
    assert list_kept(make_trials(*POINTS), "best", objectives={"density": "min"}) == [0, 1, 2, 3]


def run_again(trials, noise, points):
    """Return the trials with the estimates from two fresh seeds of each of these points."""
    rows = [
        {**trials.iloc[point][["val_accuracy", "density"]], "of": f"key{point}", "outcome": "trained", "shift": shift}
        for point in points
        for shift in (-noise, noise)
    ]
    reruns = pd.DataFrame(rows)
    return add_seed_estimates(trials, reruns.assign(val_accuracy=reruns["val_accuracy"] + reruns["shift"]), OBJECTIVES)


def test_the_interval_of_a_trial_that_left_the_front_may_reach_it():
    trials = make_trials((0.90, 0.1), (0.899, 0.1), (0.80, 0.1), (0.2, 0.2))
    assert list_kept(run_again(trials, 0.001, [0, 1, 2]), has_seeds=True) == [0, 1]
    assert list_kept(run_again(trials, 0.1, [0, 1, 2]), has_seeds=True) == [0, 1, 2], "0.2 is too far even so"
    assert list_kept(run_again(trials, 0.0, [0, 1]), has_seeds=True) == [0]


@given(some.lists(some.tuples(some.sampled_from([0.1, 0.2, 0.3, 0.4]), some.sampled_from([0.1, 0.2, 0.3])), min_size=1))
def test_the_front_is_kept_whatever_else_is(points):
    trials = make_trials(*points)
    on_front = set(front(trials, OBJECTIVES)["run_id"])
    assert set(select_kept(trials, OBJECTIVES, "front", False)["run_id"]) == on_front
    assert on_front <= set(select_kept(trials, OBJECTIVES, "front", True)["run_id"])
    best = trials["val_accuracy"].max()
    assert set(select_kept(trials, OBJECTIVES, "best", False)["val_accuracy"]) == {best}


def test_ranks_of_equal_rows_are_equal():
    losses = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [0.5, 3.0], [3.0, 3.0]])
    assert select_ranks(losses, 1).tolist() == [True, True, False, True, False]
    assert select_ranks(losses, 2).tolist() == [True, True, True, True, False]
    assert select_ranks(losses, 9).all()
