"""Studies in MLflow: the content for its UI, and the tables that are read back from the file and by the client."""

import json
import math
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from forcetune import analysis, tracking
from forcetune.errors import InputError
from forcetune.report import results
from forcetune.stores import mlflow_uri

TRACKED_TRIALS = [("snip", 0.3, 0.97), ("force", 0.1, 0.95), ("random", 0.05, 0.4)]


@pytest.fixture(params=["file", "client"])
def study(request, search_study, monkeypatch):
    """Return a searched study in a SQLite file, read as a file and through MLflow's client."""
    searched = search_study(TRACKED_TRIALS)
    if request.param == "client":
        for module in ("runs", "curves", "experiments"):
            monkeypatch.setattr(sys.modules[f"forcetune.tracking.{module}"], "sqlite_path", lambda uri: None)
    return searched


def test_a_table_has_the_time_of_its_trials_and_the_cost_of_the_study(study):
    study_results = results.load("s")
    trials = study_results.trials
    assert list(trials["device_seconds"]) == [36.0, 36.0, 36.0]
    assert (trials["ended"] >= trials["started"]).all()
    assert 0 < study_results.device_hours < 1
    assert study_results.references == {"val_accuracy": 0.25, "density": 0.5}
    assert study_results.state == "FINISHED"
    assert {"method", "density", "epochs"} <= {*study_results.fields}
    assert "val_accuracy" not in study_results.fields


def test_a_study_whose_runs_are_deleted_has_an_empty_table(study):
    client = MlflowClient(mlflow_uri())
    for run in tracking.load_table("s").trials["run_id"]:
        client.delete_run(run)
    table = tracking.load_table("s").trials
    assert table.empty
    assert {"run_id", "outcome", "trial", "device_seconds"} <= {*table.columns}
    assert results.load("s").front.empty


def test_device_seconds_count_the_share_of_a_device(study):
    client = MlflowClient(mlflow_uri())
    run = tracking.load_table("s").trials["run_id"][0]
    client.set_tag(run, "forcetune.devices", "0.5")
    assert tracking.load_table("s").trials["device_seconds"][0] == 18.0


@pytest.mark.filterwarnings("error")
def test_a_table_has_a_thousand_metrics(study):
    client, first_run = MlflowClient(mlflow_uri()), tracking.load_table("s").trials["run_id"][0]
    client.log_batch(first_run, metrics=[Metric(f"own_{n}", n, 1000, 0) for n in range(990)])
    table = results.load("s").trials
    assert table["own_7"].tolist()[0] == 7


def test_a_run_names_its_data(study):
    tracker, first_run = tracking.Tracker("s", mlflow_uri()), tracking.load_table("s").trials["run_id"][0]
    dataset = {"name": "digits", "root": None, "digest": "0" * 16, "train_samples": 9, "test_samples": 3, "classes": 2}
    for _ in range(2):  # forcetune repeats a request whose answer is lost
        tracker.log_dataset(first_run, dataset)
    client = MlflowClient(mlflow_uri())
    (logged,) = client.get_run(first_run).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("digits", "0" * 16)
    experiment = client.get_experiment_by_name("s").experiment_id
    (run,) = client.search_runs([experiment], "dataset.name = 'digits' and dataset.context = 'training'")
    assert run.info.run_id == first_run


def test_curves_are_read_by_run_and_step(study):
    table = results.load("s").trials
    client = MlflowClient(mlflow_uri())
    last_run = table["run_id"][2]
    client.log_metric(last_run, "val_accuracy", 0.3, step=1)
    curves = tracking.load_curves([last_run, table["run_id"][0]], "val_accuracy")
    assert curves["run_id"].tolist() == [last_run, last_run, table["run_id"][0]]
    assert curves["step"].tolist() == [1, 2, 2]
    assert curves["value"].tolist() == pytest.approx([0.3, 0.4, 0.97])
    assert tracking.load_curves([], "val_accuracy").empty
    assert tracking.load_curves([last_run], "no_such").empty


def test_infinities_and_nan_are_read_back(study):
    client, first_run = MlflowClient(mlflow_uri()), tracking.load_table("s").trials["run_id"][0]
    for name, value in (("broken", math.nan), ("most", math.inf), ("least", -math.inf)):
        client.log_metric(first_run, name, value, step=1)
    row = tracking.load_table("s").trials.iloc[0]
    assert math.isnan(row["broken"])
    assert (row["most"], row["least"]) == (math.inf, -math.inf)
    assert math.isnan(tracking.load_curves([first_run], "broken")["value"][0])
    assert tracking.load_curves([first_run], "most")["value"][0] == math.inf
    assert len(analysis.where(tracking.load_table("s").trials, ["broken<=0.01"])) == 0
    assert len(analysis.where(tracking.load_table("s").trials, ["broken!=0.01"])) == 0


