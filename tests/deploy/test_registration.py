"""The registry: what MLflow loads is what was exported, its aliases follow the front, and no fault loses a file."""

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from shared_constants import SNIP_TRIAL

from forcetune import analysis, data, tracking
from forcetune.deploy import export_network, load_trained_network, prove_registered
from forcetune.deploy.runtimes import OnnxRuntime
from forcetune.errors import InputError
from forcetune.execution.worker import execute
from forcetune.report import results
from forcetune.run import examine_study, move_study
from forcetune.search.driver import open_driver
from forcetune.search.marking import move_aliases
from forcetune.stores import mlflow_uri
from forcetune.study import Study

pytestmark = pytest.mark.usefixtures("converted_once")

REGISTERED_STUDY = {
    "study": "small",
    "trial": {**SNIP_TRIAL, "density": [0.03, 0.1, 0.3, 0.6]},
    "search": {"sampler": "grid", "keep": "all"},
}
ACCURACIES = {0.03: 0.4, 0.1: 0.7, 0.3: 0.8, 0.6: 0.82}  # all trials are on the front; the knee has a density of 0.1


@pytest.fixture(scope="module")
def searched(module_folder):
    """Search a study whose four trials keep their weights, and set accuracies that put all of them on the front."""
    driver = open_driver(Study.from_dict(REGISTERED_STUDY), lambda: None, Console(quiet=True))
    driver.describe()
    while assignment := driver.issue():
        for report in map(partial(set_reported, assignment.trial.density), execute(assignment)):
            (driver.end if report.outcome else driver.report)(assignment.number, assignment.attempt, report)
    driver.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forcetune.deploy.export.check_accuracy", lambda *arguments: None)  # the accuracies are made up
        yield module_folder


def set_reported(density, report):
    """Return the report of a trial with the accuracy for its density in place of the measured one."""
    made_up = {"val_accuracy": ACCURACIES[density]}
    epoch = report.epoch and replace(report.epoch, metrics={**report.epoch.metrics, **made_up})
    return replace(report, metrics={**report.metrics, **made_up} if report.metrics else {}, epoch=epoch)


