"""Commands in processes of their own, as a user starts them: a search with its Ray, and its interrupts."""

import shutil
import signal
import subprocess
import time

import optuna
import pytest
from commands import make_environment, query, read_states, run_command, run_process, write_study
from shared_constants import FORCETUNE_COMMAND, SMALL_STUDY

import forcetune
from forcetune import trial
from forcetune.errors import InputError
from forcetune.study import Trial
from forcetune.tracking import load_table

OWN_METHOD = "my_scores:score"
PROCESS_STUDY = {**SMALL_STUDY, "trial": {**SMALL_STUDY["trial"], "method": ["random", OWN_METHOD, "snip", "force"]}}
SCORES_CODE = "def score(net):\n    return {name: weight.abs() for name, weight in net.weights.items()}\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def small_search(tmp_path_factory, environment):
    """Search the small study, and return its folder and the result of the command."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "my_scores.py").write_text(SCORES_CODE)
    result = run_process(folder, environment, "search", write_study(folder, PROCESS_STUDY))
    assert result.returncode == 0, result.stderr
    return folder, result


def test_search_prints_progress_and_the_front(small_search):
    _, result = small_search
    lines = result.stdout.splitlines()
    progress = [line for line in lines if " of 8 done" in line]
    assert len(progress) == 8
    assert "running, front" in progress[3]
    assert "left |" in progress[3]
    header = next(line for line in lines if line.startswith("sparsity"))
    assert header.split()[:3] == ["sparsity", "accuracy", "method"]
    assert header.split()[-5:] == ["device", "time", "trial", "run", "id"]
    assert "lr" in header.split(), "a varied field has a column"
    front_index = next(index for index, line in enumerate(lines) if line.startswith("front of 8 trials:"))
    assert lines[front_index + 1].startswith(("controls: ", "no control was searched"))
    assert lines[front_index + 2].startswith("device time: ")
    assert all(line.startswith("pruning steps reused from another density: ") for line in lines[front_index + 3 :])
    assert result.stderr == ""


def test_search_leaves_one_run_a_trial(small_search):
    folder, _ = small_search
    states, statuses = read_states(folder)
    assert states == ["COMPLETE"] * 8
    assert statuses == ["FINISHED"] * 8
    files = {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}
    assert files - {"__pycache__"} == {"study.yaml", "my_scores.py", "mlflow.db", "mlruns", "optuna.db"}


def test_every_method_was_tried(small_search):
    folder, _ = small_search
    trials = optuna.load_study(study_name="small", storage=f"sqlite:///{folder}/optuna.db").trials
    assert {trial.params["method"] for trial in trials} == set(PROCESS_STUDY["trial"]["method"])


def test_a_run_is_trained_again_to_the_same_numbers(small_search):
    folder, _ = small_search
    store = f"sqlite:///{folder}/mlflow.db"
    trials = load_table("small", store).trials
    row = trials[(trials["outcome"] == "trained") & (trials["method"] != OWN_METHOD)].iloc[0]
    loaded = forcetune.load_trial(f"small/{row['name']}", store)
    assert (loaded.run_id, loaded.threads) == (row["run_id"], 1)
    assert loaded == forcetune.load_trial(row["run_id"], store)
    fields = {name: row[name] for name in Trial.model_fields if name in row}
    assert loaded.trial == Trial(**{**fields, "density": loaded.trial.density}), (
        "the density in a row is the measured density"
    )
    *_, metrics = trial.run(loaded.trial)
    assert [metrics[name] for name in ("val_accuracy", "val_loss")] == [row["val_accuracy"], row["val_loss"]]
    with pytest.raises(InputError, match=r"the study 'small' has no run 'trial-9999' \(did you mean"):
        forcetune.load_trial("small/trial-9999", store)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_is_taken_up(signal_number, tmp_path, environment, empty_mlflow):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    slow_fields = {"method": ["random", "snip", "force"], "epochs": 200}
    write_study(
        tmp_path, {**PROCESS_STUDY, "trial": {**PROCESS_STUDY["trial"], **slow_fields}, "search": {"trials": 3}}
    )
    driver = subprocess.Popen(
        [*FORCETUNE_COMMAND, "search", "study.yaml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background processes with SIGINT ignored, and these tests may be one of them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _count_logged_epochs(tmp_path):
        time.sleep(0.2)
    assert _count_logged_epochs(tmp_path), "the search has not begun to train"
    driver.send_signal(signal_number)
    _, stderr = driver.communicate(timeout=60)
    assert stderr.decode().strip().startswith("interrupted; ")
    assert "`forcetune search study.yaml`" in stderr.decode()
    assert driver.returncode == 130
    assert "RUNNING" in read_states(tmp_path)[0]
    if signal_number == signal.SIGINT:
        result = run_process(tmp_path, environment, "search", "study.yaml")
        assert result.returncode == 0, result.stderr
    else:
        result = run_command(tmp_path, "search", "study.yaml")
        assert result.exit_code == 0, result.stderr
    assert read_states(tmp_path) == (["COMPLETE"] * 3, ["FINISHED"] * 3)
    repeated = "select run_uuid, key, step from metrics group by 1, 2, 3 having count(*) > 1"
    assert query(tmp_path, repeated) == []


def _count_logged_epochs(folder):
    if not (folder / "optuna.db").exists():
        return 0
    return query(folder, "select count(*) from metrics where key = 'val_loss'")[0][0]
