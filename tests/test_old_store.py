"""Stores that an earlier version left: this one reads, continues and repairs them.

tests/data/make_store.py made each archive with the version that its name says. MLflow keeps absolute addresses of
artifacts, so a test unpacks the archive in a folder of its own and writes that folder's name into mlflow.db.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from promise import check_promise

from forcetune import tracking
from forcetune.cli import main
from forcetune.stores import mlflow_uri

ARCHIVES = sorted((Path(__file__).parent / "data").glob("store-*.tar.xz"))
MADE_IN = "/tmp/forcetune-old-store"
COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def store(request, tmp_path, monkeypatch):
    """The current folder, with the stores of an earlier version in it."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        for table, column in COLUMNS:
            connection.execute(f"update {table} set {column} = replace({column}, ?, ?)", (MADE_IN, str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE", "FORCETUNE_STATE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def told(*command, code=0):
    """What a command prints that is run in this process."""
    ended = CliRunner().invoke(main, [*command])
    assert ended.exit_code == code, ended.output + repr(ended.exception)
    return ended.stdout


def search(*command):
    """Run a command that starts Ray, in a process of its own; what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    code = "from forcetune.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_it_is_read(store):
    front = json.loads(told("best", "whole", "--json"))
    assert len(front) == 4
    assert json.loads(told("best", "cut", "--json")), "trials of a search that was interrupted"
    assert "agree" in told("doctor", "whole")
    assert "agree" in told("doctor", "cut")
    assert len(tracking.load_reruns("whole")) > 0


def test_its_baseline_and_nights_are_read(store):
    champions = ("--top", "1", "--bands", "0.5,0.9,1")
    planned = json.loads(told("baseline", "whole", *champions, "--seeds", "2", "--dry-run", "--json"))
    assert planned["runs"] == 8, "of four pairs all twins were run; the rival that is tuned with random_erk is new"
    nights = json.loads(told("schedule", "status", "--json"))["last"]
    assert (nights["nightly"]["night"], nights["nightly"]["outcome"]) == ("2026-11-02", "quiet")
    assert {row["pairs"] for row in nights["nightly"]["verdicts"]} == {4}
    (share,) = json.loads(told("nightly", "nightly.yaml", "--date", "2026-11-03", "--dry-run", "--json"))
    assert share["companions"]


@pytest.mark.long
def test_its_interrupted_search_goes_on(store):
    (store / "hurry").touch()
    before = tracking.load_table("cut").set_index("trial")
    (interrupted,) = before.index[before["status"] == "RUNNING"]
    search("search", "cut.yaml")
    rows = check_promise("cut", 4).set_index("trial")
    assert set(rows["outcome"]) == {"trained"}
    assert rows.loc[interrupted, "run_id"] == before.loc[interrupted, "run_id"]
    assert rows.loc[before.index, "started"].equals(before["started"])
    first = {row["step"]: row["time"] for row in curve(before.loc[interrupted, "run_id"])}
    assert first[1] < rows.loc[interrupted, "ended"] - 60_000, "its first epoch is that of the earlier version"
    assert [path.name for path in (store / ".forcetune").glob("*")] == []


@pytest.mark.long
def test_its_damages_are_repaired(store):
    client = tracking.Tracker("whole", mlflow_uri()).client
    rows = tracking.load_table("whole").set_index("name")
    client.delete_run(rows.loc["trial-0000", "run_id"])
    client.log_metric(rows.loc["trial-0001", "run_id"], "val_loss", 0.3, timestamp=1, step=1)
    told("doctor", "whole", code=1)
    told("doctor", "whole", "--repair", code=1)  # masks.npz of a run that was deleted is lost
    assert told("doctor", "whole", code=1).count("without masks.npz") == 1
    check_promise("whole", 10)


def curve(run):
    """Steps and times of a run's validation accuracy."""
    history = tracking.Tracker("cut", mlflow_uri()).client.get_metric_history(run, "val_accuracy")
    return [{"step": entry.step, "time": entry.timestamp} for entry in history]
