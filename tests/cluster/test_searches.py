"""Complete searches with Ray, both stores and the command line: early stopping, re-runs, custom objectives."""

import json

import optuna
import pytest
from promise import check_promise

from forcetune.ledger.trials import load_trials

pytestmark = pytest.mark.long

TRIAL_COUNT, EPOCH_COUNT = 45, 8


def test_stopped_trials_and_companions(search):
    study = search(
        trial={"model": "mlp", "width": 12, "epochs": EPOCH_COUNT},
        search={"trials": TRIAL_COUNT, "seeds": {"front": 3}},
        constraints={"density": 0.8},
    )
    driver = study.start()
    assert driver.wait() == 0, driver.output
    rows = study.check_promise()
    assert {"trained", "stopped", "infeasible"} <= set(rows["outcome"])
    stopped = rows[rows["outcome"] == "stopped"]
    assert stopped["reason"].str.match(r"at rung 1/[842], after epoch [124]: rank \d+, behind \d+ and level with").all()
    assert (rows[rows["outcome"] == "infeasible"]["density"] > 0.8).all()

    optuna_study = optuna.load_study(study_name="s", storage=study.ledger)
    front_keys = {trial.user_attrs["key"] for trial in optuna_study.best_trials}
    assert not front_keys & set(stopped["trial"])
    recorded = [trial for trial in load_trials("s", study.ledger) if trial.constraints]
    epochs = {len(trial.user_attrs["ended"]["record"]["curve"]) for trial in recorded}
    assert epochs <= {1, 2, 4}, "a stopped trial ends at its rung, and an infeasible one has epoch 0 alone"

    companion_rows = check_promise(
        "s.companion", count_trials("s.companion", study.ledger), study.ledger, f"sqlite:///{study.folder}/mlflow.db"
    )
    assert set(companion_rows["of"]) <= set(rows[rows["outcome"] == "trained"]["trial"])
    assert set(companion_rows["seed"]) <= {1, 2, 3}
    best = study.start("best", "s", "--json")
    assert best.wait() == 0
    front = json.loads(best.output)
    assert all(row["outcome"] == "trained" for row in front)
    repeated = [row for row in front if row["seeds"]]
    assert len(repeated) >= len(front) / 2
    assert all(row["val_accuracy_low"] <= row["val_accuracy_mean"] <= row["val_accuracy_high"] for row in repeated)


DEVICE_PY = """
import time
import torch

def latency(model, example):
    with torch.no_grad():
        model(example)
        started = time.perf_counter()
        model(example)
    return {"latency_ms": (time.perf_counter() - started) * 1000}

def f1(logits, targets):
    found, scores = logits.argmax(1), []
    for c in range(logits.shape[1]):
        hits = int(((found == c) & (targets == c)).sum())
        scores.append(2 * hits / max(int((found == c).sum() + (targets == c).sum()), 1))
    return sum(scores) / len(scores)
"""


def test_custom_objectives_and_the_end_by_patience(search):
    study = search(
        trial={"model": "mlp", "width": 12, "epochs": 2},
        search={"trials": 30, "patience": {"trials": 5, "gain": 3.0}},
        measure="my_device:latency",
        metrics="my_device:f1",
        objectives={
            "val_f1": {"direction": "max", "reference": 0.0},
            "latency_ms": {"direction": "min", "reference": 10_000.0},
        },
        constraints={"latency_ms": {"max": 9_000.0}},
    )
    (study.folder / "my_device.py").write_text(DEVICE_PY)
    driver = study.start()
    assert driver.wait() == 0, driver.output
    assert "over 5 trials the hypervolume grew by" in driver.output
    trial_count = count_trials("s", study.ledger)
    assert 6 <= trial_count < 30
    rows = check_promise("s", trial_count, study.ledger, f"sqlite:///{study.folder}/mlflow.db")
    assert (rows["latency_ms"] > 0).all()
    assert rows["val_f1"].between(0, 1).all()
    header = next(line for line in driver.output.splitlines() if line.startswith("sparsity"))
    assert {"val_f1", "latency_ms"} <= {*header.split()}


def count_trials(name, uri):
    return len(optuna.load_study(study_name=name, storage=uri).trials)
