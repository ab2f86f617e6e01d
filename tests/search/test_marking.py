"""The front as tags of runs: MLflow finds by them what `best` prints, also after the front has moved."""

import re
from dataclasses import replace

import optuna
from drivers import make_driver
from made import end
from mlflow import MlflowClient
from shared_constants import REPOSITORY

from forcetune import analysis
from forcetune.ledger.trials import load_trials
from forcetune.report import results
from forcetune.run import examine_study
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import FRONT_TAG, KNEE_TAG


def find_run_names(condition):
    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    return {run.info.run_name for run in client.search_runs([experiment], condition)}


def list_tag_findings():
    """Return the doctor's findings about tags; it also misses the masks that these made-up trials do not have."""
    return [finding.what for finding in examine_study("s")[1] if "tag" in finding.what]


def load_front_names():
    return set(results.load("s").front["name"])


def test_mlflow_finds_the_front_and_its_knee_by_tags(search_study):
    search_study()
    assert find_run_names(f"tags.`{FRONT_TAG}` = 'true'") == load_front_names() != set()
    study_results = results.load("s")
    knee = analysis.knee(study_results.front, study_results.objectives)
    assert find_run_names(f"tags.`{KNEE_TAG}` = 'true'") == set(knee["name"]) != set()


def test_mlflow_takes_the_filters_of_the_documents(search_study):
    search_study()
    documents = (REPOSITORY / "docs" / "guide" / "mlflow.md").read_text()
    filters = re.findall(r"``((?:tags|metrics|params|dataset)\.[^\n]+?)``(?: \||;)", documents)
    assert len(filters) >= 12
    names_by_filter = {condition: find_run_names(condition) for condition in filters}
    assert names_by_filter["tags.`forcetune.front` = 'true'"] == load_front_names()
    assert names_by_filter["params.method = 'random_erk'"] == set(), "the random trials are of the row `random`"
    assert names_by_filter["tags.`forcetune.kind` = 'search'"] == {"s"}


def test_tags_follow_the_front_as_it_moves(folder, make_study):
    study = make_study({"density": {"low": 0.05, "high": 0.5}}, search={"trials": 2})
    driver = make_driver(study)
    first = driver.issue()
    end(driver, first, 0.4)
    driver.close()
    assert find_run_names(f"tags.`{FRONT_TAG}` = 'true'") == {"trial-0000"}
    driver = make_driver(make_study({"density": {"low": 0.05, "high": 0.5}}, search={"trials": 3}))
    better = driver.issue()
    sparser = better.trial.model_copy(update={"density": first.trial.density / 2})
    end(driver, replace(better, trial=sparser), 0.9)  # the density that the worker measures counts
    end(driver, driver.issue(), 0.1, outcome="collapsed")
    driver.close()
    assert find_run_names(f"tags.`{FRONT_TAG}` = 'true'") == load_front_names() == {"trial-0001"}
    assert list_tag_findings() == []


def test_a_doctor_compares_the_tags(search_study):
    search_study()
    client = MlflowClient(mlflow_uri())
    rows = results.load("s").trials.set_index("name")
    front_run, other_run = (
        rows.loc[min(load_front_names()), "run_id"],
        rows.loc[min(set(rows.index) - load_front_names()), "run_id"],
    )
    client.delete_tag(front_run, FRONT_TAG)
    client.set_tag(other_run, FRONT_TAG, "true")
    (finding,) = list_tag_findings()
    assert f"lacks the tag {FRONT_TAG} on 1 runs on the front, and has it on 1 other runs" in finding
    examine_study("s", mend=True)
    assert list_tag_findings() == []
    assert find_run_names(f"tags.`{FRONT_TAG}` = 'true'") == load_front_names()


def test_optuna_shows_no_curves(search_study):
    search_study()
    table = optuna.load_study(study_name="s", storage=optuna_uri()).trials_dataframe()
    assert "user_attrs_ended" not in table
    assert set(table["user_attrs_outcome"]) == {"trained"}
    assert table.drop(columns="user_attrs_fields").astype(str).map(len).to_numpy().max() < 50
    assert all("curve" in trial.user_attrs["ended"]["record"] for trial in load_trials("s", optuna_uri()))
