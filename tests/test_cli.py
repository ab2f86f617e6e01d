"""The commands as a user runs them: their messages, tables, files and exit codes."""

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing, nullcontext
from datetime import date

import optuna
import pytest
import yaml
from commands import read_states, run_command, write_study
from shared_constants import SMALL_STUDY

import forcetune
from forcetune.execution import connection
from forcetune.pruning import load_masks
from forcetune.report.comparison import LEGEND


@pytest.fixture(scope="module")
def searched_template(tmp_path_factory, empty_mlflow):
    """Search the small study once, and return its folder, which no test changes."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    result = run_command(folder, "search", write_study(folder, SMALL_STUDY))
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def searched(searched_template, tmp_path):
    """Return a copy of the folder of the small study, for a test that changes it."""
    # A process that closes a SQLite file releases its own locks on it, and other processes may then damage the file.
    # So another process copies it.
    subprocess.run(["cp", "-r", searched_template, tmp_path / "copy"], check=True)
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def ray_of_this_module():
    with connection.connect_ray():
        yield


@pytest.fixture
def started_ray(ray_of_this_module, monkeypatch):
    """Let the searches of a test use one Ray, which takes seconds to start."""
    monkeypatch.setattr(connection, "connect_ray", nullcontext)


@pytest.fixture
def empty_folder(tmp_path, empty_mlflow):
    """Return a folder with an MLflow store in it, which a search would take seconds to make."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return tmp_path


def test_best_prints_json(searched_template):
    front = json.loads(run_command(searched_template, "best", "small", "--json").stdout)
    assert [row["sparsity"] for row in front] == sorted(row["sparsity"] for row in front)
    accuracies = [row["val_accuracy"] for row in front]
    assert accuracies == sorted(accuracies, reverse=True)
    for row in front:
        assert ("iterations" in row) == (row["method"] == "force")
        assert isinstance(row["epochs"], int)
        assert row["run_id"]


def test_best_filters(searched_template):
    sparse_rows = json.loads(run_command(searched_template, "best", "small", "--json", "--min-sparsity", "0.9").stdout)
    assert sparse_rows
    assert all(row["sparsity"] >= 0.9 for row in sparse_rows)
    force_rows = json.loads(run_command(searched_template, "best", "small", "--json", "--method", "force").stdout)
    assert {row["method"] for row in force_rows} == {"force"}
    empty_result = run_command(searched_template, "best", "small", "--min-accuracy", "1", "--min-sparsity", "0.9999")
    assert (empty_result.exit_code, empty_result.stdout.split(";")[0]) == (
        0,
        "no trained trial meets these conditions",
    )


