"""Questions for a configuration: conditions, knees, the sparsest near dense, and the best by a value."""

import numpy as np
import pandas as pd
import pytest
from shared_constants import DEFAULT_OBJECTIVES

from forcetune import analysis
from forcetune.errors import InputError


def make_table(*rows, **columns):
    """Make a table of trained trials from rows of (method, density, accuracy)."""
    frame = pd.DataFrame(rows, columns=["method", "density", "val_accuracy"])
    return frame.assign(
        outcome="trained", sparsity=1 - frame["density"], name=[f"t{n}" for n in range(len(rows))], **columns
    )


FRONT_TABLE = make_table(
    *[
        ("snip", 0.5, 0.99),
        ("force", 0.1, 0.97),
        ("force", 0.02, 0.93),
        ("synflow", 0.01, 0.60),
        ("synflow", 0.005, 0.2),
    ],
    macs=[5e6, 2e6, 9e5, 3e5, np.nan],
    iterations=pd.array([None, 5, 20, 7, 9], dtype="Int64"),
    shuffle=[False, True, False, False, True],
)


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ([], ["t0", "t1", "t2", "t3", "t4"]),
        (["macs<2M"], ["t2", "t3"]),
        (["macs <= 2M"], ["t1", "t2", "t3"]),
        (["sparsity>=99%"], ["t3", "t4"]),
        (["sparsity>0.98"], ["t3", "t4"]),
        (["density=0.1"], ["t1"]),
        (["density!=0.1"], ["t0", "t2", "t3", "t4"]),
        (["iterations>5"], ["t2", "t3", "t4"]),
        (["method=force,snip", "macs>1000k"], ["t0", "t1"]),
        (["method!=force"], ["t0", "t3", "t4"]),
        (["shuffle=true"], ["t1", "t4"]),
        (["method==synflow", "val_accuracy>0.9"], []),
    ],
)
def test_conditions_select_rows(conditions, names):
    assert list(analysis.where(FRONT_TABLE, conditions)["name"]) == names


def test_an_objective_counts_by_its_mean_where_the_trial_has_one():
    table = FRONT_TABLE.assign(val_accuracy_mean=[0.9, 0.99, 0.93, np.nan, np.nan])
    assert list(analysis.where(table, ["val_accuracy<0.95"])["name"]) == ["t0", "t2", "t3", "t4"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("macs", "'macs' is not a condition; allowed: NAME<NUMBER"),
        ("macs<", "is not a condition"),
        ("mac<3", "no column 'mac' (did you mean 'macs'?)"),
        ("method<3", "'method<3': method has words"),
        ("macs<few", "'few' is not a number"),
        ("method=forse", "no trial has method=forse (did you mean 'force'?); values: force, snip, synflow"),
    ],
)
def test_what_is_no_condition_is_refused(condition, message):
    with pytest.raises(InputError) as error:
        analysis.where(FRONT_TABLE, [condition])
    assert message in str(error.value)


def test_a_value_that_an_earlier_condition_excludes_is_no_typing_error():
    assert analysis.where(FRONT_TABLE, ["macs>3M", "method=force"]).empty


def test_conditions_on_an_objective_count_its_mean_over_fresh_seeds():
    trials = FRONT_TABLE.assign(val_accuracy_mean=[0.5, 0.97, 0.9, 0.6, 0.2])
    assert list(analysis.where(trials, ["val_accuracy>=0.9"])["name"]) == ["t1", "t2"]


def test_top_returns_the_most_accurate_trained_trials():
    assert list(analysis.top(FRONT_TABLE, DEFAULT_OBJECTIVES, 2)["name"]) == ["t0", "t1"]
    stopped = FRONT_TABLE.assign(outcome=["stopped", *["trained"] * 4])
    assert list(analysis.top(stopped, DEFAULT_OBJECTIVES, 1)["name"]) == ["t1"]


def test_the_most_accurate_of_equals_is_the_sparsest():
    trials = make_table(("snip", 0.5, 0.9), ("snip", 0.1, 0.9))
    assert list(analysis.top(trials, DEFAULT_OBJECTIVES, 1)["density"]) == [0.1]


def test_without_an_accuracy_another_maximized_objective_counts():
    trials = (
        make_table(("snip", 0.5, 0), ("snip", 0.1, 0))
        .drop(columns="val_accuracy")
        .assign(val_f1=[0.3, 0.4], ms=[1.0, 2.0])
    )
    objectives = {"ms": "min", "val_f1": "max"}
    assert list(analysis.top(trials, objectives, 1)["density"]) == [0.1]
    assert analysis.choose_quality(objectives) == ("val_f1", "max")


def test_the_knee_is_where_the_trade_turns():
    front = analysis.front(FRONT_TABLE, DEFAULT_OBJECTIVES)
    assert list(analysis.knee(front, DEFAULT_OBJECTIVES)["name"]) == ["t2"]


def test_the_knee_counts_density_by_its_logarithm():
    # On a linear axis of density all of these points but the first would lie at one end.
    points = make_table(("a", 0.5, 0.99), ("a", 0.05, 0.95), ("a", 0.005, 0.90), ("a", 0.0005, 0.30))
    assert list(analysis.knee(points, DEFAULT_OBJECTIVES)["density"]) == [0.005]