@pytest.fixture
def store(searched, tmp_path, monkeypatch):
    """Return a copy of the searched folder, which becomes the current one; its runs keep their files where they are."""
    shutil.copytree(searched, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def set_accuracy(run, accuracy):
    client = MlflowClient(mlflow_uri())
    steps = [metric.step for metric in client.get_metric_history(run, "val_accuracy")]
    client.log_metric(run, "val_accuracy", accuracy, step=max(steps) + 1)


def find_run(density):
    rows = results.load("small").trials
    return rows["run_id"].iloc[(rows["density"] - density).abs().argmin()]


def register(density, name="net", **options):
    return export_network(find_run(density), "device", register=name, rival=False, **options)


def list_versions(name="net"):
    return {version.version: version for version in tracking.list_versions(name, "small")}


def read_pixels(count=10):
    return data.load("synthetic").test.inputs[:count]


def find_classes(predictions):
    return predictions["logits"].argmax(1).tolist()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of MLflow, when its flavours are imported
def test_mlflow_loads_what_was_exported(store, monkeypatch):
    export = register(0.1, layout="nhwc")
    assert (export.registration.version, export.registration.is_new) == (1, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri())
    loaded = mlflow.pyfunc.load_model("models:/net@knee")
    pixels = read_pixels().permute(0, 2, 3, 1).contiguous()
    assert find_classes(loaded.predict(pixels.numpy())) == OnnxRuntime(export.paths[0])(pixels).argmax(1).tolist()
    with pytest.raises(MlflowException, match="dtype of input float32 does not match expected dtype uint8"):
        loaded.predict(pixels.float().numpy())
    with tracking.fetch_network_file(list_versions()[1]) as path:
        assert path.read_bytes() == export.paths[0].read_bytes()
        assert {"onnx", "onnxruntime", "mlflow"} <= {
            line.partition("==")[0] for line in (path.parent / "requirements.txt").read_text().splitlines()
        }
        assert (path.parent / "card.md").read_bytes() == export.paths[-1].read_bytes()
        example = json.loads((path.parent / "input_example.json").read_text())
    assert np.array(example).shape == (2, 8, 8, 1)
    signature = loaded.metadata.signature
    assert [signature.inputs.inputs[0].shape, signature.outputs.inputs[0].shape] == [(-1, 8, 8, 1), (-1, 4)]
    version = MlflowClient(mlflow_uri()).get_model_version("net", "1")
    assert version.description == export.paths[-1].read_text()
    assert version.run_id == export.run_id
    assert (
        "mlflow.pyfunc.load_model('models:/net@knee')"
        in MlflowClient(mlflow_uri()).get_registered_model("net").description
    )


def test_a_network_has_one_version_whatever_is_called_again(store):
    first, second = register(0.1), register(0.1)
    assert [first.registration.is_new, second.registration.is_new] == [True, False]
    assert second.registration.version == 1
    assert "net has this network already, as version 1, with the aliases knee; no second" in (
        second.registration.describe()
    )
    other_layout = register(0.1, layout="nhwc")
    assert (other_layout.registration.version, other_layout.registration.aliases) == (2, ("knee",))
    assert {*list_versions()} == {1, 2}
    assert list_versions()[1].aliases == ()


def test_int8_is_a_version_of_its_own(store):
    register(0.1)
    export = register(0.1, int8=True, max_loss=100)
    assert export.registration.version == 2
    with tracking.fetch_network_file(list_versions()[2]) as path:
        assert path.read_bytes() == export.paths[1].read_bytes()


def test_aliases_are_those_of_the_front(store):
    registrations = {density: register(density).registration for density in ACCURACIES}
    assert {density: set(registration.aliases) for density, registration in registrations.items()} == {
        0.03: {"sparsest"},
        0.1: {"knee"},
        0.3: set(),
        0.6: {"most-accurate"},
    }
    assert registrations[0.3].describe() == (
        "registered: net, version 3, with no alias; MLflow loads it as models:/net/3"
    )


def test_aliases_move_as_the_front_does(store):
    for density in (0.1, 0.6):
        register(density)
    lines = []
    move_aliases("small", mlflow_uri(), lines.append)
    assert lines == [], "nothing has moved, and no network was registered as the sparsest"
    set_accuracy(find_run(0.1), 0.9)  # it dominates the two denser networks
    move_aliases("small", mlflow_uri(), lines.append)
    assert lines == ["models:/net@most-accurate is version 1 now"]
    assert set(list_versions()[1].aliases) == {"knee", "most-accurate"}, "a front of two has no knee to move to"
    set_accuracy(find_run(0.3), 0.95)
    lines.clear()
    move_aliases("small", mlflow_uri(), lines.append)
    trial = results.load("small").trials.set_index("run_id").loc[find_run(0.3), "name"]
    (line,) = [line for line in lines if "most-accurate" in line]
    assert line == (
        f"models:/net@most-accurate stays where it is: on the front small/{trial} has its place now, which is not "
        f"registered; `forcetune export small/{trial} --register net` registers it"
    )
    assert "most-accurate" in list_versions()[1].aliases


def test_the_end_of_a_search_moves_the_aliases_and_the_doctor_does_too(store):
    for density in (0.1, 0.6):
        register(density)
    client = MlflowClient(mlflow_uri())
    client.set_registered_model_alias("net", "knee", "2")
    findings = [finding.what for finding in examine_study("small")[1]]
    assert any("has aliases of the registered model net that do not name what" in what for what in findings)
    assert any("knee (version 1)" in what for what in findings)
    open_driver(Study.from_dict(REGISTERED_STUDY), lambda: None, Console(quiet=True)).close()
    assert list_versions()[1].aliases == ("knee",)
    client.set_registered_model_alias("net", "knee", "2")
    examine_study("small", mend=True)
    assert list_versions()[1].aliases == ("knee",)


def test_a_registry_that_is_away_does_not_end_a_search(store, monkeypatch):
    register(0.1)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    lines = []
    move_aliases("small", mlflow_uri(), lines.append)
    (line,) = lines
    assert line.startswith("the aliases of net were not moved: the model registry cannot be used: the MLflow server at")
    assert line.endswith("`forcetune doctor small --repair` moves them")


@pytest.mark.parametrize("name", ["a/b", "", "a:b", "-a", "a b", "ä" * 201, "a" * 201, "a@b"])
def test_a_name_that_is_not_allowed_is_refused_before_anything_is_written(store, name):
    with pytest.raises(InputError, match="--register .*: this is no name for a registered model; allowed: a letter"):
        register(0.1, name)
    assert not (store / "device").exists()


def test_a_name_of_others_is_refused_before_anything_is_written(store):
    client = MlflowClient(mlflow_uri())
    client.create_registered_model("taken", {"forcetune.study": "other"})
    with pytest.raises(InputError, match="--register taken: .* has the networks of the study 'other'.*another name"):
        register(0.1, "taken")
    client.create_registered_model("foreign")
    client.create_model_version("foreign", str(store))
    with pytest.raises(InputError, match="--register foreign: .* versions that forcetune did not register"):
        register(0.1, "foreign")
    assert not (store / "device").exists()
    client.create_registered_model("made-before", description="by hand")
    assert register(0.1, "made-before").registration.version == 1
    assert client.get_registered_model("made-before").description == "by hand"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_format": "torch"}, "--register net: the registry gets an ONNX file.*--format onnx, not torch"),
        ({"file_format": "safetensors"}, "--register net: .*not safetensors"),
    ],
)
def test_only_a_file_that_mlflow_runs_is_registered(store, options, message):
    with pytest.raises(InputError, match=message):
        register(0.1, **options)
    assert not (store / "device").exists()