def test_best_refuses_unknown_studies_and_missing_stores(searched_template, tmp_path):
    unknown = run_command(searched_template, "best", "smal")
    assert unknown.exit_code == 2
    assert "no study 'smal'" in unknown.stderr
    assert "did you mean 'small'" in unknown.stderr
    without_store = run_command(tmp_path, "best", "small")
    assert (without_store.exit_code, "there is no MLflow store" in without_store.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_the_same_command_goes_on(searched):
    write_study(searched, {**SMALL_STUDY, "search": {"trials": 10}})
    continued = run_command(searched, "search", "study.yaml")
    assert continued.exit_code == 0, continued.stderr
    assert read_states(searched) == (["COMPLETE"] * 10, ["FINISHED"] * 10)
    changed_study = {**SMALL_STUDY, "trial": {**SMALL_STUDY["trial"], "epochs": 3}}
    refused = run_command(searched, "search", write_study(searched, changed_study, "changed.yaml"))
    assert refused.exit_code == 2
    assert "trial.epochs was 2, is now 3" in refused.stderr


def test_doctor_finds_and_repairs_damage(searched):
    clean_check = run_command(searched, "doctor", "small")
    assert (clean_check.exit_code, clean_check.stdout.strip()) == (0, "Optuna, MLflow and the checkpoints agree")
    with closing(sqlite3.connect(searched / "mlflow.db")) as connection, connection:
        connection.execute("update runs set status = 'RUNNING' where name = 'trial-0003'")
    failed_check = run_command(searched, "doctor", "small")
    assert failed_check.exit_code == 1
    assert "trial 3  is COMPLETE in the ledger, but its run is RUNNING  write its run again" in failed_check.stdout
    repair = run_command(searched, "doctor", "small", "--repair")
    assert repair.exit_code == 0, repair.stdout
    assert repair.stdout.startswith("repaired: trial 3 is COMPLETE")
    unknown = run_command(searched, "doctor", "smal")
    assert (unknown.exit_code, "did you mean 'small'" in unknown.stderr) == (2, True)


def test_fresh_archives_the_earlier_study(searched):
    before = json.loads(run_command(searched, "best", "small", "--json").stdout)
    changed_study = {**SMALL_STUDY, "trial": {**SMALL_STUDY["trial"], "epochs": 1}, "search": {"trials": 2}}
    fresh = run_command(searched, "search", write_study(searched, changed_study), "--fresh")
    assert fresh.exit_code == 0, fresh.stderr
    archived = f"small.{date.today()}"
    assert archived in fresh.stdout.splitlines()[0]
    assert read_states(searched)[0] == ["COMPLETE"] * 2
    kept = json.loads(run_command(searched, "best", archived, "--json").stdout)
    assert kept == [{**row, "study": archived} for row in before]


def test_fresh_archives_nothing_where_it_is_refused(searched, started_ray):
    before = run_command(searched, "best", "small", "--json").stdout
    refused = run_command(
        searched, "search", write_study(searched, {**SMALL_STUDY, "resources": {"cpus": 999}}), "--fresh", with_ray=True
    )
    assert (refused.exit_code, refused.stderr.count("999 cpus")) == (2, 1), refused.stderr
    assert refused.stdout == ""
    assert run_command(searched, "best", "small", "--json").stdout == before


def test_a_search_begins_with_start_values_and_prior_trials(searched):
    start = [{"method": "force", "iterations": 5, "density": 0.125}, {"method": "snip"}]
    search = {"trials": 3, "start": start, "warm_start": ["small"]}
    study = write_study(searched, {**SMALL_STUDY, "study": "begun", "search": search}, "begun.yaml")
    result = run_command(searched, "search", study)
    assert result.exit_code == 0, result.stderr
    completed = len([state for state in read_states(searched)[0] if state == "COMPLETE"])
    assert f"{completed} of {completed} trials of small fit this study" in result.stdout
    first, second, _ = optuna.load_study(study_name="begun", storage=f"sqlite:///{searched}/optuna.db").trials
    assert {**start[0], "lr": first.params["lr"]} == first.params
    assert second.params["method"] == "snip"
    unknown = write_study(
        searched, {**SMALL_STUDY, "study": "new", "search": {**search, "warm_start": ["smal"]}}, "new.yaml"
    )
    refused = run_command(searched, "search", unknown)
    assert refused.exit_code == 2
    assert "search.warm_start.0" in refused.stderr
    assert "did you mean 'small'" in refused.stderr
    assert read_states(searched, "small")[0], "the prior study keeps its trials"
    assert "new" not in optuna.get_all_study_names(f"sqlite:///{searched}/optuna.db")


BAD_STUDIES = {
    "a typo": ({"trial": {"densty": 0.1}}, "trial.densty"),
    "an unknown data set": ({"trial": {"dataset": "digit"}}, "unknown data set 'digit'"),
    "a missing data set": ({"trial": {"dataset": "fashion_mnist", "data_root": "nowhere"}}, "no train-images"),
    "a model that does not fit": ({"trial": {"model": "tiny:deep"}}, "does not fit samples of shape (1, 8, 8)"),
    "no prunable layer": ({"trial": {"model": "tiny:flat"}}, "no prunable layer"),
    "an unknown objective": ({"objectives": {"accuracy": "max"}}, "objectives.accuracy"),
    "a density that keeps nothing": ({"trial": {"density": 1e-9}}, "keeps none of the"),
    "cores that are not there": ({"resources": {"cpus": 4000}}, "a trial asks for 4000 cpus"),
}
TINY_MODELS_CODE = """
from torch import nn

def deep(input_shape, classes, width):
    return nn.Sequential(nn.Conv2d(1, 2, 9), nn.Flatten(), nn.Linear(2, classes))

class flat(nn.Module):
    def __init__(self, input_shape, classes, width):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x.flatten(1)[:, : self.classes]
"""


@pytest.mark.parametrize("case", BAD_STUDIES)
def test_bad_input_starts_nothing(case, tmp_path, started_ray):
    changes, message = BAD_STUDIES[case]
    study = {**SMALL_STUDY, **changes, "trial": {**SMALL_STUDY["trial"], **changes.get("trial", {})}}
    (tmp_path / "tiny.py").write_text(TINY_MODELS_CODE)
    written_files = {"study.yaml", "tiny.py"}
    command = "search" if case.startswith("cores") else "check"
    refused = run_command(tmp_path, command, write_study(tmp_path, study), with_ray=True)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert refused.stderr.startswith("forcetune: study.yaml")
    assert len(refused.stderr.strip().splitlines()) == 1, "one paragraph, no traceback"
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == written_files


def test_control_characters_are_escaped_in_messages(tmp_path):
    data_fields = {"dataset": "mnist", "data_root": "\x1b[2Jnowhere\0"}
    refused = run_command(
        tmp_path,
        "check",
        write_study(tmp_path, {**SMALL_STUDY, "trial": {**SMALL_STUDY["trial"], **data_fields}}),
    )
    assert refused.exit_code == 2
    assert "\\x1b[2Jnowhere\\x00" in refused.stderr
    assert refused.stderr.strip().isprintable()


def test_cores_beyond_any_machine_do_not_stop_check(tmp_path):
    study = write_study(tmp_path, {**SMALL_STUDY, "resources": {"cpus": 1e300}})
    assert run_command(tmp_path, "check", study).exit_code == 0


def test_search_refuses_as_check_does(tmp_path):
    refused = run_command(tmp_path, "search", write_study(tmp_path, {**SMALL_STUDY, "trial": {"densty": 1}}))
    assert (refused.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["study.yaml"])


def test_an_address_for_jobs_is_refused(tmp_path):
    refused = run_command(
        tmp_path,
        "search",
        write_study(tmp_path, SMALL_STUDY),
        variables={"RAY_ADDRESS": "http://127.0.0.1:8265"},
        with_ray=True,
    )
    assert refused.exit_code == 2
    assert "`forcetune submit`" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_check_prints_what_a_search_would_run(tmp_path):
    result = run_command(tmp_path, "check", write_study(tmp_path, SMALL_STUDY))
    assert result.exit_code == 0, result.stderr
    for phrase in ("8, proposed by tpe", "288 training and 32 validation", "832 prunable weights", "0.01 to 0.5, log"):
        assert phrase in " ".join(result.stdout.split())
    assert "about" in result.stdout.splitlines()[-1], "the expected cost comes last"
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"study.yaml", "small.cost.json"}, "check opens no store"


