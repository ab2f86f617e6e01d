"""The commands as a user runs them: each in a process of its own, in an empty folder."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import date
from pathlib import Path

import optuna
import pytest
import yaml

import forcetune
from forcetune import trial
from forcetune.comparison import LEGEND
from forcetune.errors import InputError
from forcetune.pruning import load_masks
from forcetune.study import Trial
from forcetune.tracking import load_table

FORCETUNE = [sys.executable, "-c", "from forcetune.cli import main; main()"]
STUDY = {
    "study": "small",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "width": 12,
        "method": ["random", "magnitude", "snip", "force"],
        "density": {"low": 0.01, "high": 0.5, "log": True},
        "iterations": {"choices": [2, 5], "when": {"method": "force"}},
        "epochs": 2,
        "lr": {"choices": [0.1, 0.2]},
    },
    "search": {"trials": 8},
    "resources": {"concurrent": 2},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A home of its own, so that neither Ray nor MLflow meets the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))}
    root = str(Path(__file__).parents[1])
    return {**kept, "HOME": str(tmp_path_factory.mktemp("home")), "PYTHONPATH": root}


def write(folder, study, name="study.yaml"):
    (folder / name).write_text(yaml.safe_dump(study))
    return name


def run(folder, environment, *arguments):
    return subprocess.run(
        [*FORCETUNE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def counts(folder, study="small"):
    """Optuna's states and MLflow's statuses of the trials, straight from the stores."""
    trials = optuna.load_study(study_name=study, storage=f"sqlite:///{folder}/optuna.db").trials
    runs = query(folder, "select name, status from runs where name like 'trial-%'")
    return [trial.state.name for trial in trials], [status for _, status in sorted(runs)]


def query(folder, sql):
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def searched(tmp_path_factory, environment):
    """A folder in which the small study was searched."""
    folder = tmp_path_factory.mktemp("searched")
    done = run(folder, environment, "search", write(folder, STUDY))
    assert done.returncode == 0, done.stderr
    return folder, done


def test_search_prints_progress_and_the_front(searched):
    _, done = searched
    lines = done.stdout.splitlines()
    progress = [line for line in lines if " of 8 done" in line]
    assert len(progress) == 8
    assert "running, front" in progress[3]
    assert "left |" in progress[3]
    header = next(line for line in lines if line.startswith("sparsity"))
    assert header.split()[:3] == ["sparsity", "accuracy", "method"]
    assert header.split()[-5:] == ["device", "time", "trial", "run", "id"]
    assert "lr" in header.split(), "a field that varies"
    front = next(place for place, line in enumerate(lines) if line.startswith("front of 8 trials:"))
    assert lines[front + 1].startswith(("controls: ", "no control was searched"))
    assert lines[front + 2].startswith("device time: ")
    assert all(line.startswith("pruning steps reused from another density: ") for line in lines[front + 3 :])
    assert done.stderr == ""


def test_search_leaves_one_run_a_trial(searched):
    folder, _ = searched
    states, statuses = counts(folder)
    assert states == ["COMPLETE"] * 8
    assert statuses == ["FINISHED"] * 8
    left = {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}
    assert left == {"study.yaml", "mlflow.db", "mlruns", "optuna.db"}


def test_every_method_was_tried(searched):
    folder, _ = searched
    trials = optuna.load_study(study_name="small", storage=f"sqlite:///{folder}/optuna.db").trials
    assert {trial.params["method"] for trial in trials} == set(STUDY["trial"]["method"])


def test_a_run_is_trained_again_to_the_same_numbers(searched):
    folder, _ = searched
    store = f"sqlite:///{folder}/mlflow.db"
    trials = load_table("small", store)
    row = trials[trials["outcome"] == "trained"].iloc[0]
    loaded = forcetune.load_trial(f"small/{row['name']}", store)
    assert (loaded.run_id, loaded.threads) == (row["run_id"], 1)
    assert loaded == forcetune.load_trial(row["run_id"], store)
    fields = {name: row[name] for name in Trial.model_fields if name in row}
    assert loaded.trial == Trial(**{**fields, "density": loaded.trial.density}), "in a row density is the measured one"
    *_, metrics = trial.run(loaded.trial)
    assert [metrics[name] for name in ("val_accuracy", "val_loss")] == [row["val_accuracy"], row["val_loss"]]
    with pytest.raises(InputError, match=r"the study 'small' has no run 'trial-9999' \(did you mean"):
        forcetune.load_trial("small/trial-9999", store)


def test_best_as_json(searched, environment):
    folder, _ = searched
    front = json.loads(run(folder, environment, "best", "small", "--json").stdout)
    assert [row["sparsity"] for row in front] == sorted(row["sparsity"] for row in front)
    accuracies = [row["val_accuracy"] for row in front]
    assert accuracies == sorted(accuracies, reverse=True)
    for row in front:
        assert ("iterations" in row) == (row["method"] == "force")
        assert isinstance(row["epochs"], int)
        assert row["run_id"]


def test_best_filters(searched, environment):
    folder, _ = searched
    sparse = json.loads(run(folder, environment, "best", "small", "--json", "--min-sparsity", "0.9").stdout)
    assert sparse
    assert all(row["sparsity"] >= 0.9 for row in sparse)
    forced = json.loads(run(folder, environment, "best", "small", "--json", "--method", "force").stdout)
    assert {row["method"] for row in forced} == {"force"}
    none = run(folder, environment, "best", "small", "--min-accuracy", "1", "--min-sparsity", "0.9999")
    assert (none.returncode, none.stdout.split(";")[0]) == (0, "no trained trial meets these conditions")


def test_best_refuses_what_is_not_there(searched, environment, tmp_path):
    folder, _ = searched
    unknown = run(folder, environment, "best", "smal")
    assert unknown.returncode == 2
    assert "no study 'smal'" in unknown.stderr
    assert "did you mean 'small'" in unknown.stderr
    nowhere = run(tmp_path, environment, "best", "small")
    assert (nowhere.returncode, "there is no MLflow store" in nowhere.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_the_same_command_goes_on(searched, environment):
    folder, _ = searched
    write(folder, {**STUDY, "search": {"trials": 10}})
    again = run(folder, environment, "search", "study.yaml")
    assert again.returncode == 0, again.stderr
    assert counts(folder) == (["COMPLETE"] * 10, ["FINISHED"] * 10)
    changed = {**STUDY, "trial": {**STUDY["trial"], "epochs": 3}}
    refused = run(folder, environment, "search", write(folder, changed, "changed.yaml"))
    assert refused.returncode == 2
    assert "trial.epochs was 2, is now 3" in refused.stderr


def test_doctor(searched, environment):
    folder, _ = searched
    sound = run(folder, environment, "doctor", "small")
    assert (sound.returncode, sound.stdout.strip()) == (0, "Optuna, MLflow and the checkpoints agree")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("update runs set status = 'RUNNING' where name = 'trial-0003'")
    ill = run(folder, environment, "doctor", "small")
    assert ill.returncode == 1
    assert "trial 3  is COMPLETE in the ledger, but its run is RUNNING  write its run again" in ill.stdout
    mended = run(folder, environment, "doctor", "small", "--repair")
    assert mended.returncode == 0, mended.stdout
    assert mended.stdout.startswith("repaired: trial 3 is COMPLETE")
    unknown = run(folder, environment, "doctor", "smal")
    assert (unknown.returncode, "did you mean 'small'" in unknown.stderr) == (2, True)


def test_fresh_archives_what_was_there(searched, environment, tmp_path):
    folder = tmp_path / "copy"
    # by another process: one that closes a file of SQLite's lets go of its own locks on it, and others ruin the file
    subprocess.run(["cp", "-r", searched[0], folder], check=True)
    before = json.loads(run(folder, environment, "best", "small", "--json").stdout)
    changed = {**STUDY, "trial": {**STUDY["trial"], "epochs": 1}, "search": {"trials": 2}}
    fresh = run(folder, environment, "search", write(folder, changed), "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    archived = f"small.{date.today()}"
    assert archived in fresh.stdout.splitlines()[0]
    assert counts(folder)[0] == ["COMPLETE"] * 2
    kept = json.loads(run(folder, environment, "best", archived, "--json").stdout)
    assert kept == [{**row, "study": archived} for row in before]


def test_fresh_archives_nothing_where_it_is_refused(searched, environment, tmp_path):
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-r", searched[0], folder], check=True)
    before = run(folder, environment, "best", "small", "--json").stdout
    refused = run(folder, environment, "search", write(folder, {**STUDY, "resources": {"cpus": 999}}), "--fresh")
    assert (refused.returncode, refused.stderr.count("999 cpus")) == (2, 1), refused.stderr
    assert refused.stdout == ""
    assert run(folder, environment, "best", "small", "--json").stdout == before


def test_a_search_begins_with_what_is_known(searched, environment):
    folder, _ = searched
    start = [{"method": "force", "iterations": 5, "density": 0.125}, {"method": "snip"}]
    search = {"trials": 3, "start": start, "warm_start": ["small"]}
    study = write(folder, {**STUDY, "study": "begun", "search": search}, "begun.yaml")
    result = run(folder, environment, "search", study)
    assert result.returncode == 0, result.stderr
    told = len([state for state in counts(folder)[0] if state == "COMPLETE"])
    assert f"{told} of {told} trials of small fit this study" in result.stdout
    first, second, _ = optuna.load_study(study_name="begun", storage=f"sqlite:///{folder}/optuna.db").trials
    assert {**start[0], "lr": first.params["lr"]} == first.params
    assert second.params["method"] == "snip"
    unknown = write(folder, {**STUDY, "study": "new", "search": {**search, "warm_start": ["smal"]}}, "new.yaml")
    refused = run(folder, environment, "search", unknown)
    assert refused.returncode == 2
    assert "search.warm_start.0" in refused.stderr
    assert "did you mean 'small'" in refused.stderr
    assert counts(folder, "small")[0], "nothing is lost"
    assert "new" not in optuna.get_all_study_names(f"sqlite:///{folder}/optuna.db")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_is_taken_up(sent, tmp_path, environment):
    slow = {**STUDY, "trial": {**STUDY["trial"], "epochs": 400}, "search": {"trials": 3}}
    write(tmp_path, slow)
    driver = subprocess.Popen(
        [*FORCETUNE, "search", "study.yaml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell starts what it puts in the background with SIGINT ignored, and these tests may run there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _epochs_logged(tmp_path):
        time.sleep(0.2)
    driver.send_signal(sent)
    _, said = driver.communicate(timeout=60)
    assert said.decode().strip().startswith("interrupted; ")
    assert "`forcetune search study.yaml`" in said.decode()
    assert driver.returncode == 130
    assert "RUNNING" in counts(tmp_path)[0]
    done = run(tmp_path, environment, "search", "study.yaml")
    assert done.returncode == 0, done.stderr
    assert counts(tmp_path) == (["COMPLETE"] * 3, ["FINISHED"] * 3)
    repeated = "select run_uuid, key, step from metrics group by 1, 2, 3 having count(*) > 1"
    assert query(tmp_path, repeated) == []


def _epochs_logged(folder):
    if not (folder / "optuna.db").exists():
        return 0
    return query(folder, "select count(*) from metrics where key = 'val_loss'")[0][0]


BAD = {
    "a typo": ({"trial": {"densty": 0.1}}, "trial.densty"),
    "an unknown data set": ({"trial": {"dataset": "digit"}}, "unknown data set 'digit'"),
    "a missing data set": ({"trial": {"dataset": "fashion_mnist", "data_root": "nowhere"}}, "no train-images"),
    "a model that does not fit": ({"trial": {"model": "tiny:deep"}}, "does not fit samples of shape (1, 8, 8)"),
    "no prunable layer": ({"trial": {"model": "tiny:flat"}}, "no prunable layer"),
    "an unknown objective": ({"objectives": {"accuracy": "max"}}, "objectives.accuracy"),
    "a density that keeps nothing": ({"trial": {"density": 1e-9}}, "keeps none of the"),
    "cores that are not there": ({"resources": {"cpus": 4000}}, "a trial asks for 4000 cpus"),
}
TINY = """
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


