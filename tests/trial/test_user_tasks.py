"""Tasks with the user's code: measurements, metrics and a training loop."""

import pytest
from small_trials import make_trial

from forcetune import trial
from forcetune.errors import InputError
from forcetune.study import Task

USER_TASK_CODE = """
import time
import torch
from torch.nn import functional
from forcetune.training import evaluate, hold

def latency(model, example):
    with torch.no_grad():
        model(example)
        started = time.perf_counter()
        for _ in range(5):
            model(example)
    weights = sum(p.numel() for p in model.parameters())
    return {"latency_ms": (time.perf_counter() - started) / 5 * 1000, "weights": weights, "samples": len(example)}

def taken(model, example):
    return {"macs": 1}

def broken(model, example):
    raise RuntimeError("no device")

def f1(logits, targets):
    return float((logits.argmax(1) == targets).float().mean())

def train(model, masks, training, validation, fields):
    optimizer = torch.optim.SGD(model.parameters(), fields["lr"])
    hold(optimizer, model, masks)
    for epoch in range(fields["epochs"]):
        for inputs, targets in training:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        yield {**evaluate(model, validation), "epochs_so_far": epoch + 1}
"""


@pytest.fixture
def user_task(tmp_path, monkeypatch):
    (tmp_path / "my_wanted.py").write_text(USER_TASK_CODE)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_compacted_network_is_measured_before_training(user_task):
    task = Task(measure="my_wanted:latency")
    sparse, dense = (trial.prepare(make_trial(method="synflow", density=d), task).metrics for d in (0.1, 1.0))
    assert sparse["latency_ms"] > 0
    assert sparse["samples"] == 1
    assert sparse["weights"] < dense["weights"], "compaction removes channels that have no effect"
    assert {"latency_ms", "density"} <= next(trial.run(make_trial(epochs=1), task)).keys()


def test_a_measured_constraint_keeps_a_network_from_training(user_task):
    task = Task(measure="my_wanted:latency", constraints={"weights": (None, 10.0)})
    (metrics,) = trial.run(make_trial(epochs=3), task)
    assert metrics["epoch"] == 0
    assert metrics["val_accuracy"] == 0.25, "chance for four classes"
    prepared = trial.prepare(make_trial(), task)
    outcome, reason = prepared.untrained_outcome
    assert outcome == "infeasible"
    assert "is above the constraint's max 10" in reason


def test_a_collapsed_network_is_collapsed_first():
    prepared = trial.prepare(make_trial(density=0.002), Task(constraints={"density": (0.5, None)}))
    assert prepared.untrained_outcome[0] == "collapsed"


def test_a_measurement_with_a_name_of_forcetunes_own_is_refused(user_task):
    with pytest.raises(InputError, match="measure: my_wanted:taken returns macs, which forcetune measures itself"):
        trial.prepare(make_trial(), Task(measure="my_wanted:taken"))


def test_metrics_of_the_user_are_measured(user_task):
    epochs = list(trial.run(make_trial(epochs=2), Task(metrics=("my_wanted:f1",))))
    assert [metrics["val_f1"] for metrics in epochs] == [pytest.approx(epoch["val_accuracy"]) for epoch in epochs]
    (untrained,) = trial.run(make_trial(), Task(metrics=("my_wanted:f1",), constraints={"macs": (None, 1.0)}))
    assert 0 <= untrained["val_f1"] <= 1, "the untrained network is measured"


def test_a_training_loop_of_the_user_runs(user_task):
    epochs = list(trial.run(make_trial(epochs=3), Task(train="my_wanted:train")))
    assert [epoch["epochs_so_far"] for epoch in epochs] == [1, 2, 3]
    assert all({"val_accuracy", "train_seconds", "density"} <= epoch.keys() for epoch in epochs)
    assert not trial.TrialRun(trial.prepare(make_trial(), Task(train="my_wanted:train"))).is_resumable


def test_the_metrics_that_a_trial_would_report_are_listed(user_task):
    static_metrics, all_metrics = trial.find_reported_metrics(
        make_trial(), Task(measure="my_wanted:latency", metrics=("my_wanted:f1",))
    )
    assert {"density", "macs", "latency_ms"} <= {*static_metrics}
    assert {*static_metrics, "val_accuracy", "val_f1"} <= {*all_metrics}
    assert "val_f1" not in static_metrics
    with pytest.raises(InputError, match="measure: my_wanted:broken raised RuntimeError: no device"):
        trial.find_reported_metrics(make_trial(), Task(measure="my_wanted:broken"))
