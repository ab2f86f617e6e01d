"""Trials that a driver left running: the next driver takes each up in its own run, from its own checkpoints."""

import shutil
import subprocess
from pathlib import Path

import pytest
from drivers import FIRST_FILES, drain, end, make_driver, optuna_trials

from forcetune.ledger.messages import Report, TrialStarted
from forcetune.run import examine_study
from forcetune.tracking import Epoch, load_table


def test_an_interrupted_trial_is_taken_up_in_its_own_run(folder, make_study):
    study = make_study(search={"trials": 2})
    first = make_driver(study).issue()
    driver = make_driver(study)
    second = driver.issue()
    assert (second.number, second.trial) == (first.number, first.trial)
    assert (first.attempt, second.attempt) == (1, 2)
    end(driver, second)
    drain(driver)
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 2
    assert list(load_table("s").trials["status"]) == ["FINISHED"] * 2


@pytest.mark.parametrize("outcome", ["collapsed", "infeasible"])
def test_an_interrupted_trial_that_is_not_trained_gets_its_values(folder, make_study, outcome):
    """Such a trial has only epoch 0, which is also the step of its static metrics."""
    study = make_study(search={"trials": 1})
    driver = make_driver(study)
    assignment = driver.issue()
    trial_started = TrialStarted({"density": assignment.trial.density, "macs": 7.0}, "cpu", [])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    driver.close(10.0)
    driver = make_driver(study)
    assignment = driver.issue()
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    metrics = {**trial_started.static_metrics, "val_accuracy": 0.25, "train_seconds": 0.0}
    epoch = Epoch(0, 1000, {"val_accuracy": 0.25, "train_seconds": 0.0})
    driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome=outcome, reason="no path"))
    driver.close()
    row = load_table("s").trials.loc[0]
    assert (row["val_accuracy"], row["macs"], row["train_seconds"]) == (0.25, 7.0, 0.0)
    assert examine_study("s")[1] == []


def interrupt_trial(driver):
    """Leave a running trial with a checkpoint in its folder, and return the folder."""
    assignment = driver.issue()
    path = Path(assignment.checkpoints)
    (path / "1").mkdir(parents=True)
    (path / "1" / "checkpoint.pt").write_bytes(b"mine")
    driver.hand_back()
    driver.close(0.0)
    return path


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_study_of_the_same_name_in_another_ledger_keeps_its_checkpoints(
    folder, make_study, monkeypatch, copied, shared
):
    """Ledgers in one folder share .forcetune; ledgers in two folders can share FORCETUNE_STATE."""
    study = make_study(search={"trials": 1})
    other_ledger = folder / "other.db"
    if shared:
        monkeypatch.setenv("FORCETUNE_STATE", str(folder / "state"))
        (folder / "elsewhere").mkdir()
        other_ledger = folder / "elsewhere" / "optuna.db"
    trial_folder = interrupt_trial(make_driver(study))
    if copied:
        shutil.copy("optuna.db", other_ledger)
    monkeypatch.setenv("FORCETUNE_STORAGE", f"sqlite:///{other_ledger}")
    drain(make_driver(study))
    assert (trial_folder / "1" / "checkpoint.pt").is_file()
    monkeypatch.delenv("FORCETUNE_STORAGE")
    driver = make_driver(study)
    assert Path(driver.issue().checkpoints) == trial_folder


def test_a_folder_that_is_moved_takes_its_checkpoints_along(folder, make_study, monkeypatch, tmp_path_factory):
    study = make_study(search={"trials": 1})
    trial_folder = interrupt_trial(make_driver(study))
    moved = tmp_path_factory.mktemp("moved") / "folder"
    subprocess.run(["cp", "-r", folder, moved], check=True)
    monkeypatch.chdir(moved)
    assert Path(make_driver(study).issue().checkpoints) == moved / trial_folder.relative_to(folder)
