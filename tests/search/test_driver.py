"""The driver on real stores, without Ray: the outcomes of trials, and what a study leaves in both stores."""

import json
import re

import optuna
import pytest
from drivers import FIRST_FILES, drain, end, make_driver, optuna_trials, report_epoch

from forcetune.errors import HeldError
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.search.meter import Meter
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Epoch, load_progress, load_table


def test_outcomes_in_both_stores(folder, make_study):
    driver = make_driver(make_study(search={"trials": 4}))
    trained, collapsed, failed, lost = (driver.issue() for _ in range(4))
    assert driver.issue() is None
    end(driver, trained)
    end(driver, collapsed, "collapsed", reason="no path", val_accuracy=0.25)
    end(driver, failed, "failed", reason="Diverged: nan")
    for attempt in range(1, 5):
        assert lost.attempt == attempt
        driver.report_loss(lost.number, lost.attempt, "lost", "its worker ended")
        lost = driver.issue()
    assert lost is None
    assert driver.is_finished
    driver.close()

    trials = {trial.number: trial for trial in optuna_trials()}
    assert [trials[n].state.name for n in range(4)] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert trials[0].values == [0.5, trained.trial.density]
    assert trials[1].constraints == {"off_front": 1.0}
    study = optuna.load_study(study_name="s", storage=optuna_uri())
    assert [trial.number for trial in study.best_trials] == [0]

    rows = load_table("s").trials.set_index("name")
    assert list(rows["outcome"]) == ["trained", "collapsed", "failed", "failed"]
    assert list(rows["status"]) == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert rows.loc["trial-0002", "reason"] == "Diverged: nan"
    assert rows.loc["trial-0003", "reason"] == "its worker ended; failed after 4 attempts"


def test_an_objective_that_is_not_finite_fails_the_trial(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()
    end(driver, assignment, val_accuracy=float("nan"))
    driver.close()
    assert optuna_trials()[0].state.name == "FAIL"
    assert load_table("s").trials.loc[0, "reason"] == "the objective val_accuracy became nan"


def run_crowd(driver, count=21, epochs=16):
    """Run trials to their end that are good at the first rung, which is after epoch 2 of 16."""
    for _ in range(count):
        assignment = driver.issue()
        assert not any(report_epoch(driver, assignment, step, 0.9) for step in (1, 2))
        end(driver, assignment, val_accuracy=0.9)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_trial_is_stopped_at_its_rung_and_is_off_the_front(folder, make_study, restarted):
    study = make_study(
        {"epochs": 16, "density": {"low": 0.05, "high": 0.1}}, search={"trials": 80, "sampler": "random"}
    )
    driver = make_driver(study)
    run_crowd(driver)
    if restarted:
        driver.close(0.0)
        driver = make_driver(study)
    poor = driver.issue()
    while poor.trial.density < 0.09:  # a denser trial is dominated by most of the crowd
        end(driver, poor)
        poor = driver.issue()
    assert not report_epoch(driver, poor, 1, 0.1)
    assert report_epoch(driver, poor, 2, 0.1)
    assert driver.running == 0
    assert not report_epoch(driver, poor, 3, 0.9), "a late report belongs to no trial"
    driver.close()

    trial = optuna_trials()[poor.number]
    assert trial.state.name == "COMPLETE"
    assert trial.values == [0.1, poor.trial.density]
    assert trial.constraints == {"off_front": 1.0}
    row = load_table("s").trials.set_index("name").loc[f"trial-{poor.number:04d}"]
    assert (row["outcome"], row["status"], row["val_accuracy"]) == ("stopped", "FINISHED", 0.1)
    assert re.fullmatch(
        r"at rung 1/8, after epoch 2: rank \d+, behind \d+ and level with \d+ of \d+ trials", row["reason"]
    )
    assert row["train_seconds"] == 1.5, "the time until then is kept"


def test_an_infeasible_trial_counts_and_is_off_the_front(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, constraints={"macs": 1}))
    assignment = driver.issue()
    report = Report({"density": 0.1}, None, outcome="infeasible", reason="macs 9 is above the constraint's max 1")
    driver.end(assignment.number, assignment.attempt, report)
    driver.close()
    assert optuna_trials()[0].values == [0.25, 0.1], "an untrained network counts at chance"
    assert optuna_trials()[0].constraints == {"off_front": 1.0}
    row = load_table("s").trials.loc[0]
    assert (row["outcome"], row["reason"]) == ("infeasible", "macs 9 is above the constraint's max 1")
    assert row["val_accuracy"] == 0.25


