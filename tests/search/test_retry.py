"""Failed trials that are run again by request: in both stores, counted once, whatever the failed attempt has left."""

import time

import optuna
import pytest
from rich.console import Console

from forcetune.cli.running import describe_failures
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.ledger.study_attributes import request_retry
from forcetune.run import examine_study, is_complete
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Epoch, Tracker, load_curves, load_table


def make_driver(study, retry_failed=False):
    if retry_failed:
        request_retry(study.study, optuna_uri())
    return open_driver(study, lambda: None, Console(quiet=True))


def now_ms():
    return int(time.time() * 1000)


def train(driver, assignment, epochs, accuracy):
    """Report epochs whose accuracy grows to `accuracy`."""
    for step in range(1, epochs + 1):
        trial_started = TrialStarted({"density": assignment.trial.density, "macs": accuracy}, "cpu", [])
        epoch = Epoch(step, now_ms(), {"val_accuracy": accuracy * step / epochs})
        first = {"trial_started": trial_started, "files": {"masks.npz": b"masks"}} if step == 1 else {}
        report = Report({"train_seconds": 1.0, **epoch.metrics}, epoch, **first)
        assert not driver.report(assignment.number, assignment.attempt, report)


def end(driver, assignment, outcome, accuracy=0.0, reason=None):
    metrics = {"val_accuracy": accuracy, "density": assignment.trial.density}
    driver.end(assignment.number, assignment.attempt, Report(metrics, outcome=outcome, reason=reason))


def search_with_failure(study, epochs):
    """Search the study: its first trial is trained, its second fails after `epochs` epochs at accuracy 0.3."""
    driver = make_driver(study)
    good, bad = driver.issue(), driver.issue()
    train(driver, good, 2, 0.5)
    end(driver, good, "trained", 0.5)
    train(driver, bad, epochs, 0.3)
    end(driver, bad, "failed", reason="RuntimeError: mine")
    driver.close()


def load_optuna_trials():
    return optuna.load_study(study_name="s", storage=optuna_uri()).trials


