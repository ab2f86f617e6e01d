"""The command `export`: a run or a question to a study, its files, its metrics in MLflow, and what it refuses."""

import json

import pytest
from commands import run_command, write_study
from mlflow import MlflowClient
from shared_constants import SEARCH_SPACES, SNIP_TRIAL

from forcetune import tracking
from forcetune.deploy import export_network
from forcetune.deploy.runtimes import OnnxRuntime
from forcetune.errors import InputError

EXPORTED_STUDY = {
    "study": "small",
    "trial": {**SNIP_TRIAL, "density": [0.02, 0.1, 0.3, 0.5]},
    "search": {"trials": 4, "stopping": "none", "keep": "all"},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return the folder of a study whose four trials keep their weights."""
    folder = tmp_path_factory.mktemp("searched")
    result = run_command(folder, "search", write_study(folder, EXPORTED_STUDY))
    assert result.exit_code == 0, result.output
    return folder


def refuse(folder, *arguments):
    before = sorted(path.name for path in folder.iterdir())
    result = run_command(folder, "export", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
    return result.stderr


def test_a_run_is_exported_and_its_figures_become_metrics_of_the_run(searched):
    result = run_command(searched, "export", "small/trial-0001", "--out", "device", "--rival")
    assert result.exit_code == 0, result.output
    assert "a dense network of width " in result.output.splitlines()[0]
    assert "written: device/mlp-snip-" in result.output
    uri = f"sqlite:///{searched}/mlflow.db"
    run = tracking.find_run("small/trial-0001", uri)
    metrics = tracking.load_run_metrics(run, uri)
    assert 0 < metrics["deployed_latency_ms"] <= metrics["deployed_latency_p95_ms"]
    assert metrics["deployed_accuracy"] == metrics["val_accuracy"]
    assert 0 < metrics["deployed_small_dense_accuracy"] <= 1
    (file,) = (searched / "device").glob(f"mlp-snip-{run[:8]}.onnx")
    assert OnnxRuntime(file)
    best = run_command(searched, "best", "small", "--where", "deployed_latency_ms>0", "--json")
    assert [row["name"] for row in json.loads(best.output)] == ["trial-0001"]
    assert run_command(searched, "doctor", "small").exit_code == 0


def test_a_question_selects_the_trial_of_a_study(searched):
    arguments = ("--format", "safetensors", "--out", "chosen", "--json")
    exported = json.loads(run_command(searched, "export", "small", "--top", "1", *arguments).output)
    best = json.loads(run_command(searched, "best", "small", "--top", "1", "--json").output)
    assert exported["run_id"] == best[0]["run_id"]
    assert exported["deployed_accuracy"] == best[0]["val_accuracy"]
    by_condition = run_command(searched, "export", "small", "--where", "density<5%", *arguments)
    assert json.loads(by_condition.output)["files"][0].startswith("chosen/mlp-snip-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small"], "small: which of its trials? Allowed: --knee, --top 1 or --where CONDITION"),
        (["small", "--top", "2"], "2 trials of small answer this question (small/trial-"),
        (["small", "--where", "density=0.7"], "no trained trial of small answers this question"),
        (["small", "--top", "1", "--knee"], "--knee and --top exclude each other"),
        (["small/trial-0001", "--knee"], "small/trial-0001 is one run: --knee, --top and --where select"),
        (["small/trial-0009"], "the study 'small' has no run 'trial-0009'"),
        (["absent", "--knee"], "this MLflow store has no study 'absent'"),
        (["small/trial-0001", "--format", "torch", "--int8"], "--format torch has no int8 version"),
    ],
)
def test_a_refusal_is_one_line(searched, arguments, message):
    assert message in refuse(searched, *arguments)


def test_a_registered_network_is_said_with_its_address(searched):
    arguments = ("export", "small/trial-0002", "--out", "registered", "--no-rival", "--register", "small-nets")
    result = run_command(searched, *arguments)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("registered: small-nets, version 1, with ")
    again = json.loads(run_command(searched, *arguments, "--json").output)
    assert (again["registered"]["version"], again["registered"]["is_new"]) == (1, False)
    version = MlflowClient(f"sqlite:///{searched}/mlflow.db").get_model_version("small-nets", "1")
    assert "--no-rival --register small-nets --out registered" in version.description
    assert "no name for a registered model" in refuse(searched, "small/trial-0002", "--register", "a/b")
    assert run_command(searched, "doctor", "small").exit_code == 0


@pytest.mark.long
def test_the_shipped_study_of_latency_ends_in_a_registered_network(tmp_path):
    """A minute: 24 trials, each of which exports two networks to ONNX."""
    result = run_command(tmp_path, "search", str(SEARCH_SPACES / "latency.yaml"))
    assert result.exit_code == 0, result.output
    rows = json.loads(run_command(tmp_path, "best", "latency", "--json").output)
    assert min(row["latency_ratio"] for row in rows) < 0.8
    exported = run_command(tmp_path, "export", "latency", "--knee", "--out", "device", "--register", "latency")
    assert exported.exit_code == 0, exported.output
    assert "MLflow loads it as models:/latency@knee" in exported.output


def test_a_run_without_weights_is_refused(searched, search_study):
    search_study([("snip", 0.25, 0.9)])
    with pytest.raises(InputError, match="keeps no weights: .*`forcetune train s/trial-0000` trains"):
        export_network("s/trial-0000")
