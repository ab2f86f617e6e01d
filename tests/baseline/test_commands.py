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
        (("baseline", "s", "--seeds", "1"), "--seeds 1: trial-0000 (snip at 70.00%)"),
        (("baseline", "s", "--bands", "a,b"), "--bands a,b: allowed: numbers"),
        (("baseline", "s", "--bands", "0.9"), "--bands: 0.9; allowed: at least two rising edges"),
        (("baseline", "s", "--dense", "3", "--top", "1"), "--dense and --top exclude each other"),
        (("baseline", "s", "--dense", "3", "--margin", "0.5"), "--dense and --margin exclude each other"),
        (("baseline", "s", "--dense", "3", "--pool"), "--dense and --pool exclude each other"),
        (
            ("baseline", "s", "--dense", "3", "--collapse-margin", "0.2"),
            "--dense and --collapse-margin exclude each other",
        ),
        (("baseline", "s", "--bands", "0.9,nan"), "--bands: 0.9, nan; allowed: at least two rising edges"),
        (("baseline", "z", "--dense", "3"), "no study 'z'"),
        (("nightly", "nowhere.yaml"), "nowhere.yaml: the file cannot be read"),
        (("nightly", "nightly.yaml", "--date", "today"), "--date today: allowed: a date"),
        (("schedule", "cron", "nightly.yaml", "--at", "25:00"), "--at '25:00': allowed: a time of the day"),
        (("baseline", "s", "--bands", "0.5,nan"), "--bands: 0.5, nan; allowed: at least two rising edges"),
        (("schedule", "cron", "--install", "--remove"), "--install and --remove exclude each other"),
        (("schedule", "systemd", "nowhere.yaml"), "nowhere.yaml: the file cannot be read"),
    ],
)
def test_a_refusal_is_one_line(nightly_file, arguments, words):
    output = run_command(*arguments, code=2)
    assert words in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--margin", "nan", "nan is not a finite number"),
        ("--margin", "inf", "inf is not a finite number"),
        ("--margin", "0", "0.0 is not in the range x>0"),
        ("--collapse-margin", "nan", "nan is not a finite number"),
        ("--collapse-margin", "10", "10.0 is not in the range 0<x<1"),
    ],
)
def test_a_margin_that_is_none_is_refused(option, value, words):
    assert words in run_command("baseline", "s", option, value, code=2)


def test_plans_are_shown(nightly_file):
    options = ("--top", "1", "--bands", "0.7,0.9,1", "--dry-run")
    shown = run_command("baseline", "s", *options)
    assert "champions: trial-0000 (snip at 70.00%), trial-0005 (force at 95.00%)" in shown
    assert "10 comparisons: each champion with random_uniform, random_erk, shuffled, small_dense, tuned_random" in shown
    assert "146 runs, about 1.5 device hours" in shown
    assert "12 pairs detect a mean difference of 1.3 standard deviations of the differences or more in 80 %" in shown
    assert "the study has no runs with fresh seeds yet" in shown
    assert (
        "one arm alone collapses in at most 36 % of pairs; a tie that includes collapses needs 51 such pairs" in shown
    )
    plan = json.loads(run_command("baseline", "s", *options, "--json"))
    assert (plan["comparisons"], plan["seeds"], plan["runs"]) == (10, 12, 146)
    assert (plan["shown_difference_points"], plan["deviation_points"], plan["collapse_pairs"]) == (None, None, 51)
    assert [champion["trial"] for champion in plan["champions"]] == ["trial-0000", "trial-0005"]
    assert "needs 24 such pairs" in run_command("baseline", "s", *options, "--collapse-margin", "0.2")
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
