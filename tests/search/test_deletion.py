"""The deletion of a study and its companions from both stores and the disk, after which its name is free."""

import optuna
import pytest
from click.testing import CliRunner
from rich.console import Console

from forcetune import tracking
from forcetune.cli import main
from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.messages import Report
from forcetune.search import deletion
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Search


def leave_one_unfinished(study):
    """Train one trial, leave a second one unfinished, and return the folder of the second."""
    driver = open_driver(study, lambda: None, Console(quiet=True))
    assignment = driver.issue()
    metrics = {"val_accuracy": 0.5, "density": assignment.trial.density}
    driver.end(assignment.number, assignment.attempt, Report(metrics, outcome="trained"))
    unfinished_folder = driver._trial_folder(driver.issue().number)
    driver.close(2.0)
    unfinished_folder.mkdir(parents=True, exist_ok=True)
    return unfinished_folder


def list_study_names():
    return [study.study_name for study in optuna.storages.RDBStorage(optuna_uri()).get_all_studies()]


def test_everything_is_deleted_and_the_name_is_free(folder, make_study):
    study = make_study(search={"trials": 2})
    unfinished_folders = [leave_one_unfinished(study), leave_one_unfinished(study.make_companion(Search(trials=2)))]
    leave_one_unfinished(make_study(study="other", search={"trials": 2}))
    contents = deletion.find_contents("s")
    assert (contents.trials, contents.companions, contents.runs) == (2, 2, 6)
    result = CliRunner().invoke(main, ["delete", "s", "--yes"])
    assert result.exit_code == 0, result.output
    assert "deleted: 2 trials of s, 2 companions and 6 runs" in result.output
    assert list_study_names() == ["other"]
    assert not any(folder.exists() for folder in unfinished_folders)
    assert not tracking.has_experiment("s", mlflow_uri())
    assert len(tracking.load_table("other").trials) == 2
    with pytest.raises(InputError, match="has a study 's'"):
        deletion.find_contents("s")
    leave_one_unfinished(study)
    assert len(tracking.load_table("s").trials) == 2, "the name is free"


def test_a_study_of_another_program_is_kept(folder):
    optuna.create_study(study_name="theirs", storage=optuna_uri())
    client = tracking.Tracker("mine", mlflow_uri()).client
    client.create_run(client.create_experiment("runs"))
    for name in ("theirs", "runs", "Default"):
        with pytest.raises(InputError, match="made by another program"):
            deletion.find_contents(name)


def test_a_kill_between_renaming_and_deleting_is_repaired(folder, make_study, monkeypatch):
    leave_one_unfinished(make_study(search={"trials": 2}))
    client = tracking.Tracker("s", mlflow_uri()).client
    experiment_id = client.get_experiment_by_name("s").experiment_id
    client.rename_experiment(experiment_id, f"s.deleted.{experiment_id}")
    deletion.delete("s")
    assert client.get_experiment(experiment_id).lifecycle_stage == "deleted"


def test_delete_asks_first(folder, make_study):
    leave_one_unfinished(make_study(search={"trials": 2}))
    result = CliRunner().invoke(main, ["delete", "s"], catch_exceptions=False)
    assert result.exit_code == 2
    assert "--yes" in result.output
    assert list_study_names() == ["s"]


def test_a_study_that_runs_is_kept(folder, make_study):
    leave_one_unfinished(make_study(search={"trials": 2}))
    for name in ("s", "s.companion"):
        with driver_lock(name, optuna_uri()), pytest.raises(HeldError):
            deletion.delete("s")
    assert list_study_names() == ["s"]
    assert len(tracking.load_table("s").trials) == 2


def test_a_study_that_was_deleted_in_mlflow_alone_is_deleted_everywhere(folder, make_study):
    leave_one_unfinished(make_study(search={"trials": 2}))
    client = tracking.Tracker("s", mlflow_uri()).client
    client.delete_experiment(client.get_experiment_by_name("s").experiment_id)
    deletion.delete("s")
    assert list_study_names() == []
    assert not tracking.has_experiment("s", mlflow_uri())