def test_a_network_without_a_run_is_refused(store, trained_mlp):
    with pytest.raises(InputError, match="--register net: the registry names the run of a network, and this network"):
        export_network(trained_mlp, "device", register="net")
    assert not (store / "device").exists()


def check_complete(error, store):
    """Check that a message names the files of an export, and that they are there."""
    files = sorted((store / "device").iterdir())
    assert [path.suffix for path in files] == [".md", ".onnx"]
    assert all(str(path.relative_to(store)) in str(error.value) for path in files)
    assert "The export is complete without it" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_registry_that_is_away_costs_no_file(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="--register net: the model registry cannot be used: .* answer") as error:
        register(0.1)
    check_complete(error, store)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert register(0.1).registration.is_new


def test_a_full_disk_leaves_no_version_and_no_half_of_one(store, monkeypatch):
    log_artifacts = MlflowClient.log_artifacts

    def fill_disk(self, run, folder, location):
        Path(folder, "requirements.txt").unlink()
        log_artifacts(self, run, folder, location)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_artifacts", fill_disk)
    run = find_run(0.3)
    with pytest.raises(InputError, match="--register full: its files cannot be written to the run .*No space") as error:
        register(0.3, "full")
    check_complete(error, store)
    assert list_versions("full") == {}
    assert MlflowClient(mlflow_uri()).list_artifacts(run, "registered/full") == []
    monkeypatch.setattr(MlflowClient, "log_artifacts", log_artifacts)
    assert register(0.3, "full").registration.version == 1


def test_a_version_whose_answer_is_lost_is_not_made_twice(store, monkeypatch):
    create_version, answers = MlflowClient.create_model_version, []

    def lose_answer(self, *arguments, **options):
        version = create_version(self, *arguments, **options)
        if not answers:
            answers.append(version)
            raise MlflowException("the connection broke")
        return version

    monkeypatch.setattr(MlflowClient, "create_model_version", lose_answer)
    assert register(0.1).registration.version == 1
    assert {*list_versions()} == {1}


