"""Stores of an earlier version, which this version reads, continues and repairs.

tests/data/make_store.py made each archive with the version that is in its name. MLflow keeps absolute addresses of
artifacts, so a test unpacks the archive in a folder of its own and writes that folder's name into mlflow.db.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from copied_stores import move_artifacts
from promise import check_promise

from forcetune import tracking
from forcetune.cli import main
from forcetune.stores import mlflow_uri

ARCHIVES = sorted((Path(__file__).parent / "data").glob("store-*.tar.xz"))
ORIGINAL_FOLDER = "/tmp/forcetune-old-store"


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def store(request, tmp_path, monkeypatch):
    """Unpack the stores of an earlier version in the current folder, and return the folder."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    move_artifacts(tmp_path, ORIGINAL_FOLDER)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE", "FORCETUNE_STATE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run_in_process(*command, code=0):
    """Run a command in this process, and return its output."""
    result = CliRunner().invoke(main, [*command])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout


def run_separately(*command):
    """Run a command that starts Ray in a separate process, and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    code = "from forcetune.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_stores_are_read(store):
    front = json.loads(run_in_process("best", "whole", "--json"))
    assert len(front) == 4
    assert json.loads(run_in_process("best", "cut", "--json")), "an interrupted search has trials"
    assert "agree" in run_in_process("doctor", "whole")
    assert "agree" in run_in_process("doctor", "cut")
    assert len(tracking.load_reruns("whole")) > 0


def test_the_baseline_and_the_nights_are_read(store):
    champions = ("--top", "1", "--bands", "0.5,0.9,1")
    planned = json.loads(run_in_process("baseline", "whole", *champions, "--seeds", "9", "--dry-run", "--json"))
    assert planned["runs"] == 4 + 9 * 2 + 5 * 10, (
        "all twins of four pairs have run, five pairs of five arms are left; the rival that is tuned with random_erk "
        "is new, and needs four runs of tuning"
    )
    nights = json.loads(run_in_process("schedule", "status", "--json"))["last"]
    assert (nights["nightly"]["night"], nights["nightly"]["outcome"]) == ("2026-11-02", "quiet")
    assert {row["pairs"] for row in nights["nightly"]["verdicts"]} == {4}
    (night_plan,) = json.loads(run_in_process("nightly", "nightly.yaml", "--date", "2026-11-03", "--dry-run", "--json"))
    assert night_plan["companions"]


@pytest.mark.long
def test_the_interrupted_search_continues(store):
    (store / "hurry").touch()
    before = tracking.load_table("cut").trials.set_index("trial")
    (interrupted,) = before.index[before["status"] == "RUNNING"]
    run_separately("search", "cut.yaml")
    rows = check_promise("cut", 4).set_index("trial")
    assert set(rows["outcome"]) == {"trained"}
    assert rows.loc[interrupted, "run_id"] == before.loc[interrupted, "run_id"]
    assert rows.loc[before.index, "started"].equals(before["started"])
    first = {row["step"]: row["time"] for row in read_curve(before.loc[interrupted, "run_id"])}
    assert first[1] < rows.loc[interrupted, "ended"] - 60_000, "the earlier version trained the first epoch"
    assert [path.name for path in (store / ".forcetune").glob("*")] == []


@pytest.mark.long
def test_damage_in_the_stores_is_repaired(store):
    client = tracking.Tracker("whole", mlflow_uri()).client
    rows = tracking.load_table("whole").trials.set_index("name")
    client.delete_run(rows.loc["trial-0000", "run_id"])
    client.log_metric(rows.loc["trial-0001", "run_id"], "val_loss", 0.3, timestamp=1, step=1)
    run_in_process("doctor", "whole", code=1)
    run_in_process("doctor", "whole", "--repair", code=1)  # masks.npz of a deleted run is lost
    assert run_in_process("doctor", "whole", code=1).count("without masks.npz") == 1
    check_promise("whole", 10)


def read_curve(run):
    """Return the steps and times at which a run logged its validation accuracy."""
    history = tracking.Tracker("cut", mlflow_uri()).client.get_metric_history(run, "val_accuracy")
    return [{"step": entry.step, "time": entry.timestamp} for entry in history]