def test_the_landmarks_of_a_front_are_runs():
    front = FRONT_TABLE.assign(run_id=[f"r{n}" for n in range(len(FRONT_TABLE))])
    landmarks = {"knee": "r2", "sparsest": "r4", "most-accurate": "r0"}
    assert analysis.find_landmarks(front, DEFAULT_OBJECTIVES) == landmarks
    assert {*analysis.find_landmarks(front.iloc[:2], DEFAULT_OBJECTIVES)} == {"sparsest", "most-accurate"}
    assert analysis.find_landmarks(front.iloc[:0], DEFAULT_OBJECTIVES) == {}


def test_two_points_have_no_knee():
    assert analysis.knee(FRONT_TABLE.iloc[:2], DEFAULT_OBJECTIVES).empty


def test_the_front_of_each_method():
    trials = make_table(("a", 0.5, 0.9), ("a", 0.1, 0.8), ("b", 0.5, 0.7), ("b", 0.6, 0.6), ("b", 0.1, 0.5))
    fronts = analysis.ask_by_value(trials, "method", lambda rows: analysis.front(rows, DEFAULT_OBJECTIVES))
    assert list(zip(fronts["method"], fronts["density"], strict=True)) == [
        ("a", 0.5),
        ("a", 0.1),
        ("b", 0.5),
        ("b", 0.1),
    ]
    most_accurate = analysis.ask_by_value(trials, "method", lambda rows: analysis.top(rows, DEFAULT_OBJECTIVES, 1))
    assert list(most_accurate["val_accuracy"]) == [0.9, 0.7]


def make_dense_runs(*runs, model="cnn"):
    """Make a table of dense runs from rows of (the trial whose settings a run has, accuracy)."""
    return pd.DataFrame(runs, columns=["of", "val_accuracy"]).assign(study="s", model=model)


def test_the_sparsest_within_a_margin_of_dense_is_returned():
    trials = FRONT_TABLE.assign(study="s", model="cnn")
    sparsest = analysis.near_dense(trials, make_dense_runs(("k", 0.975), ("k", 0.985)), 1)
    assert list(sparsest["name"]) == ["t1"], "0.97 is a point below 0.98"
    assert (sparsest["dense_accuracy"].item(), sparsest["dense_seeds"].item()) == (pytest.approx(0.98), 2)
    assert sparsest["below"].item() == pytest.approx(1)
    assert sparsest["dense_low"].item() < 0.975
    assert list(analysis.near_dense(trials, make_dense_runs(("k", 0.98)), 6)["name"]) == ["t2"]
    assert analysis.near_dense(trials, make_dense_runs(("k", 1.0)), 0.5).empty


def test_a_trial_that_mostly_collapses_is_no_answer():
    seeds = {"seeds": pd.array([1] * 5, "Int64"), "collapsed_seeds": pd.array([0, 3, 0, 0, 0], "Int64")}
    trials = FRONT_TABLE.assign(study="s", model="cnn", **seeds)
    assert list(analysis.near_dense(trials, make_dense_runs(("k", 0.98)), 1)["name"]) == ["t0"], "t1 is within a point"
    names = list(analysis.top(FRONT_TABLE, DEFAULT_OBJECTIVES, 9)["name"])
    assert list(analysis.top(trials, DEFAULT_OBJECTIVES, 9)["name"]) == [name for name in names if name != "t1"]


def test_a_question_about_dense_without_dense_runs_is_refused():
    with pytest.raises(InputError, match=r"no dense run .* `forcetune baseline STUDY --dense 3`"):
        analysis.near_dense(FRONT_TABLE.assign(study="s", model="cnn"), pd.DataFrame(), 1)


def test_the_best_settings_of_dense_runs_count():
    trials = FRONT_TABLE.assign(study="s", model="cnn")
    sparsest = analysis.near_dense(trials, make_dense_runs(("k", 0.90), ("k", 0.91), ("j", 0.99)), 1)
    assert list(sparsest["name"]) == ["t0"]
    assert np.isnan(sparsest["dense_low"].item()), "one run has no spread"


def test_each_network_has_its_own_dense_one():
    trials = FRONT_TABLE.assign(
        study="s", model=["cnn", "cnn", "mlp", "mlp", "mlp"], width=pd.array([None] * 5, dtype="Int64")
    )
    runs = pd.concat(
        [
            make_dense_runs(("k", 0.98)).assign(width=np.nan),
            make_dense_runs(("j", 0.61), model="mlp").assign(width=np.nan),
        ]
    )
    assert list(analysis.near_dense(trials, runs, 1)["name"]) == ["t1", "t3"]
    assert list(analysis.near_dense(trials, runs[runs["model"] == "mlp"], 1)["name"]) == ["t3"]


def test_nearness_to_dense_counts_the_mean_over_fresh_seeds():
    trials = FRONT_TABLE.assign(study="s", model="cnn", val_accuracy_mean=[0.99, 0.90, 0.9, 0.5, 0.2])
    assert list(analysis.near_dense(trials, make_dense_runs(("k", 0.98)), 1)["name"]) == ["t0"]
