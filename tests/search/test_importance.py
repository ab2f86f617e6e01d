"""The importance of each field: conditional fields, measured densities, too few trials."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tables import make_results

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.search.importance import importance

FORCE_ONLY = {"when": {"method": "force"}}
STUDY_FILE = {
    "study": "s",
    "objectives": {"val_accuracy": "max", "density": "min"},
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "method": ["snip", "force"],
        "density": {"low": 0.01, "high": 0.5, "log": True},
        "iterations": {"low": 2, "high": 50, "log": True, **FORCE_ONLY},
        "lr": {"low": 0.01, "high": 1.0, "log": True},
        "epochs": 2,
    },
}


def make_table(count=200, measured=0.9995):
    """Return trials whose accuracy depends on density and on iterations where they apply, but not on lr."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        method, density = ["snip", "force"][generator.integers(2)], 10 ** generator.uniform(-2, np.log10(0.5))
        iterations = int(generator.integers(2, 51)) if method == "force" else None
        gain = 0.002 * (iterations or 10)
        rows.append(
            {
                "method": method,
                "density": density * measured,  # a mask keeps a whole number of weights
                "iterations": iterations,
                "lr": 10 ** generator.uniform(-2, 0),
                "epochs": 2,
                "val_accuracy": 0.5 + 0.2 * np.log10(density) + gain + generator.normal(0, 0.005),
            }
        )
    trials = pd.DataFrame(rows).assign(outcome="trained", study="s", dataset="synthetic", model="mlp")
    trials["iterations"] = trials["iterations"].astype("Int64")
    fields = ["dataset", "model", "method", "density", "iterations", "lr", "epochs"]
    return make_results(trials, STUDY_FILE["objectives"], fields)


@pytest.fixture(autouse=True)
def study_file(monkeypatch):
    monkeypatch.setattr(tracking, "load_study_file", lambda name: STUDY_FILE)


def test_planted_importance():
    shares = importance(make_table())
    assert set(shares.index) == {"method", "density", "iterations", "lr"}
    assert list(shares) == ["val_accuracy", "density", "front", "accuracy at equal density"]
    assert shares.sum().tolist() == pytest.approx([1, 1, 1, 1])
    assert shares["density"].idxmax() == "density"
    assert shares["density"].max() > 0.95
    assert shares["accuracy at equal density"].idxmax() == "iterations", "though only one method has them"
    assert shares.loc["lr", "accuracy at equal density"] < 0.1
    assert shares.loc["density", "accuracy at equal density"] < 0.1
    assert shares.index[0] == "iterations", "sorted by the last column"


def test_measured_densities_below_the_domain_still_count():
    assert importance(make_table(measured=0.5)).loc["density", "density"] > 0.9


def test_stopped_trials_count_as_bad():
    table = make_table()
    before = importance(table).loc["method", "val_accuracy"]
    table.trials.loc[table.trials["method"] == "snip", ["outcome", "val_accuracy"]] = ["stopped", -1.0]
    assert importance(table).loc["method", "val_accuracy"] > 1.5 * before


def test_trials_without_an_accuracy_are_left_out():
    table = make_table()
    table.trials.loc[:149, "val_accuracy"] = np.nan
    assert importance(table)["val_accuracy"].sum() == pytest.approx(1)
    table.trials.loc[:190, "val_accuracy"] = np.nan
    with pytest.raises(InputError, match="needs 10 trials with sampled fields .* not 9"):
        importance(table)


def test_one_objective_has_no_front():
    table = replace(make_table(), objectives={"val_accuracy": "max"})
    assert list(importance(table)) == ["val_accuracy", "accuracy at equal density"]