@pytest.mark.parametrize("case", BAD)
def test_bad_input_starts_nothing(case, tmp_path, environment):
    changed, said = BAD[case]
    study = {**STUDY, **changed, "trial": {**STUDY["trial"], **changed.get("trial", {})}}
    (tmp_path / "tiny.py").write_text(TINY)
    before = {"study.yaml", "tiny.py"}
    command = "search" if case.startswith("cores") else "check"
    refused = run(tmp_path, environment, command, write(tmp_path, study))
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stderr.startswith("forcetune: study.yaml")
    assert len(refused.stderr.strip().splitlines()) == 1, "one paragraph, no traceback"
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == before


def test_what_a_terminal_would_obey_is_written_out(tmp_path, environment):
    place = {"dataset": "mnist", "data_root": "\x1b[2Jnowhere\0"}
    refused = run(tmp_path, environment, "check", write(tmp_path, {**STUDY, "trial": {**STUDY["trial"], **place}}))
    assert refused.returncode == 2
    assert "\\x1b[2Jnowhere\\x00" in refused.stderr
    assert refused.stderr.strip().isprintable()


def test_cores_beyond_any_machine_do_not_stop_check(tmp_path, environment):
    study = write(tmp_path, {**STUDY, "resources": {"cpus": 1e300}})
    assert run(tmp_path, environment, "check", study).returncode == 0


