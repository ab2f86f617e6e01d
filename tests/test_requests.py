"""Requests to MLflow whose answers are lost or come late: what is repeated, and that nothing is created twice."""

import os
from contextlib import suppress

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
def no_pause(monkeypatch):
    monkeypatch.setattr(requests, "FIRST_PAUSE_S", 0.0)


class Flaky:
    """A client whose first calls fail."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def get_run(self, run):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return run

    create_run = restore_run = get_run


def lost():
    return MlflowException("API request to http://host failed with exception")


def test_a_request_that_changes_nothing_twice_is_repeated():
    client = Flaky(lost(), lost())
    assert requests.add_retries(client).get_run("a") == "a"
    assert client.calls == 3


@pytest.mark.parametrize("name", ["create_run", "restore_run"])
def test_a_request_that_makes_something_is_sent_once(name):
    client = Flaky(lost())
    with pytest.raises(MlflowException):
        getattr(requests.add_retries(client), name)("a")
    assert client.calls == 1


def test_what_mlflow_refuses_is_not_sent_again():
    client = Flaky(MlflowException("no", error_code=1000))  # BAD_REQUEST
    with pytest.raises(MlflowException):
        requests.add_retries(client).get_run("a")
    assert client.calls == 1


def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(requests, "REPEAT_WITHIN_S", 0.05)
    client = Flaky(*[lost() for _ in range(10**6)])
    with pytest.raises(MlflowException):
        requests.add_retries(client).get_run("a")


def test_mlflows_own_client_repeats_nothing(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    make_client("http://127.0.0.1:1")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


@pytest.fixture
def network(monkeypatch):
    """MLflow's create requests as a network treats them: `lost` after they are carried out, or `late`, when asked."""

    class Network:
        def __init__(self):
            self.faults = []
            self.held = []

        def deliver(self):
            for request in self.held:
                with suppress(MlflowException):
                    request()
            self.held = []

    network = Network()

    def treated(method):
        def create(*values, **options):
            fault = network.faults.pop(0) if network.faults else None
            if fault == "late":
                network.held.append(lambda: method(*values, **options))
                raise lost()
            made = method(*values, **options)
            if fault == "lost":
                raise lost()
            return made

        return create

    for name in ("create_run", "create_experiment"):
        method = getattr(MlflowClient, name)
        monkeypatch.setattr(MlflowClient, name, treated(method))
    return network


def driver_of(study):
    return open_driver(study, lambda: None, Console(quiet=True))


def end(driver, assignment):
    metrics = {"val_accuracy": 0.5, "density": assignment.fields["density"]}
    epoch = Epoch(2, 1000, metrics)
    opening = TrialStarted({}, "cpu", b"masks", [], [])
    driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, opening, outcome="trained"))


def everything(kind):
    """The ids of all runs of a kind that the experiment has, with their states."""
    client = make_client(mlflow_uri())
    experiment = client.get_experiment_by_name("s")
    runs = client.search_runs([experiment.experiment_id], f"tags.`forcetune.kind` = '{kind}'")
    return {run.info.run_id: run.info.status for run in runs}


def check_once():
    assert list(everything("search").values()) == ["FINISHED"]
    assert list(everything("trial").values()) == ["FINISHED", "FINISHED"]
    assert list(load_table("s")["outcome"]) == ["trained", "trained"]
    assert examine_study("s")[1] == []


# an experiment, its parent run, two trials' runs
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("fault", ["lost", "late"])
def test_a_create_request_that_is_lost_or_late_makes_one(folder, make_study, network, fault, place):
    study = make_study(search={"trials": 2})
    network.faults = [None] * place + [fault]
    driver = driver_of(study)
    for _ in range(2):
        end(driver, driver.issue())
    driver._outbox.drain(20)
    network.deliver()  # what was late comes now, when all else is done
    driver.close()
    check_once()


@pytest.mark.parametrize("killed", [False, True])
def test_a_late_request_while_its_trial_runs(folder, make_study, network, killed):
    study = make_study(search={"trials": 2})
    network.faults = [None, None, "late"]
    driver = driver_of(study)
    first = driver.issue()
    driver._outbox.drain(20)
    network.deliver()
    assert len(everything("trial")) == 2, "one trial, two runs"
    if killed:
        driver.close(0)
        driver = driver_of(study)
        first = driver.issue()
    end(driver, first)
    end(driver, driver.issue())
    driver.close()
    check_once()


@pytest.fixture
def over(folder, make_study, network):
    """A study that is over, while a request for its parent run and one for a trial's run are still on their way."""
    study = make_study(search={"trials": 2})
    network.faults = [None, "late", None, "late"]  # the experiment, its parent run twice, a trial's run
    driver = driver_of(study)
    for _ in range(2):
        end(driver, driver.issue())
    driver.close()
    return study


def test_what_comes_after_the_search_is_removed_by_the_next_command(over, network):
    network.deliver()
    assert len(everything("search")) == 2
    found = examine_study("s")[1]
    assert sorted(finding.what.partition(" of ")[0] for finding in found) == [
        "is a second run",
        "is an extra parent run",
    ]
    driver_of(over).close()
    check_once()


def test_doctor_deletes_what_came_late(over, network):
    kept = {*everything("trial"), *everything("search")}
    network.deliver()
    assert examine_study("s", mend=True)[1] == []
    assert {*everything("trial"), *everything("search")} == kept, "what came first, with all that is in it"


def test_what_a_late_request_puts_back_to_running_is_closed_again(over):
    run = next(iter(everything("trial")))
    make_client(mlflow_uri()).update_run(run, status="RUNNING")
    driver_of(over).close()
    check_once()


def test_runs_of_another_ledger_are_left_alone(over):
    client = make_client(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    tags = {"forcetune.kind": "trial", "forcetune.trial": "a key of another ledger"}
    theirs = client.create_run(experiment, tags=tags).info.run_id
    driver_of(over).close()
    assert everything("trial")[theirs] == "RUNNING"


def test_a_record_is_one(folder, network):
    Tracker("s", mlflow_uri())
    network.faults = ["late"]
    record = Record("s", "baseline", "night")
    network.deliver()
    record.log({"pairs": 3.0}, {})
    record.close()
    assert list(everything("baseline")) == [record.run]
    assert Record("s", "baseline", "night").run == record.run
