"""Which configuration: conditions, knees, the sparsest near dense, the best of each."""

import numpy as np
import pandas as pd
import pytest

from forcetune import analysis
from forcetune.errors import InputError

OBJECTIVES = {"val_accuracy": "max", "density": "min"}


def table(*rows, **columns):
    """Trained trials of (method, density, accuracy)."""
    made = pd.DataFrame(rows, columns=["method", "density", "val_accuracy"])
    made = made.assign(
        outcome="trained", sparsity=1 - made["density"], name=[f"t{n}" for n in range(len(rows))], **columns
    )
    made.attrs = {"objectives": OBJECTIVES, "study": "s", "studies": ["s"], "fields": ["method", "density"]}
    return made


FRONT = table(
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
def test_conditions(conditions, names):
    assert list(analysis.where(FRONT, conditions)["name"]) == names


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("macs", "'macs' is not a condition; allowed: NAME<NUMBER"),
        ("macs<", "is not a condition"),
        ("mac<3", "no column 'mac' (did you mean 'macs'?)"),
        ("method<3", "'method<3': method has words"),
        ("macs<few", "'few' is not a number"),
        ("method=forse", "no trial has method=forse (did you mean 'force'?); values: force, snip, synflow"),
    ],
)
def test_what_is_no_condition_is_refused(condition, words):
    with pytest.raises(InputError) as refused:
        analysis.where(FRONT, [condition])
    assert words in str(refused.value)


def test_a_value_that_an_earlier_condition_excludes_is_no_typing_error():
    assert analysis.where(FRONT, ["macs>3M", "method=force"]).empty


def test_conditions_on_an_objective_count_its_mean_over_fresh_seeds():
    found = FRONT.assign(val_accuracy_mean=[0.5, 0.97, 0.9, 0.6, 0.2])
    assert list(analysis.where(found, ["val_accuracy>=0.9"])["name"]) == ["t1", "t2"]


def test_the_most_accurate():
    assert list(analysis.top(FRONT, 2)["name"]) == ["t0", "t1"]
    stopped = FRONT.assign(outcome=["stopped", *["trained"] * 4])
    assert list(analysis.top(stopped, 1)["name"]) == ["t1"]


def test_the_most_accurate_of_equals_is_the_sparsest():
    assert list(analysis.top(table(("snip", 0.5, 0.9), ("snip", 0.1, 0.9)), 1)["density"]) == [0.1]


def test_without_an_accuracy_another_objective_counts():
    found = (
        table(("snip", 0.5, 0), ("snip", 0.1, 0)).drop(columns="val_accuracy").assign(val_f1=[0.3, 0.4], ms=[1.0, 2.0])
    )
    found.attrs = {**FRONT.attrs, "objectives": {"ms": "min", "val_f1": "max"}}
    assert list(analysis.top(found, 1)["density"]) == [0.1]
    assert analysis.choose_quality(found) == ("val_f1", "max")


def test_the_knee_is_where_the_trade_turns():
    assert list(analysis.knee(analysis.best(FRONT))["name"]) == ["t2"]


def test_the_knee_counts_density_by_its_logarithm():
    # on a linear axis of density all of these but the first would lie at one end
    points = table(("a", 0.5, 0.99), ("a", 0.05, 0.95), ("a", 0.005, 0.90), ("a", 0.0005, 0.30))
    assert list(analysis.knee(points)["density"]) == [0.005]


def test_two_points_have_no_knee():
    assert analysis.knee(FRONT.iloc[:2]).empty


def test_the_front_of_each_method():
    both = table(("a", 0.5, 0.9), ("a", 0.1, 0.8), ("b", 0.5, 0.7), ("b", 0.6, 0.6), ("b", 0.1, 0.5))
    found = analysis.ask_by_value(both, "method")
    assert list(zip(found["method"], found["density"], strict=True)) == [("a", 0.5), ("a", 0.1), ("b", 0.5), ("b", 0.1)]
    assert list(analysis.ask_by_value(both, "method", lambda rows: analysis.top(rows, 1))["val_accuracy"]) == [0.9, 0.7]
    assert found.attrs == both.attrs


def dense(*runs, model="cnn"):
    """Dense runs of (the trial whose settings they have, accuracy)."""
    return pd.DataFrame(runs, columns=["of", "val_accuracy"]).assign(study="s", model=model)


def test_the_sparsest_within_a_point_of_dense():
    trials = FRONT.assign(study="s", model="cnn")
    found = analysis.near_dense(trials, dense(("k", 0.975), ("k", 0.985)), 1)
    assert list(found["name"]) == ["t1"], "0.97 is a point below 0.98"
    assert (found["dense_accuracy"].item(), found["dense_seeds"].item()) == (pytest.approx(0.98), 2)
    assert found["below"].item() == pytest.approx(1)
    assert found["dense_low"].item() < 0.975
    assert list(analysis.near_dense(trials, dense(("k", 0.98)), 6)["name"]) == ["t2"]
    assert analysis.near_dense(trials, dense(("k", 1.0)), 0.5).empty


def test_without_dense_runs_nothing_is_near_them():
    with pytest.raises(InputError, match=r"no dense run .* `forcetune best STUDY --dense 3`"):
        analysis.near_dense(FRONT.assign(study="s", model="cnn"), pd.DataFrame(), 1)


def test_the_best_settings_of_dense_runs_count():
    trials = FRONT.assign(study="s", model="cnn")
    found = analysis.near_dense(trials, dense(("k", 0.90), ("k", 0.91), ("j", 0.99)), 1)
    assert list(found["name"]) == ["t0"]
    assert np.isnan(found["dense_low"].item()), "one run has no spread"


def test_each_network_has_its_own_dense_one():
    trials = FRONT.assign(
        study="s", model=["cnn", "cnn", "mlp", "mlp", "mlp"], width=pd.array([None] * 5, dtype="Int64")
    )
    runs = pd.concat([dense(("k", 0.98)).assign(width=np.nan), dense(("j", 0.61), model="mlp").assign(width=np.nan)])
    assert list(analysis.near_dense(trials, runs, 1)["name"]) == ["t1", "t3"]
    assert list(analysis.near_dense(trials, runs[runs["model"] == "mlp"], 1)["name"]) == ["t3"]


def test_a_mean_over_fresh_seeds_is_what_is_near():
    trials = FRONT.assign(study="s", model="cnn", val_accuracy_mean=[0.99, 0.90, 0.9, 0.5, 0.2])
    assert list(analysis.near_dense(trials, dense(("k", 0.98)), 1)["name"]) == ["t0"]
