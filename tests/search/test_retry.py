"""Failed trials that are run again by request: in both stores, counted once, whatever the failed attempt has left."""

import time

import optuna
import pytest
from rich.console import Console

from forcetune.cli.running import describe_failures
from forcetune.ledger.ledger import request_retry
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.run import examine_study, is_complete
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Epoch, Tracker, load_curves, load_table


def driver_of(study, retry_failed=False):
    if retry_failed:
        request_retry(study.study, optuna_uri())
    return open_driver(study, lambda: None, Console(quiet=True))


def now():
    return int(time.time() * 1000)


def train(driver, assignment, epochs, accuracy):
    """Report so many epochs, of an accuracy that grows to `accuracy`."""
    for step in range(1, epochs + 1):
        opening = TrialStarted({"density": assignment.fields["density"], "macs": accuracy}, "cpu", b"masks", [], [])
        epoch = Epoch(step, now(), {"val_accuracy": accuracy * step / epochs})
        report = Report({"train_seconds": 1.0, **epoch.metrics}, epoch, opening if step == 1 else None)
        assert not driver.report(assignment.number, assignment.attempt, report)


def end(driver, assignment, outcome, accuracy=0.0, reason=None):
    metrics = {"val_accuracy": accuracy, "density": assignment.fields["density"]}
    driver.end(assignment.number, assignment.attempt, Report(metrics, outcome=outcome, reason=reason))


def fail(study, epochs):
    """Search the study; its first trial is trained, its second fails after so many epochs, of accuracy .3."""
    driver = driver_of(study)
    good, bad = driver.issue(), driver.issue()
    train(driver, good, 2, 0.5)
    end(driver, good, "trained", 0.5)
    train(driver, bad, epochs, 0.3)
    end(driver, bad, "failed", reason="RuntimeError: mine")
    driver.close()


def rows():
    return optuna.load_study(study_name="s", storage=optuna_uri()).trials


