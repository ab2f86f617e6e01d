"""The driver on real stores, without Ray: outcomes, counts, repeats, and taking up what was left."""

import json

import optuna
import pytest
from rich.console import Console

from forcetune.errors import InputError
from forcetune.search.driver import Driver
from forcetune.search.ledger import Ledger, refuse_changes
from forcetune.search.progress import Progress
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Tracker, table


def driver_of(study):
    progress = Progress(study, Console(quiet=True))
    tracker = Tracker(study.study, mlflow_uri())
    return Driver(study, Ledger(study, optuna_uri()), tracker, mlflow_uri(), progress)


def metrics(assignment, outcome="trained", **changed):
    found = {"epoch": 2, "val_accuracy": 0.5, "density": assignment.fields["density"], "outcome": outcome}
    return {**found, **changed}


def drain(driver):
    while assignment := driver.issue():
        driver.end(assignment.number, metrics(assignment))
    driver.close()


def optuna_trials(name="s"):
    return optuna.load_study(study_name=name, storage=optuna_uri()).trials


def test_outcomes_in_both_stores(folder, make_study):
    driver = driver_of(make_study(search={"trials": 4}))
    trained, collapsed, failed, lost = (driver.issue() for _ in range(4))
    assert driver.issue() is None
    driver.end(trained.number, metrics(trained))
    driver.end(collapsed.number, metrics(collapsed, "collapsed", val_accuracy=0.25, reason="no path", epoch=0))
    driver.end(failed.number, metrics(failed, "failed", reason="Diverged: nan"))
    driver.end(lost.number, None)
    assert driver.finished
    driver.close()

    told = {trial.number: trial for trial in optuna_trials()}
    assert [told[n].state.name for n in range(4)] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert told[0].values == [0.5, trained.fields["density"]]
    assert told[1].constraints == {"off_front": 1.0}
    study = optuna.load_study(study_name="s", storage=optuna_uri())
    assert [trial.number for trial in study.best_trials] == [0]

    rows = table("s").set_index("name")
    assert list(rows["outcome"]) == ["trained", "collapsed", "failed", "failed"]
    assert list(rows["status"]) == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert rows.loc["trial-0002", "reason"] == "Diverged: nan"
    assert "worker ended" in rows.loc["trial-0003", "reason"]


def test_an_objective_that_is_not_finite_fails_the_trial(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    assignment = driver.issue()
    driver.end(assignment.number, metrics(assignment, val_accuracy=float("nan")))
    assert optuna_trials()[0].state.name == "FAIL"
    assert table("s").loc[0, "reason"] == "the objective val_accuracy became nan"


def test_more_trials_go_on_in_the_same_study(folder, make_study):
    drain(driver_of(make_study(search={"trials": 3})))
    drain(driver_of(make_study(search={"trials": 5})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 5
    assert len(table("s")["trial"].unique()) == 5


def test_a_repeated_proposal_is_pruned_and_does_not_count(folder, make_study):
    study = make_study({"density": 0.1, "method": ["random", "snip"]}, search={"trials": 5, "sampler": "random"})
    driver = driver_of(study)
    drain(driver)
    states = [trial.state.name for trial in optuna_trials()]
    assert states.count("COMPLETE") == 2, "the space has no more"
    assert states.count("PRUNED") == len(states) - 2 > 0
    assert driver.finished
    assert len(table("s")) == 2


def test_an_interrupted_trial_is_taken_up_in_its_own_run(folder, make_study):
    study = make_study(search={"trials": 2})
    first = driver_of(study).issue()
    driver = driver_of(study)
    again = driver.issue()
    assert (again.number, again.run, again.fields) == (first.number, first.run, first.fields)
    assert (first.attempt, again.attempt) == (1, 2)
    driver.end(again.number, metrics(again))
    drain(driver)
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 2
    assert list(table("s")["status"]) == ["FINISHED"] * 2


def test_a_decided_trial_is_told_without_running_it_again(folder, make_study, monkeypatch):
    study = make_study(search={"trials": 1})
    driver = driver_of(study)
    assignment = driver.issue()

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        driver.end(assignment.number, metrics(assignment))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert optuna_trials()[0].state.name == "RUNNING"
    driver = driver_of(study)
    assert driver.issue() is None
    assert driver.finished
    assert optuna_trials()[0].values == [0.5, assignment.fields["density"]]


def test_one_parent_run_holds_the_study(folder, make_study):
    study = make_study(search={"trials": 1})
    drain(driver_of(study))
    drain(driver_of(study))
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


def test_a_changed_file_is_refused_with_the_difference(folder, make_study):
    refuse_changes(make_study(), optuna_uri())
    assert not (folder / "optuna.db").exists(), "asking opens no store"
    drain(driver_of(make_study(search={"trials": 1})))
    refuse_changes(make_study(search={"trials": 9, "sampler": "random"}, resources={"cpus": 2}), optuna_uri())
    with pytest.raises(InputError, match="trial.epochs was 2, is 3"):
        refuse_changes(make_study({"epochs": 3}), optuna_uri())


def test_another_programs_study_is_refused(folder, make_study):
    optuna.create_study(study_name="s", storage=optuna_uri())
    with pytest.raises(InputError, match="of another program"):
        refuse_changes(make_study(), optuna_uri())


def test_the_ledger_survives_without_passwords_in_errors(folder, make_study):
    with pytest.raises(InputError, match="cannot be used") as refused:
        Ledger(make_study(), "sqlite:////nowhere/at/all/optuna.db")
    assert "/nowhere" in str(refused.value)