@pytest.fixture
def study(folder, make_study):
    return make_study(search={"trials": 2})


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_failed_trial_is_run_again_in_its_run(study, epochs):
    search_with_failure(study, epochs)
    before = load_table("s").trials.set_index("name")
    driver = make_driver(study, retry_failed=True)
    assert not is_complete(study)
    retry = driver.issue()
    assert driver.issue() is None, "the failed trial and its retry count once"
    assert (retry.number, retry.attempt) == (2, 1)
    assert retry.trial.fields() == load_optuna_trials()[1].user_attrs["fields"]
    train(driver, retry, 2, 0.8)
    end(driver, retry, "trained", 0.8)
    driver.close()

    assert [trial.state.name for trial in load_optuna_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert load_optuna_trials()[2].user_attrs["supersedes"] == 1
    table = load_table("s").trials.set_index("name")
    assert list(table["run_id"]) == list(before["run_id"]), "the same run goes on"
    row = table.loc["trial-0001"]
    assert (row["outcome"], row["reason"], row["status"]) == ("trained", None, "FINISHED")
    assert (row["val_accuracy"], row["macs"]) == (0.8, 0.8)
    assert Tracker("s", mlflow_uri()).read_tags(row["run_id"])["forcetune.failed_before"] == "RuntimeError: mine"
    assert list(load_curves([row["run_id"]], "val_accuracy")["value"]) == [0.4, 0.8]
    assert examine_study("s")[1] == []
    assert is_complete(study)
    assert describe_failures(load_table("s").trials) is None


def test_a_retry_that_ends_sooner_keeps_no_epoch_of_the_failed_attempt(study):
    search_with_failure(study, 2)
    driver = make_driver(study, retry_failed=True)
    retry = driver.issue()
    train(driver, retry, 1, 0.4)
    end(driver, retry, "stopped", 0.4, reason="at rung 1")
    driver.close()
    table = load_table("s").trials.set_index("name")
    assert len(table) == 2
    assert table.loc["trial-0002", "val_accuracy"] == 0.4
    assert list(load_curves([table.loc["trial-0002", "run_id"]], "val_accuracy")["step"]) == [1]
    assert examine_study("s")[1] == []


def test_a_failed_trial_is_run_again_only_by_request(study):
    search_with_failure(study, 1)
    driver = make_driver(study)
    assert driver.is_finished
    driver.close()
    assert len(load_optuna_trials()) == 2
    assert "`forcetune search FILE --retry-failed`" in describe_failures(load_table("s").trials)


def test_a_retry_that_was_interrupted_goes_on_without_the_option(study):
    search_with_failure(study, 1)
    driver = make_driver(study, retry_failed=True)
    train(driver, driver.issue(), 1, 0.4)
    driver.close(1.0)
    driver = make_driver(study)
    retry = driver.issue()
    assert (retry.number, retry.attempt) == (2, 2)
    train(driver, retry, 2, 0.9)
    end(driver, retry, "trained", 0.9)
    driver.close()
    assert load_table("s").trials.set_index("name").loc["trial-0001", "val_accuracy"] == 0.9
    assert examine_study("s")[1] == []


def test_a_retry_that_fails_can_be_run_again(study):
    search_with_failure(study, 1)
    for outcome in ("failed", "trained"):
        driver = make_driver(study, retry_failed=True)
        retry = driver.issue()
        train(driver, retry, 2, 0.7)
        end(driver, retry, outcome, 0.7, reason="RuntimeError: yours" if outcome == "failed" else None)
        driver.close()
        assert list(load_table("s").trials["outcome"]) == ["trained", outcome]
        assert examine_study("s")[1] == []
    assert [trial.user_attrs.get("supersedes") for trial in load_optuna_trials()] == [None, None, 1, 2]
    assert make_driver(study, retry_failed=True).is_finished, "no failed trial is left"


def test_retries_end_where_they_fail_again_for_the_same_reason(folder, make_study):
    driver = make_driver(make_study(search={"trials": 10, "max_failures": 10}))
    while assignment := driver.issue():
        end(driver, assignment, "failed", reason="RuntimeError: mine")
    driver.close()
    study = make_study(search={"trials": 10})
    driver = make_driver(study, retry_failed=True)
    for _ in range(5):
        end(driver, driver.issue(), "failed", reason="RuntimeError: mine")
    assert driver.is_finished
    driver.close()
    table = load_table("s")
    reasons = table.trials["reason"]
    assert list(table.trials["outcome"]) == ["failed"] * 10
    assert (reasons == "RuntimeError: mine").sum() == 5
    assert reasons.str.startswith("not run again, because the search ended first: the last 5").sum() == 5
    assert table.device_hours < 0.1
    assert "for the same reason" in driver.failure_reason
    assert make_driver(study, retry_failed=True).wanted == 10


def test_no_failed_trial_is_run_again_once_the_budget_is_used_up(study, make_study):
    search_with_failure(study, 1)
    limited_study = make_study(search={"trials": 2, "budget": {"device_hours": 1e-9}})
    driver = make_driver(limited_study, retry_failed=True)
    assert driver.issue() is None
    assert driver.is_finished
    driver.close()
    assert "the budget of 1e-09 device hours" in load_table("s").trials.set_index("name").loc["trial-0001", "reason"]


def test_a_request_outlives_a_driver_that_is_killed_before_it_has_begun(study):
    search_with_failure(study, 1)
    request_retry("s", optuna_uri())
    driver = make_driver(study)
    assert driver.issue().number == 2
    driver.hand_back()
    driver.close(1.0)
    assert make_driver(study).wanted == 1, "a driver that has begun withdraws the request"
    assert len(load_optuna_trials()) == 3


def test_a_run_that_is_rewritten_twice_is_there_once(study, monkeypatch):
    search_with_failure(study, 2)
    driver = make_driver(study, retry_failed=True)
    train(driver, retry := driver.issue(), 1, 0.4)
    remove, failures = Tracker.remove, [RuntimeError("MLflow is away")]

    def fail_once(tracker, run):
        if failures:
            raise failures.pop()
        remove(tracker, run)

    monkeypatch.setattr(Tracker, "remove", fail_once)
    end(driver, retry, "stopped", 0.4, reason="at rung 1")
    driver.close()
    assert len(load_table("s").trials) == 2
    assert examine_study("s")[1] == []