def test_an_objective_that_is_never_reported_fails_the_trial(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, train="collections:Counter", objectives={"val_f1": "max"}))
    end(driver, driver.issue())
    driver.close()
    reason = load_table("s").trials.loc[0, "reason"]
    assert "does not report the objective val_f1; it reports val_accuracy, density" in reason


def test_a_trial_leaves_its_curve_its_files_and_nothing_on_disk(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()
    earlier = Epoch(1, 500, {"val_accuracy": 0.4})
    trial_started = TrialStarted({"density": 0.1, "macs": 7.0}, "cpu", [earlier])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    end(driver, assignment)
    driver.close()
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    run = load_table("s").trials.loc[0, "run_id"]
    history = client.get_metric_history(run, "val_accuracy")
    assert [(m.step, m.timestamp, m.value) for m in history] == [(1, 500, 0.4), (2, 1000, 0.5)]
    assert client.get_run(run).data.metrics["macs"] == 7
    assert {artifact.path for artifact in client.list_artifacts(run)} == {"masks.npz", "layers.json"}
    assert client.get_run(run).data.tags["forcetune.device"] == "cpu"
    assert not (folder / ".forcetune").exists()


def test_a_driver_that_lost_the_study_writes_no_file(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()

    def raise_held():
        raise HeldError("taken over")

    driver.ledger._check = raise_held
    with pytest.raises(HeldError):
        driver.report(
            assignment.number, assignment.attempt, Report(trial_started=TrialStarted({}, "cpu", []), files=FIRST_FILES)
        )
    assert not list((folder / ".forcetune").rglob("*.*"))


def test_one_parent_run_holds_the_study(folder, make_study):
    study = make_study(search={"trials": 1})
    drain(make_driver(study))
    drain(make_driver(study))
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"s", "trial-0000"}
    assert runs["trial-0000"].data.tags["mlflow.parentRunId"] == runs["s"].info.run_id
    assert runs["s"].info.status == "FINISHED"
    assert json.loads(runs["s"].data.tags["forcetune.objectives"]) == study.objectives
    for tag in ("version", "torch", "ray", "optuna", "digest"):
        assert runs["trial-0000"].data.tags[f"forcetune.{tag}"]
    assert runs["trial-0000"].data.params["method"] in ("random", "snip", "force")


class RecordingMeter(Meter):
    """A meter that keeps all its values."""

    def __init__(self):
        self.outcomes, self.seconds, self.progress = [], [], []

    def count_trial(self, outcome):
        self.outcomes.append(outcome)

    def observe_ask(self, seconds):
        self.seconds.append(seconds)

    def observe_log(self, seconds):
        self.seconds.append(seconds)

    def observe_progress(self, backlog, hypervolume):
        self.progress.append((backlog, hypervolume))


def test_the_progress_of_a_study_is_in_its_parent_run_and_in_the_meter(folder, make_study):
    driver = make_driver(make_study(search={"trials": 3}))
    driver.meter = meter = RecordingMeter()
    end(driver, driver.issue(), "collapsed", reason="no path", val_accuracy=0.25)
    assert meter.progress[-1][1] == 0.0
    drain(driver)
    progress = load_progress(mlflow_uri())["s"]
    assert progress["trials_done"] == 3
    assert progress["front"] == len(driver.progress.front) > 0
    assert progress["hypervolume"] == meter.progress[-1][1] > 0
    assert meter.outcomes == ["collapsed", "trained", "trained"]
    assert len(meter.seconds) >= 6, "three proposals, and the log of each trial"
    restarted = make_driver(make_study(search={"trials": 3}))
    restarted.close()
    assert load_progress(mlflow_uri())["s"] == progress


def test_devices_of_two_kinds_are_counted_and_named_where_they_are_measured(folder, make_study, monkeypatch):
    (folder / "my_clock.py").write_text("def latency(model, example):\n    return {'latency_ms': 1.0}\n")
    monkeypatch.syspath_prepend(folder)
    driver = make_driver(make_study(search={"trials": 3}, measure="my_clock:latency"))
    hours, warnings = {}, []
    monkeypatch.setattr(
        driver.meter, "count_device_hours", lambda device, spent: hours.update({device: hours.get(device, 0) + spent})
    )
    monkeypatch.setattr(driver.progress, "warn", warnings.append)
    for device in ("NVIDIA H100", "NVIDIA A100", "NVIDIA A100"):
        assignment = driver.issue()
        driver.report(assignment.number, assignment.attempt, Report(trial_started=TrialStarted({}, device, [])))
        end(driver, assignment)
    assert hours.keys() == {"NVIDIA H100", "NVIDIA A100"}
    assert sum(hours.values()) == pytest.approx(driver.spending.device_hours)
    (warning,) = warnings
    assert warning.startswith("measure: the trials run on devices of different kinds (NVIDIA A100, NVIDIA H100)")
