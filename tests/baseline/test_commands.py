"""Commands for baselines and nights that need no run: refusals, plans, schedules."""

import json

import pytest
from click.testing import CliRunner

from forcetune.cli import main

DEFAULT_NIGHTLY_YAML = "studies: [s]\nbands: [0.7, 0.9, 1]\n"


def run_command(*arguments, code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def nightly_file(folder, search_study):
    search_study()
    (folder / "nightly.yaml").write_text(DEFAULT_NIGHTLY_YAML)
    return folder / "nightly.yaml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("baseline", "z"), "no study 'z'"),
        (("baseline", "s", "--seeds", "1"), "--seeds 1: one pair"),
        (("baseline", "s", "--bands", "a,b"), "--bands a,b: allowed: numbers"),
        (("baseline", "s", "--bands", "0.9"), "--bands: 0.9; allowed: at least two rising edges"),
        (("baseline", "s", "--dense", "3", "--top", "1"), "--dense and --top exclude each other"),
        (("baseline", "s", "--dense", "3", "--margin", "0.5"), "--dense and --margin exclude each other"),
        (("baseline", "s", "--dense", "3", "--pool"), "--dense and --pool exclude each other"),
        (("baseline", "z", "--dense", "3"), "no study 'z'"),
        (("nightly", "nowhere.yaml"), "nowhere.yaml: the file cannot be read"),
        (("nightly", "nightly.yaml", "--date", "today"), "--date today: allowed: a date"),
        (("schedule", "cron", "nightly.yaml", "--at", "25:00"), "--at '25:00': allowed: a time of the day"),
        (("schedule", "systemd", "nowhere.yaml"), "nowhere.yaml: the file cannot be read"),
    ],
)
def test_a_refusal_is_one_line(nightly_file, arguments, words):
    output = run_command(*arguments, code=2)
    assert words in output
    assert output.count("\n") == 1


def test_plans_are_shown(nightly_file):
    options = ("--top", "1", "--bands", "0.7,0.9,1", "--dry-run")
    shown = run_command("baseline", "s", *options)
    assert "champions: trial-0000 (snip at 70.00%), trial-0005 (force at 95.00%)" in shown
    assert "10 comparisons: each champion with random_uniform, random_erk, shuffled, small_dense, tuned_random" in shown
    assert "146 runs, about 1.5 device hours" in shown
    assert "12 pairs detect a mean difference of 1.3 standard deviations" in shown
    plan = json.loads(run_command("baseline", "s", *options, "--json"))
    assert (plan["comparisons"], plan["seeds"], plan["runs"]) == (10, 12, 146)
    assert [champion["trial"] for champion in plan["champions"]] == ["trial-0000", "trial-0005"]
    assert run_command("nightly", "nightly.yaml", "--dry-run").split()[:6] == [
        "study",
        "runs",
        "device",
        "hours",
        "s",
        "26",
    ]


def test_schedules_are_shown(nightly_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # a folder without `crontab`
    line = run_command("schedule", "cron", "nightly.yaml", "--at", "03:30")
    assert line.startswith("30 3 * * * cd ")
    assert line.endswith("\n")
    assert "nightly.timer" in run_command("schedule", "systemd", "nightly.yaml", "--out", "units")
    assert {path.suffix for path in (tmp_path / "units").iterdir()} == {".service", ".timer"}
    assert "kind: CronJob" in run_command("schedule", "kubernetes", "nightly.yaml", "--image", "mine")
    status = run_command("schedule", "status")
    assert "the program `crontab` cannot be started" in status
    assert "MLflow has no night yet" in status
    assert json.loads(run_command("schedule", "status", "--json").split("\n", 1)[1]) == {"next": {}, "last": {}}