def test_failed_trials_are_reported(empty_folder):
    failing_study = {
        **SMALL_STUDY,
        "trial": {**SMALL_STUDY["trial"], "density": 0.3, "method": "force", "lr": [0.1, 1e30]},
    }
    failing_study["trial"]["iterations"] = 1
    result = run_command(
        empty_folder, "search", write_study(empty_folder, {**failing_study, "search": {"sampler": "grid"}})
    )
    assert result.exit_code == 0
    assert "1 failed: the reason is in" in result.stdout
    failing_study["trial"]["lr"] = 1e30
    failing_study["study"] = "all-failed"
    result = run_command(empty_folder, "search", write_study(empty_folder, {**failing_study, "search": {"trials": 1}}))
    assert result.exit_code == 1


PRUNED_FIELDS = {
    "balanced": {"samples_per_class": 99},
    "from_file": {"layers_from": "gone.npz"},
    "from_run": {"layers_from": "a" * 32},
}
COMPARED_STUDY = {"study": "mlp-synthetic", "trial": {"model": "mlp", "width": 12, "dataset": "synthetic", "epochs": 1}}


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory):
    """Return a folder with a network and a saliency that a user wrote, and study files for `prune` and `compare`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_pkg").mkdir()
    (folder / "my_pkg" / "nets.py").write_text(
        "from torch import nn\n\n"
        "def build(input_shape, classes):\n"
        "    size = input_shape[0] * input_shape[1] * input_shape[2]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, 9), nn.ReLU(), nn.Linear(9, classes))\n"
    )
    (folder / "my_pkg" / "scores.py").write_text(
        "def score(net):\n    return net.weights\n\ndef bad(net):\n    return net.nothing\n"
    )
    for name, fields in PRUNED_FIELDS.items():
        trial = {"model": "resnet8", "dataset": "synthetic", **fields}
        write_study(folder, {"study": "pruned", "trial": trial}, f"{name}.yaml")
    write_study(folder, COMPARED_STUDY, "compared.yaml")
    return folder


def test_check_describes_a_network(user_folder):
    result = run_command(user_folder, "check", "my_pkg.nets:build", "--dataset", "digits")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["1.weight", "9x64", "576", "86.5%", "576"] in lines
    assert ["2", "layers", "666", "666"] in lines
    assert "never pruned: 19 biases" in result.stdout
    assert "no obstacles" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my_pkg.nets:buidl"], "has no function 'buidl' (did you mean 'build'?)"),
        (["my_pkg.nets:build", "--input", "64"], "does not fit samples of shape (64,)"),
        (["my_pkg.nets:build", "--input", "3xa"], "--input 3xa: allowed: sizes separated by x"),
        (["torchvision:mobilenet"], "unknown model 'torchvision:mobilenet'"),
        (["study.yaml", "--dataset", "digits"], "--dataset applies to a model, and 'study.yaml' is not"),
        (["study.yaml", "--width", "8"], "--width applies to a model, and 'study.yaml' is not"),
        (["mlp", "--dataset", "digits", "--classes", "3"], "--dataset and --classes exclude each other"),
        (["mlp", "--data-root", "images"], "--data-root images: is the folder of a data set; allowed: with --dataset"),
    ],
)
def test_check_refuses_bad_networks(user_folder, arguments, message):
    result = run_command(user_folder, "check", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


PRUNE_ARGUMENTS = ["prune", "--model", "resnet8", "--dataset", "synthetic", "--method"]


def test_prune_writes_and_shows_masks(user_folder):
    result = run_command(
        user_folder, *PRUNE_ARGUMENTS, "force", "--density", "0.02",
        "--iterations", "4", "--out", "masks.npz",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    masks = load_masks(user_folder / "masks.npz")
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(total * 0.02)
    bars = [line for line in result.stdout.splitlines() if "x" in line.split()[1:2][0] if "%" in line]
    assert [line.split()[0] for line in bars] == [name.removesuffix(".weight") for name in masks]
    assert max(line.count("█") for line in bars) == 30
    assert f"kept           {int(total * 0.02):,} of {total:,} weights" in result.stdout
    assert f"masks.npz: {int(total * 0.02)} weights kept" in result.stdout
    assert not (user_folder / "mlflow.db").exists()


def test_prune_says_that_a_network_collapsed(user_folder):
    result = run_command(user_folder, *PRUNE_ARGUMENTS, "random", "--density", "0.0001")
    assert result.exit_code == 0, result.stderr
    assert "no path of kept weights leads from input to output; layers without a weight: 0.weight" in result.stdout
    assert "empty" in result.stdout


def test_prune_a_trial_of_a_search(searched):
    front = json.loads(run_command(searched, "best", "small", "--json").stdout)
    chosen_row = front[0]
    result = run_command(searched, "prune", chosen_row["run_id"], "--out", "again.npz")
    assert result.exit_code == 0, result.stderr
    (artifacts,) = (searched / "mlruns").glob(f"*/{chosen_row['run_id']}/artifacts")
    kept = load_masks(artifacts / "masks.npz")
    second_masks = load_masks(searched / "again.npz")
    assert all((second_masks[name] == mask).all() for name, mask in kept.items()), "the mask of the trial"
    chosen_trial = forcetune.load_trial(chosen_row["run_id"], f"sqlite:///{searched}/mlflow.db").trial
    fields = {name: SMALL_STUDY["trial"][name] for name in ("dataset", "model", "width")}
    copying_fields = {**fields, "method": "magnitude", "density": chosen_trial.density}
    copying_study = {"study": "copying", "trial": {**copying_fields, "layers_from": chosen_row["run_id"]}}
    copied = run_command(searched, "prune", write_study(searched, copying_study, "copying.yaml"), "--out", "copied.npz")
    assert copied.exit_code == 0, copied.stderr
    assert {n: int(m.sum()) for n, m in load_masks(searched / "copied.npz").items()} == {
        name: int(mask.sum()) for name, mask in kept.items()
    }
    denser = run_command(searched, "prune", f"small/{chosen_row['name']}", "--density", "0.75")
    assert denser.exit_code == 0, denser.stderr
    assert "624 of 832 weights: density 75.0000%" in denser.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--model", "resnet8"], "--dataset is missing; required without FILE and RUN: --model,"),
        ([*PRUNE_ARGUMENTS, "snipp", "--density", "0.1"], "unknown method 'snipp' (did you mean 'snip'"),
        ([*PRUNE_ARGUMENTS, "snip", "--density", "0"], "trial.density: 0.0 should be greater than 0"),
        ([*PRUNE_ARGUMENTS, "snip", "--density", "0.000001"], "keeps none of the"),
        (["prune", "balanced.yaml", "--method", "grasp", "--density", "0.1"], "99 samples of every class need 99"),
        (["prune", "from_file.yaml", "--method", "snip", "--density", "0.1"], "gone.npz is not a readable mask file"),
        (["prune", "from_run.yaml", "--method", "snip", "--density", "0.1"], "masks.npz of the run " + "a" * 32),
        ([*PRUNE_ARGUMENTS, "snip", "--density", "0.1", "--out", "gone/masks.npz"], "there is no folder"),
        (
            [*PRUNE_ARGUMENTS, "snip", "--density", "0.1", "--out", "/proc/masks"],
            "/proc/masks cannot be written: No such file",
        ),
        (
            [*PRUNE_ARGUMENTS, "my_pkg.scores:bad", "--density", "0.1"],
            "my_pkg.scores:bad raised AttributeError: 'Network'",
        ),
        ([*PRUNE_ARGUMENTS, "my_pkg.scores:bad", "--density", "0.1"], "my_pkg/scores.py, line 5)"),
        (["prune", "b" * 32], "there is no run 'bbbb"),
    ],
)
def test_prune_refuses_bad_arguments(user_folder, arguments, message):
    result = run_command(user_folder, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


COMPARE_ARGUMENTS = ["compare", "compared.yaml"]


@pytest.fixture(scope="module")
def compared(user_folder, empty_mlflow):
    shutil.copy(empty_mlflow, user_folder / "mlflow.db")
    options = ["--methods", "snip,my_pkg.scores:score", "--densities", "0.3,0.0015", "--seeds", "2", "--out", "tables"]
    result = run_command(user_folder, *COMPARE_ARGUMENTS, *options)
    assert result.exit_code == 0, result.stderr
    return user_folder, options, result


def test_compare_prints_and_writes_a_table(compared):
    folder, _, result = compared
    lines = result.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(LEGEND)) - 6
    assert lines[start].split() == ["method", "70", "%", "99.85", "%"]
    names = [line.split()[0] for line in lines[start + 1 : start + 6]]
    assert names == ["snip", "my_pkg.scores:score", "random", "random_uniform", "random_erk"]
    assert all(line.count("±") == 2 for line in lines[start + 1 : start + 6])
    assert "25.0 ± 0.0 †2" in lines[start + 3], "one weight of 832 is kept: collapsed, at chance for four classes"
    files = {path.name for path in (folder / "tables").iterdir()}
    assert files == {f"compare-mlp-synthetic{ending}" for ending in (".yaml", ".csv", ".md", ".tex")}
    assert len(read_states(folder, "compare-mlp-synthetic")[0]) == 20
    assert yaml.safe_load((folder / "tables" / "compare-mlp-synthetic.yaml").read_text())["trial"]["epochs"] == 1


def test_compare_again_runs_nothing_anew(compared):
    folder, options, first = compared
    repeated = run_command(folder, *COMPARE_ARGUMENTS, *options)
    assert repeated.exit_code == 0, repeated.stderr
    assert repeated.stdout.splitlines()[-9:] == first.stdout.splitlines()[-9:]
    assert len(read_states(folder, "compare-mlp-synthetic")[0]) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--methods", "snip", "--densities", "0.3", "--out", "tables"],
            "already has another study",
        ),
        (["--methods", "snip", "--densities", "0.3,x"], "--densities 0.3,x: allowed: numbers"),
        (["--methods", "snop", "--densities", "0.3"], "unknown method 'snop'"),
        (["--methods", ",", "--densities", "0.3"], "--methods ,: allowed: names"),
        (["--methods", "snip", "--densities", "3"], "should be less than or equal to 1"),
    ],
)
def test_compare_refuses_bad_arguments(compared, options, message):
    folder, *_ = compared
    result = run_command(folder, *COMPARE_ARGUMENTS, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (folder / "compare-mlp-synthetic.yaml").exists()


CLUSTER_REFUSALS = [
    (["jobs"], {}, "no cluster is named: start one on this machine with `forcetune up`"),
    (["logs", "s-1"], {"RAY_ADDRESS": "127.0.0.1:6379"}, "jobs need the address of its dashboard"),
    (["stop", "s-1", "--address", "http://127.0.0.1:1"], {}, "no Ray cluster answers at http://127.0.0.1:1: "),
    (["resume", "s-1"], {"RAY_ADDRESS": "http://127.0.0.1:1"}, "no Ray cluster answers at http://127.0.0.1:1: "),
    (["submit", "nowhere.yaml"], {}, "nowhere.yaml"),
    (["submit", "wrong.yaml"], {}, "wrong.yaml: trial.model: unknown model 'mpl' (did you mean 'mlp'?)"),
    (["submit", "code.yaml"], {}, "code.yaml: code.0: there is no nets.py in"),
    (
        ["submit", "small.yaml"],
        {"FORCETUNE_STORAGE": "postgresql://me:mine@host/db"},
        "me:***@host/db has a password in it",
    ),
    (["submit", "small.yaml"], {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}, "do not share; allowed for a job: the"),
    (["submit", "small.yaml"], {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer"),
]


@pytest.mark.parametrize(("command", "variables", "message"), CLUSTER_REFUSALS, ids=lambda value: str(value)[:40])
def test_a_command_that_needs_a_cluster_names_what_is_missing(command, variables, message, tmp_path):
    write_study(tmp_path, SMALL_STUDY, "small.yaml")
    write_study(tmp_path, {**SMALL_STUDY, "code": ["nets.py"]}, "code.yaml")
    write_study(tmp_path, {**SMALL_STUDY, "trial": {**SMALL_STUDY["trial"], "model": "mpl"}}, "wrong.yaml")
    files = sorted(tmp_path.iterdir())
    refused = run_command(tmp_path, *command, variables=variables)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "mine" not in refused.stderr
    assert sorted(tmp_path.iterdir()) == files


def test_down_ends_nothing_where_nothing_runs(tmp_path):
    result = run_command(tmp_path, "down", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert not any(tmp_path.iterdir())
