"""Nights as real processes: a saliency that breaks between two nights, and a night that is killed."""

import json
import re

import pytest
from processes import SCORES_PY, wait_until
from promise import check_promise

from forcetune import tracking
from forcetune.baseline.nightly import NIGHTLY_EXPERIMENT
from forcetune.ledger.trials import load_trials

pytestmark = pytest.mark.long


def make_night_command(day):
    return "nightly", "nightly.yaml", "--date", f"2026-11-{day:02}"


def run_nights(study, *days):
    """Run the nights of these days, and return their exit codes."""
    return [study.start(*make_night_command(day)).wait() for day in days]


def get_stores(study):
    return study.ledger, f"sqlite:///{study.folder}/mlflow.db"


def test_a_saliency_that_breaks_gives_alarm(study_copy):
    (study_copy.folder / "scores.py").write_text(SCORES_PY.format(sign="-"))
    third = study_copy.start(*make_night_command(3))
    assert third.wait() == 3, third.output
    assert re.search("ALARM: s: sentinels, the arm champion: .* 2 of 2 ", third.output)
    assert "the arm random_erk" not in third.output, "random pruning has no saliency"
    assert "sentinels, the arm champion" in (study_copy.folder / "told").read_text()
    assert 'role="alert"' in (study_copy.folder / "nightly.html").read_text()
    status = study_copy.start("schedule", "status")
    assert status.wait() == 0, status.output
    assert "last night of nightly: 2026-11-03, alarm" in status.output


def test_a_killed_night_is_completed_and_runs_nothing_twice(study_copy):
    ledger, mlflow = get_stores(study_copy)
    before = len(load_trials("s.companion", ledger))
    killed = study_copy.start(*make_night_command(3))
    wait_until(lambda: count_finished(load_trials("s.companion", ledger)) > before + 1, "runs of the night")
    killed.kill()
    assert count_finished(load_trials("s.companion", ledger)) < count_planned_runs(mlflow, "2026-11-03") + before, (
        "the night was killed before its end"
    )
    second_try = study_copy.start(*make_night_command(3))
    assert second_try.wait() == 0, second_try.output
    rows = check_promise("s.companion", before + count_planned_runs(mlflow, "2026-11-03"), ledger, mlflow)
    assert rows["test_accuracy"].notna().all()
    assert run_nights(study_copy, 3) == [0]
    assert len(load_trials("s.companion", ledger)) == len(rows), "there was nothing left to do"
    assert run_nights(study_copy, 4) == [0]
    assert not (study_copy.folder / "told").exists(), "four nights without alarm"


def count_finished(trials):
    return sum(trial.state.is_finished() for trial in trials)


def count_planned_runs(mlflow, date):
    """Return the number of runs in the plan of a night."""
    (run,) = [
        run for run in tracking.load_runs(NIGHTLY_EXPERIMENT, mlflow) if run["tags"].get("forcetune.night") == date
    ]
    return sum(len(share["companions"]) for share in tracking.read_json(run["id"], "plan.json", mlflow))


def test_a_baseline_has_a_verdict_on_the_runs_of_the_nights(study_copy):
    baseline = study_copy.start("baseline", "s", "--top", "1", "--bands", "0.5,1", "--seeds", "8", "--json")
    assert baseline.wait() == 0, baseline.output
    rows = json.loads(baseline.output[baseline.output.index("[\n") :])  # after the lines about runs that are missing
    assert {row["against"] for row in rows} == {
        "random_uniform",
        "random_erk",
        "shuffled",
        "small_dense",
        "tuned_random",
    }
    assert {row["pairs"] for row in rows} == {8}, "as few as five comparisons that are judged together can do with"
    complete = [row for row in rows if row["live_pairs"] == 8]  # a run of a control may collapse: it is no live pair
    assert complete
    assert all(row["least_p"] * len(rows) <= 0.045 for row in complete)
    too_few = study_copy.start("baseline", "s", "--top", "1", "--bands", "0.5,1", "--seeds", "7")
    assert too_few.wait() == 2
    assert "at least 8 pairs" in too_few.output
