"""Tables of invented studies, as `load_results` returns them, and evidence for their pages."""

import numpy as np
import pandas as pd
import pytest
from shared_constants import DEFAULT_OBJECTIVES
from tables import make_results

from forcetune.report import evidence, numbers

FIELD_COLUMNS = ["model", "method", "density", "iterations", "schedule", "lr", "seed"]


@pytest.fixture(scope="session")
def make_study():
    """Return a function that makes results from rows of (method, density, accuracy, outcome) and further columns.

    A further column is a list, or one value for all rows.
    """

    def make(rows, objectives=DEFAULT_OBJECTIVES, **columns):
        trials = pd.DataFrame(rows, columns=["method", "density", "val_accuracy", "outcome"])
        count = len(trials)
        fixed = {"model": "mlp", "dataset": "digits", "status": "FINISHED", "reason": None, "study": "s", **columns}
        trials = trials.assign(
            run_id=[f"{index:032x}" for index in range(count)],
            name=[f"trial-{index:04d}" for index in range(count)],
            trial=[f"{index:016x}" for index in range(count)],
            started=np.arange(count) * 1000,
            ended=np.arange(count) * 1000 + 900,
            device_seconds=36.0,
            sparsity=1 - trials["density"].astype(float),
            **fixed,
        )
        fields = [name for name in FIELD_COLUMNS if name in trials]
        references = {"val_accuracy": 0.1, "density": 0.5}
        return make_results(trials, objectives, fields, references=references, parent="p" * 32)

    return make


@pytest.fixture(scope="session")
def searched(make_study):
    """Make forty trials of four methods: two methods with iterations, some trials stopped, one collapsed."""
    generator = np.random.default_rng(0)
    rows, iterations, schedules = [], [], []
    for index in range(40):
        method = ("random", "snip", "force", "synflow")[index % 4]
        density = float(10 ** generator.uniform(-2.3, -0.4))
        outcome = "collapsed" if index == 7 else "stopped" if index % 5 == 4 else "trained"
        accuracy = 0.1 if index == 7 else 0.95 - 0.1 * np.log10(0.5 / density) ** 2 + generator.normal(0, 0.02)
        rows.append((method, density, float(accuracy), outcome))
        iterations.append([2, 5, 10, 20, 40][index % 5] if index % 4 > 1 else pd.NA)
        schedules.append(("exponential", "linear")[index // 4 % 2] if index % 4 > 1 else None)
    return make_study(
        rows, iterations=pd.array(iterations, "Int64"), schedule=schedules, lr=generator.uniform(0.01, 1, 40), macs=4e5
    )


@pytest.fixture(scope="session")
def make_evidence(searched):
    """Return a function that makes all evidence of a study: dense runs, twins, curves, layers and verdicts."""

    def make(study_results=searched):
        results = numbers.prepare_trials(study_results)
        trials = results.trials
        runs = [(row.run_id, step, row.val_accuracy * step / 5) for row in trials.itertuples() for step in range(1, 6)]
        front = trials[trials["on_front"]]
        layers = {
            row.run_id: [
                {"layer": "first.weight", "shape": [4, 4], "weights": 16, "kept": 8},
                {"layer": "last.weight", "shape": [4, 2], "weights": 8, "kept": 0 if index == 0 else 4},
            ]
            for index, row in enumerate(front.itertuples())
        }
        comparison = {
            "study": "s",
            "champion": "trial-0001",
            "trial": "k",
            "method": "snip",
            "sparsity": 0.9,
            "kind": "fixed",
        }
        statistics = {"pairs": 5, "mean": 2.0, "low": 1.0, "high": 3.0, "p_difference": 0.06, "needed": 9}
        verdicts = [{**comparison, **statistics, "against": "random_erk", "verdict": "undecided"}]
        dense = pd.DataFrame({"run_id": "x", "model": "mlp", "of": "k", "val_accuracy": [0.97, 0.98, 0.99]})
        curves = pd.DataFrame(runs, columns=["run_id", "step", "value"])
        twin = {"arm": "random_erk", "density": 0.1, "outcome": "trained"}
        arms = pd.DataFrame({**twin, "seed": [5, 6], "val_accuracy": [0.7, 0.8]})
        twins = numbers.summarize_twins(arms, "val_accuracy")
        band = numbers.predict_band(study_results)
        return evidence.Evidence("s", results, dense, twins, curves, "val_accuracy", layers, verdicts, 0.5, band)

    return make
