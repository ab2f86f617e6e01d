"""What MLflow is told of a study for its own UI, and what is read back: through a file, and through its client."""

import json
import math
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from forcetune import analysis, results, tracking
from forcetune.stores import mlflow_uri

POINTS = [("snip", 0.3, 0.97), ("force", 0.1, 0.95), ("random", 0.05, 0.4)]


@pytest.fixture(params=["file", "client"])
def study(request, searched, monkeypatch):
    """A searched study in a SQLite file, read as a file and as MLflow's client reads any store."""
    found = searched(POINTS)
    if request.param == "client":
        for part in ("runs", "curves", "experiments"):
            monkeypatch.setattr(sys.modules[f"forcetune.tracking.{part}"], "sqlite_path", lambda uri: None)
    return found


def test_a_table_says_what_its_trials_took_and_the_study_cost(study):
    table = results.load("s")
    assert list(table["device_seconds"]) == [36.0, 36.0, 36.0]
    assert (table["ended"] >= table["started"]).all()
    assert 0 < table.attrs["device_hours"] < 1
    assert table.attrs["references"] == {"val_accuracy": 0.25, "density": 0.5}
    assert table.attrs["state"] == "FINISHED"
    assert {"method", "density", "epochs"} <= {*table.attrs["fields"]}
    assert "val_accuracy" not in table.attrs["fields"]


def test_devices_count(study):
    client = MlflowClient(mlflow_uri())
    run = tracking.load_table("s")["run_id"][0]
    client.set_tag(run, "forcetune.devices", "0.5")
    assert tracking.load_table("s")["device_seconds"][0] == 18.0


@pytest.mark.filterwarnings("error")
def test_a_table_of_many_metrics(study):
    client, first = MlflowClient(mlflow_uri()), tracking.load_table("s")["run_id"][0]
    client.log_batch(first, metrics=[Metric(f"own_{n}", n, 1000, 0) for n in range(990)])
    table = results.load("s")
    assert table["own_7"].tolist()[0] == 7


def test_a_run_names_its_data(study):
    tracker, first = tracking.Tracker("s", mlflow_uri()), tracking.load_table("s")["run_id"][0]
    dataset = {"name": "digits", "root": None, "digest": "0" * 16, "train_samples": 9, "test_samples": 3, "classes": 2}
    for _ in range(2):  # a request whose answer is lost is sent again
        tracker.log_dataset(first, dataset)
    client = MlflowClient(mlflow_uri())
    (logged,) = client.get_run(first).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("digits", "0" * 16)
    experiment = client.get_experiment_by_name("s").experiment_id
    (run,) = client.search_runs([experiment], "dataset.name = 'digits' and dataset.context = 'training'")
    assert run.info.run_id == first


def test_curves(study):
    table = results.load("s")
    client = MlflowClient(mlflow_uri())
    last = table["run_id"][2]
    client.log_metric(last, "val_accuracy", 0.3, step=1)
    found = tracking.load_curves([last, table["run_id"][0]], "val_accuracy")
    assert found["run_id"].tolist() == [last, last, table["run_id"][0]]
    assert found["step"].tolist() == [1, 2, 2]
    assert found["value"].tolist() == pytest.approx([0.3, 0.4, 0.97])
    assert tracking.load_curves([], "val_accuracy").empty
    assert tracking.load_curves([last], "no_such").empty


def test_what_is_no_number_is_read_back_as_such(study):
    client, first = MlflowClient(mlflow_uri()), tracking.load_table("s")["run_id"][0]
    for name, value in (("broken", math.nan), ("most", math.inf), ("least", -math.inf)):
        client.log_metric(first, name, value, step=1)
    row = tracking.load_table("s").iloc[0]
    assert math.isnan(row["broken"])
    assert (row["most"], row["least"]) == (math.inf, -math.inf)
    assert math.isnan(tracking.load_curves([first], "broken")["value"][0])
    assert tracking.load_curves([first], "most")["value"][0] == math.inf
    assert len(analysis.where(tracking.load_table("s"), ["broken<=0.01"])) == 0
    assert len(analysis.where(tracking.load_table("s"), ["broken!=0.01"])) == 0


def test_of_two_values_at_a_step_the_later_one_counts(study):
    client, last = MlflowClient(mlflow_uri()), tracking.load_table("s")["run_id"][2]
    client.log_metric(last, "val_accuracy", 0.7, step=2, timestamp=2_000_000_000_000)
    assert tracking.load_curves([last], "val_accuracy")["value"].tolist() == [0.7]


def test_the_ui_opens_on_a_table_of_trials(study):
    found = next(each for each in tracking.list_experiments(mlflow_uri()) if each.name == "s")
    assert found.has_view
    assert found.page.endswith("/runs?workflowType=machine_learning&viewStateShareKey=forcetune")
    tags = MlflowClient(mlflow_uri()).get_experiment(found.number).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.forcetune"])["state"])
    columns = ["params.`method`", "tags.`forcetune.outcome`", "metrics.`sparsity`", "metrics.`val_accuracy`"]
    assert state["selectedColumns"] == state["columnOrder"] == columns
    first = tags["mlflow.note.content"].split("\n\n")[0]
    assert "val_accuracy, max: share of the validation images" in first
    assert "density, min: fraction of prunable weights kept" in first
    assert not set("*`") & set(first), "shown as it is until it is unfolded"


def test_an_experiment_without_the_view_is_filtered(folder):
    client = MlflowClient(mlflow_uri())
    client.create_experiment("old")
    page = next(each.page for each in tracking.list_experiments(mlflow_uri()) if each.name == "old")
    assert "searchFilter=tags.%60forcetune.kind%60%20%3D%20%27trial%27" in page


def test_a_page_is_kept_with_a_run(searched):
    searched(POINTS)
    parent = results.load("s").attrs["parent"]
    for content in ("<p>one", "<p>two"):
        tracking.log_page(parent, "report.html", content)
    (root,) = Path("mlruns").glob(f"*/{parent}")
    assert (root / "artifacts" / "report.html").read_text() == "<p>two"


def test_the_study_file_keeps_the_order_of_its_objectives(searched):
    searched(POINTS, objectives={"val_accuracy": "max", "density": "min", "macs": "min"})
    assert list(tracking.load_study_file("s")["objectives"]) == ["val_accuracy", "density", "macs"]


def test_optuna_dashboard_shows_the_same_note(searched):
    import optuna

    from forcetune.ledger.ledger import Ledger
    from forcetune.stores import optuna_uri

    study = searched(POINTS)

    def notes():
        known = optuna.load_study(study_name="s", storage=optuna_uri())
        attrs = known._storage.get_study_system_attrs(known._study_id)
        return {name: value for name, value in attrs.items() if name.startswith("dashboard:note")}

    assert notes()["dashboard:note_ver"] == 1
    assert "val_accuracy, max" in notes()["dashboard:note_str:0"]
    ledger = Ledger(study, optuna_uri())
    ledger.describe("x" * 5000)
    ledger.describe("x" * 5000)
    assert notes()["dashboard:note_ver"] == 2, "the same is not written again"
    assert [len(notes()[f"dashboard:note_str:{n}"]) for n in range(3)] == [2045, 2045, 910]
    ledger.describe("short")
    assert [notes()[f"dashboard:note_str:{n}"] for n in range(3)] == ["short", "", ""]