def test_search_refuses_as_check_does(tmp_path, environment):
    refused = run(tmp_path, environment, "search", write(tmp_path, {**STUDY, "trial": {"densty": 1}}))
    assert (refused.returncode, [path.name for path in tmp_path.iterdir()]) == (2, ["study.yaml"])


def test_an_address_for_jobs_is_refused(tmp_path, environment):
    refused = run(tmp_path, {**environment, "RAY_ADDRESS": "http://127.0.0.1:8265"}, "search", write(tmp_path, STUDY))
    assert refused.returncode == 2
    assert "`forcetune submit`" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_check_says_what_it_would_run(tmp_path, environment):
    said = run(tmp_path, environment, "check", write(tmp_path, STUDY))
    assert said.returncode == 0, said.stderr
    for part in ("8, proposed by tpe", "288 training and 32 validation", "832 prunable weights", "0.01 to 0.5, log"):
        assert part in " ".join(said.stdout.split())
    assert "about" in said.stdout.splitlines()[-1], "what it would cost"
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"study.yaml", "small.cost.json"}, "no store is opened"


def test_failed_trials_are_told(tmp_path, environment):
    doomed = {**STUDY, "trial": {**STUDY["trial"], "density": 0.3, "method": "force", "lr": [0.1, 1e30]}}
    doomed["trial"]["iterations"] = 1
    done = run(tmp_path, environment, "search", write(tmp_path, {**doomed, "search": {"sampler": "grid"}}))
    assert done.returncode == 0
    assert "1 failed: the reason is in" in done.stdout
    doomed["trial"]["lr"] = 1e30
    doomed["study"] = "all-failed"
    done = run(tmp_path, environment, "search", write(tmp_path, {**doomed, "search": {"trials": 1}}))
    assert done.returncode == 1


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a user's own network and score."""
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
    return folder


