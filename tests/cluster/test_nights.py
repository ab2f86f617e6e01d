"""Nights as real processes: a saliency that breaks between two of them, and a night that is killed."""

import json

import pytest
from processes import SCORES, until
from promise import check_promise

from forcetune import tracking
from forcetune.baseline.nightly import EXPERIMENT
from forcetune.search.ledger import trials_of

pytestmark = pytest.mark.long


def night(day):
    return "nightly", "nightly.yaml", "--date", f"2026-11-{day:02}"


def codes(study, *days):
    """The exit codes of these nights."""
    return [study.start(*night(day)).wait() for day in days]


def stores(study):
    return study.ledger, f"sqlite:///{study.folder}/mlflow.db"


def test_a_saliency_that_breaks_gives_alarm(branch):
    (branch.folder / "scores.py").write_text(SCORES.format(sign="-"))
    third = branch.start(*night(3))
    assert third.wait() == 3, third.said
    assert "ALARM: s: sentinels, the arm champion: left their own history, 2 of 2 changed" in third.said
    assert "the arm random_erk" not in third.said, "no saliency touches it"
    assert "sentinels, the arm champion" in (branch.folder / "told").read_text()
    assert 'role="alert"' in (branch.folder / "nightly.html").read_text()
    status = branch.start("schedule", "status")
    assert status.wait() == 0, status.said
    assert "last night of nightly: 2026-11-03, alarm" in status.said


def test_a_night_that_is_killed_ends_complete_with_nothing_run_twice(branch):
    ledger, mlflow = stores(branch)
    before = len(trials_of("s.companion", ledger))
    killed = branch.start(*night(3))
    until(lambda: told(trials_of("s.companion", ledger)) > before + 1, "runs of the night")
    killed.kill()
    assert told(trials_of("s.companion", ledger)) < planned(mlflow, "2026-11-03") + before, "it was not through"
    again = branch.start(*night(3))
    assert again.wait() == 0, again.said
    rows = check_promise("s.companion", before + planned(mlflow, "2026-11-03"), ledger, mlflow)
    assert rows["test_accuracy"].notna().all()
    assert codes(branch, 3) == [0]
    assert len(trials_of("s.companion", ledger)) == len(rows), "there was nothing left to do"
    assert codes(branch, 4) == [0]
    assert not (branch.folder / "told").exists(), "four nights without alarm"


def told(trials):
    return sum(trial.state.is_finished() for trial in trials)


def planned(mlflow, date):
    """How many runs the plan of a night has."""
    (run,) = [run for run in tracking.runs(EXPERIMENT, mlflow) if run["tags"].get("forcetune.night") == date]
    return sum(len(share["companions"]) for share in tracking.read_json(run["id"], "plan.json", mlflow))


def test_a_baseline_says_what_the_nights_found(branch):
    asked = branch.start("baseline", "s", "--top", "1", "--bands", "0.5,1", "--seeds", "2", "--json")
    assert asked.wait() == 0, asked.said
    rows = json.loads(asked.said[asked.said.index("[\n") :])  # behind what is said of the runs that are missing
    assert {row["against"] for row in rows} == {
        "random_uniform",
        "random_erk",
        "shuffled",
        "small_dense",
        "tuned_random",
    }
    assert {row["pairs"] for row in rows} == {2}
    assert {row["verdict"] for row in rows} == {"undecided"}, "two pairs allow no other"
