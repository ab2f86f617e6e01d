"""Attempts that end without their trial's end: retries, memory, lost nodes, and the time that they cost."""

import time

import pytest
from drivers import end, make_driver, optuna_trials

from forcetune.tracking import load_table


def test_a_worker_that_was_given_up_is_ignored(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    first = driver.issue()
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    second = driver.issue()
    end(driver, first, val_accuracy=0.9)
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    assert driver.running == 1
    end(driver, second)
    driver.close()
    assert optuna_trials()[0].values == [0.5, second.trial.density]


def test_a_trial_out_of_memory_gets_more_memory_while_a_node_has_it(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    driver.max_memory_factor = 3
    for memory_factor in (1, 2, 3):  # twice as much each time, up to all that a node has
        assignment = driver.issue()
        assert assignment.memory_factor == memory_factor
        driver.report_loss(assignment.number, assignment.attempt, "memory", "OutOfMemoryError: 2 GiB")
    assert driver.is_finished
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "OutOfMemoryError: 2 GiB; no node has more memory for it"


def test_a_trial_that_hangs_is_not_tried_again(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()
    driver.report_loss(assignment.number, assignment.attempt, "time", "it took longer than max_seconds 3")
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "it took longer than max_seconds 3"


def test_a_trial_that_is_handed_back_for_another_study_uses_no_retry(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, resources={"retries": 0}))
    first = driver.issue()
    assert (driver.wanted, driver.running) == (1, 1)
    driver.hand_back_one(first.number, first.attempt)
    assert (driver.wanted, driver.running) == (1, 0)
    second = driver.issue()
    assert (second.number, second.attempt, second.trial) == (first.number, 2, first.trial)
    driver.hand_back_one(first.number, first.attempt)  # a late report of the first attempt
    assert driver.running == 1
    end(driver, second)
    driver.close()
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"]
    assert driver.wanted == 0


def test_ten_lost_nodes_use_no_retry(folder, make_study):
    study = make_study(search={"trials": 1}, resources={"retries": 1})
    driver = make_driver(study)
    for loss in range(10):
        assignment = driver.issue()
        if loss == 5:  # a restart within an attempt keeps the count, since it is in the ledger
            driver = make_driver(study)
            assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "node", "its node was lost")
    assert not driver.is_finished
    for _ in range(2):  # the eleventh lost node counts, and there is one retry
        assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "node", "its node was lost")
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "its node was lost; failed after 13 attempts"


def test_a_trial_that_leaves_its_node_uses_nothing_up(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, resources={"retries": 0}))
    for _ in range(12):
        assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "leaving", "its node is about to be switched off")
    last = driver.issue()
    assert last.attempt == 13
    end(driver, last)
    driver.close()
    (trial,) = optuna_trials()
    assert (trial.state.name, trial.user_attrs["issued"]["lost"]) == ("COMPLETE", 0)
    assert trial.user_attrs["issued"]["lost_nodes"] == 0


def test_a_trial_that_waits_for_a_node_takes_no_device_time(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 1, "budget": {"device_hours": 1}}))
    clock = [time.monotonic()]
    monkeypatch.setattr("forcetune.search.driver.time.monotonic", lambda: clock[0])
    assignment = driver.issue()
    clock[0] += 7200
    driver.postpone_start(assignment.number, assignment.attempt)
    clock[0] += 36
    end(driver, assignment)
    assert driver.spending.device_hours == pytest.approx(0.01)


def test_a_worker_that_dies_alone_counts_beside_lost_nodes(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, resources={"retries": 0}))
    first = driver.issue()
    driver.report_loss(first.number, first.attempt, "node", "its node was lost")
    second = driver.issue()
    driver.report_loss(second.number, second.attempt, "lost", "its worker ended")
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "its worker ended; failed after 2 attempts"
