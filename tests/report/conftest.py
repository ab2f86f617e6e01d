"""Made-up studies: tables as `results.load` gives them."""

import numpy as np
import pandas as pd
import pytest

from forcetune.report import evidence, numbers

OBJECTIVES = {"val_accuracy": "max", "density": "min"}
FIELDS = ["model", "method", "density", "iterations", "schedule", "lr", "seed"]


@pytest.fixture(scope="session")
def make_table():
    """A table from rows of (method, density, accuracy, outcome) and further columns, a list or one value each."""

    def make(rows, objectives=None, **columns):
        found = pd.DataFrame(rows, columns=["method", "density", "val_accuracy", "outcome"])
        count = len(found)
        fixed = {"model": "mlp", "dataset": "digits", "status": "FINISHED", "reason": None, "study": "s", **columns}
        found = found.assign(
            run_id=[f"{place:032x}" for place in range(count)],
            name=[f"trial-{place:04d}" for place in range(count)],
            trial=[f"{place:016x}" for place in range(count)],
            started=np.arange(count) * 1000,
            ended=np.arange(count) * 1000 + 900,
            device_seconds=36.0,
            sparsity=1 - found["density"].astype(float),
            **fixed,
        )
        found.attrs = {
            "study": "s",
            "objectives": objectives or OBJECTIVES,
            "references": {"val_accuracy": 0.1, "density": 0.5},
            "device_hours": 0.5,
            "state": "FINISHED",
            "parent": "p" * 32,
            "fields": [name for name in FIELDS if name in found],
        }
        return found

    return make


@pytest.fixture(scope="session")
def searched(make_table):
    """Forty trials of four methods, two of them with iterations, some stopped and one collapsed."""
    generator = np.random.default_rng(0)
    rows, iterations, schedules = [], [], []
    for place in range(40):
        method = ("random", "snip", "force", "synflow")[place % 4]
        density = float(10 ** generator.uniform(-2.3, -0.4))
        outcome = "collapsed" if place == 7 else "stopped" if place % 5 == 4 else "trained"
        accuracy = 0.1 if place == 7 else 0.95 - 0.1 * np.log10(0.5 / density) ** 2 + generator.normal(0, 0.02)
        rows.append((method, density, float(accuracy), outcome))
        iterations.append([2, 5, 10, 20, 40][place % 5] if place % 4 > 1 else pd.NA)
        schedules.append(("exponential", "linear")[place // 4 % 2] if place % 4 > 1 else None)
    return make_table(
        rows, iterations=pd.array(iterations, "Int64"), schedule=schedules, lr=generator.uniform(0.01, 1, 40), macs=4e5
    )


@pytest.fixture(scope="session")
def gathered(searched):
    """All that can be known of them: dense runs, curves, layers and verdicts beside."""

    def make(table=searched):
        trials = numbers.prepare_trials(table)
        runs = [(row.run_id, step, row.val_accuracy * step / 5) for row in trials.itertuples() for step in range(1, 6)]
        front = trials[trials["on_front"]]
        layers = {
            row.run_id: [
                {"layer": "first.weight", "shape": [4, 4], "weights": 16, "kept": 8},
                {"layer": "last.weight", "shape": [4, 2], "weights": 8, "kept": 0 if place == 0 else 4},
            ]
            for place, row in enumerate(front.itertuples())
        }
        told = {
            "study": "s",
            "champion": "trial-0001",
            "trial": "k",
            "method": "snip",
            "sparsity": 0.9,
            "kind": "fixed",
        }
        numbers_ = {"pairs": 5, "mean": 2.0, "low": 1.0, "high": 3.0, "p_difference": 0.06, "needed": 9}
        verdicts = [{**told, **numbers_, "against": "random_erk", "verdict": "undecided"}]
        dense = pd.DataFrame({"run_id": "x", "model": "mlp", "of": "k", "val_accuracy": [0.97, 0.98, 0.99]})
        curves = pd.DataFrame(runs, columns=["run_id", "step", "value"])
        arms = pd.DataFrame({"arm": "random_erk", "density": 0.1, "val_accuracy": [0.7, 0.8], "outcome": "trained"})
        twins = numbers.summarize_twins(arms, "val_accuracy")
        return evidence.Evidence("s", trials, dense, twins, curves, "val_accuracy", layers, verdicts, 0.5)

    return make
