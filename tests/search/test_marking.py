"""The front as tags of runs: what MLflow answers is what `best` prints, also once the front has moved."""

import re
from pathlib import Path

import optuna
from made import end
from mlflow import MlflowClient
from test_driver import driver_of

from forcetune import analysis, results
from forcetune.search import examine
from forcetune.search.ledger import trials_of
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import FRONT, KNEE


def ask(condition):
    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    return {run.info.run_name for run in client.search_runs([experiment], condition)}


def found_of_tags():
    """What the doctor says of the tags; these made-up trials have no masks either."""
    return [finding.what for finding in examine("s")[1] if "tag" in finding.what]


def front():
    return set(analysis.best(results.load("s"))["name"])


def test_mlflow_is_asked_for_the_front_and_its_knee(searched):
    searched()
    assert ask(f"tags.`{FRONT}` = 'true'") == front() != set()
    assert ask(f"tags.`{KNEE}` = 'true'") == set(analysis.knee(analysis.best(results.load("s")))["name"]) != set()


def test_mlflow_takes_the_filters_of_the_documents(searched):
    searched()
    documents = (Path(__file__).parents[2] / "README.md").read_text()
    filters = re.findall(r"``((?:tags|metrics|params|dataset)\.[^\n]+?)``(?: \||;)", documents)
    assert len(filters) >= 12
    answers = {condition: ask(condition) for condition in filters}
    assert answers["tags.`forcetune.front` = 'true'"] == front()
    assert answers["params.method = 'random_erk'"] == set(), "the random trials are of the row `random`"
    assert answers["tags.`forcetune.kind` = 'search'"] == {"s"}


def test_tags_follow_the_front_as_it_moves(folder, make_study):
    study = make_study({"density": {"low": 0.05, "high": 0.5}}, search={"trials": 2})
    driver = driver_of(study)
    first = driver.issue()
    end(driver, first, 0.4)
    driver.close()
    assert ask(f"tags.`{FRONT}` = 'true'") == {"trial-0000"}
    driver = driver_of(make_study({"density": {"low": 0.05, "high": 0.5}}, search={"trials": 3}))
    better = driver.issue()
    better.fields["density"] = first.fields["density"] / 2  # what the worker measures counts
    end(driver, better, 0.9)
    end(driver, driver.issue(), 0.1, outcome="collapsed")
    driver.close()
    assert ask(f"tags.`{FRONT}` = 'true'") == front() == {"trial-0001"}
    assert found_of_tags() == []


def test_a_doctor_compares_the_tags(searched):
    searched()
    client = MlflowClient(mlflow_uri())
    rows = results.load("s").set_index("name")
    on, off = rows.loc[min(front()), "run_id"], rows.loc[min(set(rows.index) - front()), "run_id"]
    client.delete_tag(on, FRONT)
    client.set_tag(off, FRONT, "true")
    (said,) = found_of_tags()
    assert f"1 runs on the front without the tag {FRONT}, and 1 others with it" in said
    examine("s", mend=True)
    assert found_of_tags() == []
    assert ask(f"tags.`{FRONT}` = 'true'") == front()


def test_optuna_shows_no_curves(searched):
    searched()
    shown = optuna.load_study(study_name="s", storage=optuna_uri()).trials_dataframe()
    assert "user_attrs_ended" not in shown
    assert set(shown["user_attrs_outcome"]) == {"trained"}
    assert shown.drop(columns="user_attrs_fields").astype(str).map(len).to_numpy().max() < 50
    assert all("curve" in trial.user_attrs["ended"]["record"] for trial in trials_of("s", optuna_uri()))