@pytest.fixture
def study(folder, make_study):
    return make_study(search={"trials": 2})


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_failed_trial_is_run_again_in_its_run(study, epochs):
    fail(study, epochs)
    before = load_table("s").set_index("name")
    driver = driver_of(study, retry_failed=True)
    assert not is_complete(study)
    again = driver.issue()
    assert driver.issue() is None, "the two count once"
    assert (again.number, again.attempt) == (2, 1)
    assert again.fields == rows()[1].user_attrs["fields"]
    train(driver, again, 2, 0.8)
    end(driver, again, "trained", 0.8)
    driver.close()

    assert [trial.state.name for trial in rows()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert rows()[2].user_attrs["supersedes"] == 1
    found = load_table("s").set_index("name")
    assert list(found["run_id"]) == list(before["run_id"]), "the same run goes on"
    row = found.loc["trial-0001"]
    assert (row["outcome"], row["reason"], row["status"]) == ("trained", None, "FINISHED")
    assert (row["val_accuracy"], row["macs"]) == (0.8, 0.8)
    assert Tracker("s", mlflow_uri()).read_tags(row["run_id"])["forcetune.failed_before"] == "RuntimeError: mine"
    assert list(load_curves([row["run_id"]], "val_accuracy")["value"]) == [0.4, 0.8]
    assert examine_study("s")[1] == []
    assert is_complete(study)
    assert describe_failures(load_table("s")) is None


def test_what_ends_sooner_than_its_failed_attempt_keeps_none_of_its_epochs(study):
    fail(study, 2)
    driver = driver_of(study, retry_failed=True)
    again = driver.issue()
    train(driver, again, 1, 0.4)
    end(driver, again, "stopped", 0.4, reason="at rung 1")
    driver.close()
    found = load_table("s").set_index("name")
    assert len(found) == 2
    assert found.loc["trial-0002", "val_accuracy"] == 0.4
    assert list(load_curves([found.loc["trial-0002", "run_id"]], "val_accuracy")["step"]) == [1]
    assert examine_study("s")[1] == []


def test_only_a_request_runs_it_again(study):
    fail(study, 1)
    driver = driver_of(study)
    assert driver.is_finished
    driver.close()
    assert len(rows()) == 2
    assert "`forcetune search FILE --retry-failed`" in describe_failures(load_table("s"))


def test_a_retry_that_was_interrupted_goes_on_without_the_option(study):
    fail(study, 1)
    driver = driver_of(study, retry_failed=True)
    train(driver, driver.issue(), 1, 0.4)
    driver.close(1.0)
    driver = driver_of(study)
    again = driver.issue()
    assert (again.number, again.attempt) == (2, 2)
    train(driver, again, 2, 0.9)
    end(driver, again, "trained", 0.9)
    driver.close()
    assert load_table("s").set_index("name").loc["trial-0001", "val_accuracy"] == 0.9
    assert examine_study("s")[1] == []


def test_what_fails_again_can_be_run_again(study):
    fail(study, 1)
    for outcome in ("failed", "trained"):
        driver = driver_of(study, retry_failed=True)
        again = driver.issue()
        train(driver, again, 2, 0.7)
        end(driver, again, outcome, 0.7, reason="RuntimeError: yours" if outcome == "failed" else None)
        driver.close()
        assert list(load_table("s")["outcome"]) == ["trained", outcome]
        assert examine_study("s")[1] == []
    assert [trial.user_attrs.get("supersedes") for trial in rows()] == [None, None, 1, 2]
    assert driver_of(study, retry_failed=True).is_finished, "nothing is failed any more"


def test_retries_end_where_they_fail_again_for_the_same_reason(folder, make_study):
    driver = driver_of(make_study(search={"trials": 10, "max_failures": 10}))
    while assignment := driver.issue():
        end(driver, assignment, "failed", reason="RuntimeError: mine")
    driver.close()
    study = make_study(search={"trials": 10})
    driver = driver_of(study, retry_failed=True)
    for _ in range(5):
        end(driver, driver.issue(), "failed", reason="RuntimeError: mine")
    assert driver.is_finished
    driver.close()
    found = load_table("s")
    assert list(found["outcome"]) == ["failed"] * 10
    assert (found["reason"] == "RuntimeError: mine").sum() == 5
    assert found["reason"].str.startswith("not run again, because the search ended first: the last 5").sum() == 5
    assert found.attrs["device_hours"] < 0.1
    assert "for the same reason" in driver.failure_reason
    assert driver_of(study, retry_failed=True).wanted == 10


def test_no_failed_trial_is_run_again_once_the_budget_is_used_up(study, make_study):
    fail(study, 1)
    spent = make_study(search={"trials": 2, "budget": {"device_hours": 1e-9}})
    driver = driver_of(spent, retry_failed=True)
    assert driver.issue() is None
    assert driver.is_finished
    driver.close()
    assert "the budget of 1e-09 device hours" in load_table("s").set_index("name").loc["trial-0001", "reason"]


def test_a_request_outlives_a_driver_that_is_killed_before_it_has_begun(study):
    fail(study, 1)
    request_retry("s", optuna_uri())
    driver = driver_of(study)
    assert driver.issue().number == 2
    driver.hand_back()
    driver.close(1.0)
    assert driver_of(study).wanted == 1, "and is taken back once it has"
    assert len(rows()) == 3


def test_a_run_that_is_written_anew_twice_stands_there_once(study, monkeypatch):
    fail(study, 2)
    driver = driver_of(study, retry_failed=True)
    train(driver, again := driver.issue(), 1, 0.4)
    remove, failures = Tracker.remove, [RuntimeError("MLflow is away")]

    def failing(tracker, run):
        if failures:
            raise failures.pop()
        remove(tracker, run)

    monkeypatch.setattr(Tracker, "remove", failing)
    end(driver, again, "stopped", 0.4, reason="at rung 1")
    driver.close()
    assert len(load_table("s")) == 2
    assert examine_study("s")[1] == []
