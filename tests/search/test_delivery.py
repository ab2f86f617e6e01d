"""The delivery of trials to MLflow: while it is away, after a broken request, and where it refuses a name."""

import time

import pytest
from drivers import FIRST_FILES, drain, end, make_driver, optuna_trials, report_epoch

from forcetune.errors import StoppedError
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.run import examine_study
from forcetune.stores import mlflow_uri
from forcetune.tracking import Epoch, Tracker, load_table


def test_what_mlflow_does_not_take_delays_nothing_and_is_sent_afterwards(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 3}))
    is_away = True
    original_log = Tracker.log

    def log(self, *args, **kwargs):
        if is_away:
            raise ConnectionError("no server")
        return original_log(self, *args, **kwargs)

    monkeypatch.setattr(Tracker, "log", log)
    while assignment := driver.issue():
        end(driver, assignment)
    assert driver.is_finished
    assert {trial.state.name for trial in optuna_trials()} == {"RUNNING"}, (
        "Optuna has the end of a trial only after MLflow has it"
    )
    with pytest.raises(StoppedError, match="3 trials .no server."):
        driver.close(0.1)
    is_away = False
    drain(make_driver(make_study(search={"trials": 3})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 3
    assert list(load_table("s").trials["outcome"]) == ["trained"] * 3
    assert len(load_table("s").trials["trial"].unique()) == 3


def test_a_metric_that_two_attempts_measured_is_logged_once(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 1}))
    log, errors = Tracker.log, [ConnectionError("the answer is lost")]

    def log_and_fail(*args, **kwargs):
        refused = log(*args, **kwargs)
        if errors and len(args) > 2 and args[2]:
            raise errors.pop()
        return refused

    monkeypatch.setattr(Tracker, "log", log_and_fail)
    first = driver.issue()
    driver.report(
        first.number,
        first.attempt,
        Report(trial_started=TrialStarted({"prune_seconds": 1.0}, "cpu", []), files=FIRST_FILES),
    )
    deadline = time.monotonic() + 20
    while errors and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not errors, "the metrics of the first attempt were sent"
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    second = driver.issue()
    driver.report(
        second.number,
        second.attempt,
        Report(trial_started=TrialStarted({"prune_seconds": 2.0}, "cpu", []), files=FIRST_FILES),
    )
    end(driver, second)
    driver.close()
    steps = Tracker("s", mlflow_uri()).list_steps(load_table("s").trials.loc[0, "run_id"])
    assert steps["prune_seconds"] == [0]


def test_an_epoch_that_was_logged_in_part_is_completed(folder, make_study):
    """An epoch with more metrics than one request takes is sent in several requests."""
    study = make_study(search={"trials": 1})
    driver = make_driver(study)
    assignment = driver.issue()
    driver.close(10.0)
    (run,) = load_table("s").trials["run_id"]
    driver.tracker.log(run, [Epoch(1, 1000, {"val_accuracy": 0.5})])
    driver = make_driver(study)
    assignment = driver.issue()
    report_epoch(driver, assignment, 1, 0.5, val_f1=0.4)
    end(driver, assignment)
    driver.close()
    assert driver.tracker.list_steps(run)["val_f1"] == [1]
    assert driver.tracker.list_steps(run)["val_accuracy"] == [1, 2]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_metric_name_that_mlflow_refuses_blocks_nothing(folder, make_study, capsys, restarted):
    """Earlier versions accepted such a name at first, and left a study that no command could close."""
    (folder / "my_refused.py").write_text("def recall(logits, targets):\n    return {'recall@5': 0.4}\n")
    study = make_study(
        search={"trials": 2}, objectives={"val_recall@5": "max", "density": "min"}, metrics="my_refused:recall"
    )
    driver = make_driver(study)
    driver._outbox.warn = print
    for _ in range(2):
        assignment = driver.issue()
        if restarted:
            driver._outbox._closing = True
        metrics = {"val_recall@5": 0.4, "x" * 400: 1.0}
        for step in (1, 2):
            report_epoch(driver, assignment, step, 0.5, **metrics)
        end(driver, assignment, **metrics)
    if restarted:
        driver.close(0.0)
        driver = make_driver(study)
        driver._outbox.warn = print
    started = time.monotonic()
    driver.close()
    assert time.monotonic() - started < 20
    assert {trial.state.name for trial in optuna_trials()} == {"COMPLETE"}
    rows = load_table("s").trials
    assert (list(rows["status"]), list(rows["val_accuracy"])) == (["FINISHED"] * 2, [0.5, 0.5])
    assert examine_study("s")[1] == []
    printed = capsys.readouterr().out
    assert printed.count("MLflow refuses 'val_recall@5'") == 1
    assert printed.count("MLflow refuses 'xxx") == 1
