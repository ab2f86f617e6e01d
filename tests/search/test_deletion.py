"""A study deleted with its companions: from both stores and the disk, its name free again."""

import optuna
import pytest
from click.testing import CliRunner
from rich.console import Console

from forcetune import tracking
from forcetune.cli import main
from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.messages import Report
from forcetune.run import delete_study, find_contents
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Search


def run_one(study):
    """A trial that is trained and one that is left in the middle; the folder of the latter."""
    driver = open_driver(study, lambda: None, Console(quiet=True))
    assignment = driver.issue()
    metrics = {"val_accuracy": 0.5, "density": assignment.fields["density"]}
    driver.end(assignment.number, assignment.attempt, Report(metrics, outcome="trained"))
    left = driver._trial_folder(driver.issue().number)
    driver.close(2.0)
    left.mkdir(parents=True, exist_ok=True)
    return left


def names():
    return [found.study_name for found in optuna.storages.RDBStorage(optuna_uri()).get_all_studies()]


def test_everything_goes_and_the_name_is_free(folder, make_study):
    study = make_study(search={"trials": 2})
    left = [run_one(study), run_one(study.make_companion(Search(trials=2)))]
    run_one(make_study(study="other", search={"trials": 2}))
    found = find_contents("s")
    assert (found.trials, found.companions, found.runs) == (2, 2, 6)
    done = CliRunner().invoke(main, ["delete", "s", "--yes"])
    assert done.exit_code == 0, done.output
    assert "deleted: 2 trials of s, 2 companions and 6 runs" in done.output
    assert names() == ["other"]
    assert not any(folder.exists() for folder in left)
    assert not tracking.has_experiment("s", mlflow_uri())
    assert len(tracking.load_table("other")) == 2
    with pytest.raises(InputError, match="has a study 's'"):
        find_contents("s")
    run_one(study)
    assert len(tracking.load_table("s")) == 2, "the name is free"


def test_what_is_another_programs_is_kept(folder):
    optuna.create_study(study_name="theirs", storage=optuna_uri())
    client = tracking.Tracker("mine", mlflow_uri()).client
    client.create_run(client.create_experiment("runs"))
    for name in ("theirs", "runs", "Default"):
        with pytest.raises(InputError, match="made by another program"):
            find_contents(name)


def test_a_kill_between_renaming_and_deleting_is_made_good(folder, make_study, monkeypatch):
    run_one(make_study(search={"trials": 2}))
    client = tracking.Tracker("s", mlflow_uri()).client
    number = client.get_experiment_by_name("s").experiment_id
    client.rename_experiment(number, f"s.deleted.{number}")
    delete_study("s")
    assert client.get_experiment(number).lifecycle_stage == "deleted"


def test_it_asks_first(folder, make_study):
    run_one(make_study(search={"trials": 2}))
    done = CliRunner().invoke(main, ["delete", "s"], catch_exceptions=False)
    assert done.exit_code == 2
    assert "give --yes" in done.output
    assert names() == ["s"]


def test_a_study_that_runs_is_kept(folder, make_study):
    run_one(make_study(search={"trials": 2}))
    for name in ("s", "s.companion"):
        with driver_lock(name, optuna_uri()), pytest.raises(HeldError):
            delete_study("s")
    assert names() == ["s"]
    assert len(tracking.load_table("s")) == 2


def test_what_was_deleted_in_mlflow_alone_is_deleted_too(folder, make_study):
    run_one(make_study(search={"trials": 2}))
    client = tracking.Tracker("s", mlflow_uri()).client
    client.delete_experiment(client.get_experiment_by_name("s").experiment_id)
    delete_study("s")
    assert names() == []
    assert not tracking.has_experiment("s", mlflow_uri())