def test_of_two_values_at_a_step_the_later_one_counts(study):
    client, last_run = MlflowClient(mlflow_uri()), tracking.load_table("s").trials["run_id"][2]
    client.log_metric(last_run, "val_accuracy", 0.7, step=2, timestamp=2_000_000_000_000)
    assert tracking.load_curves([last_run], "val_accuracy")["value"].tolist() == [0.7]


def test_the_ui_opens_on_a_table_of_trials(study):
    experiment = next(candidate for candidate in tracking.list_experiments(mlflow_uri()) if candidate.name == "s")
    assert experiment.has_view
    assert experiment.page.endswith("/runs?workflowType=machine_learning&viewStateShareKey=forcetune")
    tags = MlflowClient(mlflow_uri()).get_experiment(experiment.number).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.forcetune"])["state"])
    columns = ["params.`method`", "tags.`forcetune.outcome`", "metrics.`sparsity`", "metrics.`val_accuracy`"]
    assert state["selectedColumns"] == state["columnOrder"] == columns
    summary = tags["mlflow.note.content"].split("\n\n")[0]
    assert "val_accuracy, max: share of the validation images" in summary
    assert "density, min: fraction of prunable weights kept" in summary
    assert not set("*`") & set(summary), "the folded note shows its Markdown unformatted"


def test_an_experiment_without_the_view_is_filtered(folder):
    client = MlflowClient(mlflow_uri())
    client.create_experiment("old")
    page = next(experiment.page for experiment in tracking.list_experiments(mlflow_uri()) if experiment.name == "old")
    assert "searchFilter=tags.%60forcetune.kind%60%20%3D%20%27trial%27" in page


def test_the_ui_shows_a_report_that_was_written(study):
    parent = results.load("s").parent

    def find_experiment():
        return next(experiment for experiment in tracking.list_experiments(mlflow_uri()) if experiment.name == "s")

    assert find_experiment().report_page == ""
    tracking.log_page(parent, "report.html", "<p>")
    experiment = find_experiment()
    assert experiment.report_page == f"/#/experiments/{experiment.number}/runs/{parent}/artifacts"


def test_a_page_is_kept_with_a_run(search_study):
    search_study(TRACKED_TRIALS)
    parent = results.load("s").parent
    for content in ("<p>one", "<p>two"):
        tracking.log_page(parent, "report.html", content)
    (root,) = Path("mlruns").glob(f"*/{parent}")
    assert (root / "artifacts" / "report.html").read_text() == "<p>two"


def test_the_study_file_keeps_the_order_of_its_objectives(search_study):
    search_study(TRACKED_TRIALS, objectives={"val_accuracy": "max", "density": "min", "macs": "min"})
    assert list(tracking.load_study_file("s")["objectives"]) == ["val_accuracy", "density", "macs"]


def test_optuna_dashboard_shows_the_same_note(search_study):
    import optuna

    from forcetune.ledger.ledger import Ledger
    from forcetune.ledger.storage import read_system_attrs
    from forcetune.stores import optuna_uri

    study = search_study(TRACKED_TRIALS)

    def read_notes():
        attrs = read_system_attrs(optuna.load_study(study_name="s", storage=optuna_uri()))
        return {name: value for name, value in attrs.items() if name.startswith("dashboard:note")}

    assert read_notes()["dashboard:note_ver"] == 1
    assert "val_accuracy, max" in read_notes()["dashboard:note_str:0"]
    ledger = Ledger(study, optuna_uri())
    ledger.describe("x" * 5000)
    ledger.describe("x" * 5000)
    assert read_notes()["dashboard:note_ver"] == 2, "an equal note is not written again"
    assert [len(read_notes()[f"dashboard:note_str:{n}"]) for n in range(3)] == [2045, 2045, 910]
    ledger.describe("short")
    assert [read_notes()[f"dashboard:note_str:{n}"] for n in range(3)] == ["short", "", ""]


def test_metrics_of_an_ended_run_are_replaced_by_later_ones(search_study):
    search_study(TRACKED_TRIALS)
    run = tracking.find_run("s/trial-0001")
    for value in (3.5, 2.5):
        tracking.log_metrics(run, {"deployed_latency_ms": value})
    metrics = tracking.load_run_metrics(run)
    assert (metrics["deployed_latency_ms"], metrics["val_accuracy"]) == (2.5, 0.95)
    assert results.load("s").trials["deployed_latency_ms"].dropna().tolist() == [2.5]


def test_metrics_of_a_run_that_does_not_exist_are_refused(search_study):
    search_study(TRACKED_TRIALS)
    with pytest.raises(InputError, match="metrics cannot be logged to the run 0000"):
        tracking.log_metrics("0" * 32, {"deployed_latency_ms": 1.0})
