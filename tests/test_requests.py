"""Requests to MLflow whose answers are lost or late: which are repeated, and that nothing is created twice."""

import os
from contextlib import suppress
from itertools import repeat

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console

from forcetune.ledger.messages import Report, TrialStarted
from forcetune.run import examine_study
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri
from forcetune.tracking import Epoch, Record, Tracker, load_table, requests
from forcetune.tracking.client import make_client


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch):
    monkeypatch.setattr(requests, "FIRST_PAUSE_S", 0.0)


class FlakyClient:
    """A client whose first calls fail."""

    def __init__(self, *errors):
        self.errors = iter(errors)
        self.calls = 0

    def get_run(self, run):
        self.calls += 1
        error = next(self.errors, None)
        if error:
            raise error
        return run

    create_run = restore_run = get_run


def make_network_error():
    return MlflowException("API request to http://host failed with exception")


def test_a_request_that_changes_nothing_twice_is_repeated():
    client = FlakyClient(make_network_error(), make_network_error())
    assert requests.add_retries(client).get_run("a") == "a"
    assert client.calls == 3


@pytest.mark.parametrize("name", ["create_run", "restore_run"])
def test_a_request_that_makes_something_is_sent_once(name):
    client = FlakyClient(make_network_error())
    with pytest.raises(MlflowException):
        getattr(requests.add_retries(client), name)("a")
    assert client.calls == 1


def test_a_request_that_mlflow_refuses_is_not_repeated():
    client = FlakyClient(MlflowException("no", error_code=1000))  # BAD_REQUEST
    with pytest.raises(MlflowException):
        requests.add_retries(client).get_run("a")
    assert client.calls == 1


def test_repetition_ends_for_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(requests, "REPEAT_WITHIN_S", 0.05)
    client = FlakyClient()
    client.errors = repeat(make_network_error())
    with pytest.raises(MlflowException):
        requests.add_retries(client).get_run("a")


def test_mlflows_own_client_repeats_nothing(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    make_client("http://127.0.0.1:1")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


@pytest.fixture
def network(monkeypatch):
    """Return a network whose faults hit MLflow's create requests: `lost` after they are carried out, or `late`."""

    class Network:
        def __init__(self):
            self.faults = []
            self.late_requests = []

        def deliver(self):
            for request in self.late_requests:
                with suppress(MlflowException):
                    request()
            self.late_requests = []

    network = Network()

    def add_fault(method):
        def create(*values, **options):
            fault = network.faults.pop(0) if network.faults else None
            if fault == "late":
                network.late_requests.append(lambda: method(*values, **options))
                raise make_network_error()
            created = method(*values, **options)
            if fault == "lost":
                raise make_network_error()
            return created

        return create

    for name in ("create_run", "create_experiment"):
        method = getattr(MlflowClient, name)
        monkeypatch.setattr(MlflowClient, name, add_fault(method))
    return network


def start_driver(study):
    return open_driver(study, lambda: None, Console(quiet=True))


def end(driver, assignment):
    metrics = {"val_accuracy": 0.5, "density": assignment.trial.density}
    epoch = Epoch(2, 1000, metrics)
    started = TrialStarted({}, "cpu", [])
    report = Report(metrics, epoch, started, outcome="trained", files={"masks.npz": b"masks"})
    driver.end(assignment.number, assignment.attempt, report)


def read_statuses(kind):
    """Return the statuses of all runs of a kind in the experiment, by their ids."""
    client = make_client(mlflow_uri())
    experiment = client.get_experiment_by_name("s")
    runs = client.search_runs([experiment.experiment_id], f"tags.`forcetune.kind` = '{kind}'")
    return {run.info.run_id: run.info.status for run in runs}


def check_single_runs():
    assert list(read_statuses("search").values()) == ["FINISHED"]
    assert list(read_statuses("trial").values()) == ["FINISHED", "FINISHED"]
    assert list(load_table("s").trials["outcome"]) == ["trained", "trained"]
    assert examine_study("s")[1] == []


# The create requests are for the experiment, its parent run and the runs of two trials.
@pytest.mark.parametrize("request_index", range(4))
@pytest.mark.parametrize("fault", ["lost", "late"])
def test_a_create_request_that_is_lost_or_late_creates_one_run(folder, make_study, network, fault, request_index):
    study = make_study(search={"trials": 2})
    network.faults = [None] * request_index + [fault]
    driver = start_driver(study)
    for _ in range(2):
        end(driver, driver.issue())
    driver._outbox.drain(20)
    network.deliver()  # the late request arrives after all others
    driver.close()
    check_single_runs()


@pytest.mark.parametrize("killed", [False, True])
def test_a_request_that_arrives_while_its_trial_runs_leaves_one_run(folder, make_study, network, killed):
    study = make_study(search={"trials": 2})
    network.faults = [None, None, "late"]
    driver = start_driver(study)
    first = driver.issue()
    driver._outbox.drain(20)
    network.deliver()
    assert len(read_statuses("trial")) == 2, "one trial has two runs"
    if killed:
        driver.close(0)
        driver = start_driver(study)
        first = driver.issue()
    end(driver, first)
    end(driver, driver.issue())
    driver.close()
    check_single_runs()


@pytest.fixture
def ended_study(folder, make_study, network):
    """Return a study that has ended before late requests for its parent run and for the run of a trial arrive."""
    study = make_study(search={"trials": 2})
    network.faults = [None, "late", None, "late"]  # for the experiment, its parent run twice, and the run of a trial
    driver = start_driver(study)
    for _ in range(2):
        end(driver, driver.issue())
    driver.close()
    return study


def test_runs_that_come_after_the_search_are_removed_by_the_next_command(ended_study, network):
    network.deliver()
    assert len(read_statuses("search")) == 2
    findings = examine_study("s")[1]
    assert sorted(finding.what.partition(" of ")[0] for finding in findings) == [
        "is a second run",
        "is an extra parent run",
    ]
    start_driver(ended_study).close()
    check_single_runs()


def test_doctor_deletes_late_runs(ended_study, network):
    first_runs = {*read_statuses("trial"), *read_statuses("search")}
    network.deliver()
    assert examine_study("s", mend=True)[1] == []
    assert {*read_statuses("trial"), *read_statuses("search")} == first_runs, (
        "the first runs are kept with their content"
    )


def test_a_run_that_a_late_request_reopens_is_closed_again(ended_study):
    run = next(iter(read_statuses("trial")))
    make_client(mlflow_uri()).update_run(run, status="RUNNING")
    start_driver(ended_study).close()
    check_single_runs()


def test_runs_of_another_ledger_are_left_alone(ended_study):
    client = make_client(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    tags = {"forcetune.kind": "trial", "forcetune.trial": "a key of another ledger"}
    foreign_run = client.create_run(experiment, tags=tags).info.run_id
    start_driver(ended_study).close()
    assert read_statuses("trial")[foreign_run] == "RUNNING"


def test_a_record_has_one_run(folder, network):
    Tracker("s", mlflow_uri())
    network.faults = ["late"]
    record = Record("s", "baseline", "night")
    network.deliver()
    record.log({"pairs": 3.0}, {})
    record.close()
    assert list(read_statuses("baseline")) == [record.run]
    assert Record("s", "baseline", "night").run == record.run
