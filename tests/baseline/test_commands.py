"""The commands, as far as they can be refused, planned and shown without a run."""

import json

import pytest
from click.testing import CliRunner

from forcetune.cli import main

FILE = "studies: [s]\nbands: [0.7, 0.9, 1]\n"


def said(*arguments, code=0):
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == code, found.output
    return found.output


@pytest.fixture
def file(folder, searched):
    searched()
    (folder / "nightly.yaml").write_text(FILE)
    return folder / "nightly.yaml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("baseline", "z"), "no study 'z'"),
        (("baseline", "s", "--seeds", "1"), "--seeds 1: one pair"),
        (("baseline", "s", "--bands", "a,b"), "--bands a,b: allowed: numbers"),
        (("baseline", "s", "--bands", "0.9"), "--bands: 0.9; allowed: at least two rising edges"),
        (("nightly", "nowhere.yaml"), "nowhere.yaml: the file cannot be read"),
        (("nightly", "nightly.yaml", "--date", "today"), "--date today: allowed: a date"),
        (("schedule", "cron", "nightly.yaml", "--at", "25:00"), "--at '25:00': allowed: a time of the day"),
        (("schedule", "systemd", "nowhere.yaml"), "nowhere.yaml: the file cannot be read"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(file, arguments, words):
    told = said(*arguments, code=2)
    assert words in told
    assert told.count("\n") == 1


def test_plans_are_shown(file):
    options = ("--top", "1", "--bands", "0.7,0.9,1", "--dry-run")
    shown = said("baseline", "s", *options)
    assert "champions: trial-0000 (snip at 70.00%), trial-0005 (force at 95.00%)" in shown
    assert "10 comparisons: each champion with random_uniform, random_erk, shuffled, small_dense, tuned_random" in shown
    assert "146 runs, about 1.5 device hours" in shown
    assert "12 pairs detect a mean difference of 1.3 standard deviations" in shown
    plan = json.loads(said("baseline", "s", *options, "--json"))
    assert (plan["comparisons"], plan["seeds"], plan["runs"]) == (10, 12, 146)
    assert [one["trial"] for one in plan["champions"]] == ["trial-0000", "trial-0005"]
    assert said("nightly", "nightly.yaml", "--dry-run").split()[:6] == ["study", "runs", "device", "hours", "s", "26"]


def test_schedules_are_shown(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no crontab
    line = said("schedule", "cron", "nightly.yaml", "--at", "03:30")
    assert line.startswith("30 3 * * * cd ")
    assert line.endswith("\n")
    assert "nightly.timer" in said("schedule", "systemd", "nightly.yaml", "--out", "units")
    assert {path.suffix for path in (tmp_path / "units").iterdir()} == {".service", ".timer"}
    assert "kind: CronJob" in said("schedule", "kubernetes", "nightly.yaml", "--image", "mine")
    status = said("schedule", "status")
    assert "the program `crontab` cannot be started" in status
    assert "MLflow has no night yet" in status
    assert json.loads(said("schedule", "status", "--json").split("\n", 1)[1]) == {"next": {}, "last": {}}
