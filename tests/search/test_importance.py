"""How much each field has to do with being good: conditional fields, measured densities, too few trials."""

import numpy as np
import pandas as pd
import pytest

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.search.importance import importance

STEPS = {"when": {"method": "force"}}
WRITTEN = {
    "study": "s",
    "objectives": {"val_accuracy": "max", "density": "min"},
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "method": ["snip", "force"],
        "density": {"low": 0.01, "high": 0.5, "log": True},
        "iterations": {"low": 2, "high": 50, "log": True, **STEPS},
        "lr": {"low": 0.01, "high": 1.0, "log": True},
        "epochs": 2,
    },
}


def made(count=200, measured=0.9995):
    """Accuracy depends on density, and on iterations where there are any; on lr not at all."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        method, density = ["snip", "force"][generator.integers(2)], 10 ** generator.uniform(-2, np.log10(0.5))
        steps = int(generator.integers(2, 51)) if method == "force" else None
        gain = 0.002 * (steps or 10)
        rows.append(
            {
                "method": method,
                "density": density * measured,  # a mask keeps a whole number of weights
                "iterations": steps,
                "lr": 10 ** generator.uniform(-2, 0),
                "epochs": 2,
                "val_accuracy": 0.5 + 0.2 * np.log10(density) + gain + generator.normal(0, 0.005),
            }
        )
    table = pd.DataFrame(rows).assign(outcome="trained", study="s", dataset="synthetic", model="mlp")
    table["iterations"] = table["iterations"].astype("Int64")
    fields = ["dataset", "model", "method", "density", "iterations", "lr", "epochs"]
    table.attrs = {"study": "s", "objectives": WRITTEN["objectives"], "fields": fields}
    return table


@pytest.fixture(autouse=True)
def study_file(monkeypatch):
    monkeypatch.setattr(tracking, "load_study_file", lambda name: WRITTEN)


def test_planted_importance():
    found = importance(made())
    assert set(found.index) == {"method", "density", "iterations", "lr"}
    assert list(found) == ["val_accuracy", "density", "front", "accuracy at equal density"]
    assert found.sum().tolist() == pytest.approx([1, 1, 1, 1])
    assert found["density"].idxmax() == "density"
    assert found["density"].max() > 0.95
    assert found["accuracy at equal density"].idxmax() == "iterations", "though only one method has them"
    assert found.loc["lr", "accuracy at equal density"] < 0.1
    assert found.loc["density", "accuracy at equal density"] < 0.1
    assert found.index[0] == "iterations", "sorted by the last column"


def test_measured_densities_below_the_domain_still_count():
    assert importance(made(measured=0.5)).loc["density", "density"] > 0.9


def test_stopped_trials_are_among_the_bad_ones():
    table = made()
    before = importance(table).loc["method", "val_accuracy"]
    table.loc[table["method"] == "snip", ["outcome", "val_accuracy"]] = ["stopped", -1.0]
    assert importance(table).loc["method", "val_accuracy"] > 1.5 * before


def test_trials_without_an_accuracy_are_left_out():
    table = made()
    table.loc[:149, "val_accuracy"] = np.nan
    assert importance(table)["val_accuracy"].sum() == pytest.approx(1)
    table.loc[:190, "val_accuracy"] = np.nan
    with pytest.raises(InputError, match="needs 10 trials with sampled fields .* not 9"):
        importance(table)


def test_one_objective_has_no_front(monkeypatch):
    table = made()
    table.attrs["objectives"] = {"val_accuracy": "max"}
    assert list(importance(table)) == ["val_accuracy", "accuracy at equal density"]