def test_of_two_registrations_at_once_the_first_stays(store, monkeypatch):
    create_version = MlflowClient.create_model_version

    def create_twice(self, *arguments, **options):
        create_version(self, *arguments, **options)  # by another process, a moment before
        return create_version(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_model_version", create_twice)
    registration = register(0.1).registration
    assert (registration.version, registration.is_new) == (1, False)
    assert {*list_versions()} == {1}


def test_a_registered_file_is_proved_again(store):
    export = register(0.1)
    trained = load_trained_network(export.run_id)
    set_accuracy(export.run_id, export.verifications["pruned"].accuracy)
    (proof,) = prove_registered("small", [])
    assert (proof.model, proof.version, proof.run_id) == ("net", 1, trained.run_id)
    assert proof.accuracy == proof.expected == export.verifications["pruned"].accuracy
    assert (proof.samples, proof.problem, proof.obstacle) == (32, None, None)
    set_accuracy(export.run_id, proof.accuracy - 0.2)
    (proof,) = prove_registered("small", [export.run_id])
    assert "validation images, and" in proof.problem
    location = Path(MlflowClient(mlflow_uri()).get_model_version("net", "1").source)
    (location / "model.onnx").write_bytes(b"broken")
    (proof,) = prove_registered("small", [export.run_id])
    assert proof.problem.startswith("cannot be run: ")
    shutil.rmtree(location)
    (proof,) = prove_registered("small", [export.run_id])
    assert proof.problem.startswith("cannot be run: ")


def test_a_proof_that_lacks_its_data_is_no_alarm(store, monkeypatch):
    register(0.1)

    def miss(name, root=None):
        raise InputError("there is no such file")

    monkeypatch.setattr(data, "load", miss)
    (proof,) = prove_registered("small", [])
    assert (proof.problem, proof.obstacle) == (None, "there is no such file")


def move_to(monkeypatch, store):
    """Move the study with its runs to another store, which is used from then on, and return what the move said."""
    target = f"sqlite:///{store}/there.db"
    lines = []
    move_study("small", None, target, lines.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target)
    return lines


def test_a_move_takes_the_registered_networks_along(store, monkeypatch):
    exports = {density: register(density) for density in (0.3, 0.1, 0.6)}
    client = MlflowClient(mlflow_uri())
    client.delete_model_version("net", "1")  # the others get other numbers
    descriptions = {number: client.get_model_version("net", str(number)).description for number in (2, 3)}
    assert move_to(monkeypatch, store) == [
        "moved: the versions of the registered model net (2), with new numbers and their aliases"
    ]
    assert client.search_registered_models() == []
    versions = list_versions()
    assert {number: version.aliases for number, version in versions.items()} == {1: ("knee",), 2: ("most-accurate",)}
    assert [versions[1].run_id, versions[2].run_id] == [find_run(0.1), find_run(0.6)]
    for number in (1, 2):
        version = MlflowClient(mlflow_uri()).get_model_version("net", str(number))
        assert version.description == descriptions[number + 1]
    with tracking.fetch_network_file(versions[1]) as path:
        assert path.read_bytes() == exports[0.1].paths[0].read_bytes()
    assert not any(proof.obstacle for proof in prove_registered("small", []))
    lines = []
    move_aliases("small", mlflow_uri(), lines.append)
    assert lines == []
    exported = export_network(exports[0.1].run_id, "device", register="net", rival=False)
    assert exported.run_id == find_run(0.1) != exports[0.1].run_id, "the earlier id names the run too"
    assert (exported.registration.version, exported.registration.is_new) == (1, False)


def test_a_move_that_was_killed_between_two_registered_networks_goes_on(store, monkeypatch):
    for density in (0.1, 0.6):
        register(density)
    delete_version = MlflowClient.delete_model_version

    def die(self, name, version):
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "delete_model_version", die)
    with pytest.raises(KeyboardInterrupt):
        move_study("small", None, f"sqlite:///{store}/there.db", print)
    monkeypatch.setattr(MlflowClient, "delete_model_version", delete_version)
    move_to(monkeypatch, store)
    assert {number: version.aliases for number, version in list_versions().items()} == {
        1: ("knee",),
        2: ("most-accurate",),
    }


def test_a_move_to_a_registry_in_which_another_study_has_the_name_says_so(store, monkeypatch):
    register(0.1)
    target = f"sqlite:///{store}/there.db"
    tracking.Tracker("other", target).client.create_registered_model("net", {"forcetune.study": "other"})
    (line,) = move_to(monkeypatch, store)
    assert line.startswith("the networks of net were not moved: the registered model net has the networks of the study")
    assert "`forcetune export small/TRIAL --register NAME` registers the network of a trial under another name" in line
    assert register(0.1, "other-name").registration.is_new


def test_a_move_waits_for_a_registry_that_is_away(store, monkeypatch):
    register(0.1)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="the model registry cannot be used: .*The study is still here; once"):
        move_study("small", None, f"sqlite:///{store}/there.db", print)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    assert len(results.load("small").trials) == 4
    move_to(monkeypatch, store)
    assert list_versions()[1].aliases == ("knee",)


def test_only_networks_of_interest_are_proved(store):
    register(0.3)
    assert prove_registered("small", []) == []
    assert len(prove_registered("small", [find_run(0.3)])) == 1


def test_the_landmarks_are_those_of_the_front(store):
    table = results.load("small")
    landmarks = analysis.find_landmarks(table.front, table.objectives)
    assert landmarks == {"knee": find_run(0.1), "sparsest": find_run(0.03), "most-accurate": find_run(0.6)}
    assert "knee" not in analysis.find_landmarks(table.front.iloc[:2], table.objectives)
    assert analysis.find_landmarks(table.front.iloc[:0], table.objectives) == {}


@pytest.mark.long
def test_the_command_of_mlflow_gives_the_classes_of_the_export(store):
    """A process of MLflow's own: its command imports for seconds."""
    export = register(0.1)
    pixels = read_pixels()
    (store / "pixels.json").write_text(json.dumps({"inputs": pixels.tolist()}))
    options = ["--env-manager", "local", "--input-path", "pixels.json", "--output-path", "logits.json"]
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--model-uri", "models:/net@knee", *options]
    result = subprocess.run(command, cwd=store, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    predictions = json.loads((store / "logits.json").read_text())["predictions"]
    assert np.array(predictions["logits"]).argmax(1).tolist() == OnnxRuntime(export.paths[0])(pixels).argmax(1).tolist()