def test_check_of_a_network(own, environment):
    done = run(own, environment, "check", "my_pkg.nets:build", "--dataset", "digits")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["1.weight", "9x64", "576", "86.5%", "576"] in lines
    assert ["2", "layers", "666", "666"] in lines
    assert "never pruned: 19 biases" in done.stdout
    assert "no obstacles" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my_pkg.nets:buidl"], "has no function 'buidl' (did you mean 'build'?)"),
        (["my_pkg.nets:build", "--input", "64"], "does not fit samples of shape (64,)"),
        (["my_pkg.nets:build", "--input", "3xa"], "--input 3xa: allowed: sizes separated by x"),
        (["torchvision:mobilenet"], "unknown model 'torchvision:mobilenet'"),
        (["study.yaml", "--dataset", "digits"], "--dataset applies to a model, and 'study.yaml' is not"),
    ],
)
def test_check_of_a_network_refused(own, environment, arguments, said):
    done = run(own, environment, "check", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


PRUNE = ["prune", "--model", "resnet8", "--dataset", "synthetic", "--method"]


def test_prune(own, environment):
    done = run(own, environment, *PRUNE, "force", "--density", "0.02", "--iterations", "4", "--out", "masks.npz")
    assert done.returncode == 0, done.stderr
    masks = load_masks(own / "masks.npz")
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(total * 0.02)
    bars = [line for line in done.stdout.splitlines() if "x" in line.split()[1:2][0] if "%" in line]
    assert [line.split()[0] for line in bars] == [name.removesuffix(".weight") for name in masks]
    assert max(line.count("█") for line in bars) == 30
    assert f"kept           {int(total * 0.02):,} of {total:,} weights" in done.stdout
    assert f"masks.npz: {int(total * 0.02)} weights kept" in done.stdout
    assert not (own / "mlflow.db").exists()


def test_prune_says_that_a_network_collapsed(own, environment):
    done = run(own, environment, *PRUNE, "random", "--density", "0.0001")
    assert done.returncode == 0, done.stderr
    assert "no path of kept weights leads from input to output; layers without a weight: 0.weight" in done.stdout
    assert "empty" in done.stdout


def test_prune_a_trial_of_a_search(searched, environment):
    folder, _ = searched
    front = json.loads(run(folder, environment, "best", "small", "--json").stdout)
    chosen = front[0]
    done = run(folder, environment, "prune", "--trial", chosen["run_id"], "--out", "again.npz")
    assert done.returncode == 0, done.stderr
    (artifacts,) = (folder / "mlruns").glob(f"*/{chosen['run_id']}/artifacts")
    kept = load_masks(artifacts / "masks.npz")
    again = load_masks(folder / "again.npz")
    assert all((again[name] == mask).all() for name, mask in kept.items()), "the mask of the trial"
    copied = run(
        folder, environment, "prune", "--trial", chosen["run_id"], "--method", "magnitude",
        "--layers-from", chosen["run_id"], "--out", "copied.npz",
    )  # fmt: skip
    assert copied.returncode == 0, copied.stderr
    assert {n: int(m.sum()) for n, m in load_masks(folder / "copied.npz").items()} == {
        name: int(mask.sum()) for name, mask in kept.items()
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "--model", "resnet8"], "--dataset is missing; required: --dataset, --model, --method, --density"),
        ([*PRUNE, "snipp", "--density", "0.1"], "unknown method 'snipp' (did you mean 'snip'"),
        ([*PRUNE, "snip", "--density", "0"], "trial.density: 0.0 should be greater than 0"),
        ([*PRUNE, "snip", "--density", "0.000001"], "keeps none of the"),
        ([*PRUNE, "grasp", "--density", "0.1", "--samples-per-class", "99"], "99 samples of every class need 99"),
        ([*PRUNE, "snip", "--density", "0.1", "--layers-from", "gone.npz"], "gone.npz is not a readable mask file"),
        ([*PRUNE, "snip", "--density", "0.1", "--layers-from", "a" * 32], "masks.npz of the run " + "a" * 32),
        ([*PRUNE, "snip", "--density", "0.1", "--out", "gone/masks.npz"], "there is no folder"),
        ([*PRUNE, "snip", "--density", "0.1", "--out", "/proc/masks"], "/proc/masks cannot be written: No such file"),
        (
            [*PRUNE, "my_pkg.scores:bad", "--density", "0.1"],
            "my_pkg.scores:bad raised AttributeError: 'Network'",
        ),
        ([*PRUNE, "my_pkg.scores:bad", "--density", "0.1"], "my_pkg/scores.py, line 5)"),
        (["prune", "--trial", "b" * 32], "there is no run 'bbbb"),
    ],
)
def test_prune_refused(own, environment, arguments, said):
    done = run(own, environment, *arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


COMPARE = ["compare", "--model", "mlp", "--width", "12", "--dataset", "synthetic", "--epochs", "1"]


@pytest.fixture(scope="module")
def compared(own, environment):
    options = ["--methods", "snip,my_pkg.scores:score", "--densities", "0.3,0.0015", "--seeds", "2", "--out", "tables"]
    done = run(own, environment, *COMPARE, *options)
    assert done.returncode == 0, done.stderr
    return own, options, done


def test_compare(compared):
    folder, _, done = compared
    lines = done.stdout.splitlines()
    start = lines.index(LEGEND) - 6
    assert lines[start].split() == ["method", "70", "%", "99.85", "%"]
    names = [line.split()[0] for line in lines[start + 1 : start + 6]]
    assert names == ["snip", "my_pkg.scores:score", "random", "random_uniform", "random_erk"]
    assert all(line.count("±") == 2 for line in lines[start + 1 : start + 6])
    assert "25.0 ± 0.0 †2" in lines[start + 3], "one weight of 832: collapsed, at the chance of four classes"
    left = {path.name for path in (folder / "tables").iterdir()}
    assert left == {f"compare-mlp-synthetic{ending}" for ending in (".yaml", ".csv", ".md", ".tex")}
    assert len(counts(folder, "compare-mlp-synthetic")[0]) == 20
    assert yaml.safe_load((folder / "tables" / "compare-mlp-synthetic.yaml").read_text())["trial"]["epochs"] == 1


def test_compare_again_runs_nothing_anew(compared, environment):
    folder, options, first = compared
    again = run(folder, environment, *COMPARE, *options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-9:] == first.stdout.splitlines()[-9:]
    assert len(counts(folder, "compare-mlp-synthetic")[0]) == 20


@pytest.mark.parametrize(
    ("options", "said"),
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
def test_compare_refused(compared, environment, options, said):
    folder, *_ = compared
    done = run(folder, environment, *COMPARE, *options)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not (folder / "compare-mlp-synthetic.yaml").exists()


def test_compare_needs_a_model(own, environment):
    done = run(own, environment, "compare", "--dataset", "digits", "--methods", "snip", "--densities", "0.1")
    assert done.returncode == 2
    assert "--model is missing; required: --model, --dataset" in done.stderr


CLUSTERS = [
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


@pytest.mark.parametrize(("command", "variables", "said"), CLUSTERS, ids=lambda part: str(part)[:40])
def test_what_needs_a_cluster_says_what_is_missing(command, variables, said, tmp_path, environment):
    write(tmp_path, STUDY, "small.yaml")
    write(tmp_path, {**STUDY, "code": ["nets.py"]}, "code.yaml")
    write(tmp_path, {**STUDY, "trial": {**STUDY["trial"], "model": "mpl"}}, "wrong.yaml")
    there = sorted(tmp_path.iterdir())
    refused = run(tmp_path, {**environment, **variables}, *command)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "mine" not in refused.stderr
    assert sorted(tmp_path.iterdir()) == there


def test_down_where_nothing_runs(tmp_path, environment):
    ended = run(tmp_path, environment, "down", "--json")
    assert (ended.returncode, json.loads(ended.stdout)) == (0, [])
    assert not any(tmp_path.iterdir())
