"""Sentinels: what is compared, which runs are skipped, and what changed on the night of a drift."""

import numpy as np
import pandas as pd
import pytest

from forcetune import tracking
from forcetune.baseline.findings import Findings, _describe_sentinel_alarms
from forcetune.baseline.sentinels import describe_provenance_changes, watch_sentinels

NIGHTS = [f"2026-{month:02}-{day:02}" for month in (10, 11) for day in range(1, 31)]


def make_table(losses, arm="champion", accuracies=None):
    """Return the rows of sentinels from losses of shape (nights, runs); NaN where a run failed."""
    rows = []
    for night, values in zip(NIGHTS, losses, strict=False):
        for run, loss in enumerate(values):
            has_failed = np.isnan(loss)
            rows.append(
                {
                    "trial": f"{run:016x}@{night}",
                    "of": "champion key",
                    "again": night,
                    "arm": arm,
                    "outcome": "failed" if has_failed else "trained",
                    "reason": "it broke" if has_failed else None,
                    "val_loss": loss,
                    "test_accuracy": np.nan if has_failed else (0.9 if accuracies is None else accuracies(night)),
                }
            )
    return pd.DataFrame(rows)


def draw_losses(nights, runs=2, deviation=0.01, seed=0):
    return 0.5 + deviation * np.random.default_rng(seed).standard_normal((nights, runs))


def watch(table, night):
    (arm_watch,) = watch_sentinels("s", table, "", night, arm_count=2)
    return arm_watch


@pytest.mark.parametrize("infinity", [np.inf, np.finfo(float).max])
def test_an_infinite_loss_is_reported_and_skipped(infinity):
    """Watch a run whose loss is infinite on two of twelve nights, as MLflow keeps it too."""
    losses = draw_losses(12)
    losses[[8, 9], 0] = infinity
    table = make_table(losses)
    for night in (8, 9):
        seen = watch(table[table["again"] <= NIGHTS[night]], NIGHTS[night])
        assert seen.failure_reasons == ["its validation loss is infinite"]
        assert (seen.drift.runs, seen.drift.alarm) == (1, False)
    last = watch(table, NIGHTS[11])
    assert (last.measure, last.failure_reasons, last.drift.runs, last.drift.alarm) == ("val_loss", [], 2, False)
    assert np.isfinite([last.drift.shift, last.drift.p]).all()


def test_a_failed_run_leaves_the_loss_the_measure():
    losses = draw_losses(50)
    losses[20, 0] = np.nan
    losses[40:] += 0.05
    table = make_table(losses, accuracies=lambda night: 0.9 - 0.02 * (night >= NIGHTS[40]))
    assert watch(table[table["again"] <= NIGHTS[20]], NIGHTS[20]).failure_reasons == ["it broke"]
    before = watch(table[table["again"] < NIGHTS[40]], NIGHTS[39])
    assert (before.measure, before.since, list(before.failure_reasons)) == ("val_loss", None, [])
    alarms = [watch(table[table["again"] <= night], night) for night in NIGHTS[40:47]]
    first = next(alarm for alarm in alarms if alarm.since)
    assert first.since == NIGHTS[40]
    assert first.drift.shift == pytest.approx(0.05, abs=0.01)
    assert first.shift == pytest.approx(-2)


def test_a_partial_loss_of_a_failed_run_does_not_count():
    table = make_table(draw_losses(30))
    is_failed = table["again"] == NIGHTS[29]
    table.loc[is_failed, ["outcome", "reason", "val_loss"]] = ["failed", "Diverged: the loss is inf", 900.0]
    last = watch(table, NIGHTS[29])
    assert (last.drift.runs, last.since) == (0, None)
    assert len(last.failure_reasons) == 2


def test_a_run_without_a_loss_is_judged_by_its_accuracy():
    table = make_table(draw_losses(30), accuracies=lambda night: 0.9 if night < NIGHTS[29] else 0.8)
    last = watch(table.drop(columns="val_loss"), NIGHTS[29])
    assert (last.measure, last.since, last.shift) == ("test_accuracy", NIGHTS[29], pytest.approx(-10))


def test_a_run_that_collapses_unlike_before_is_reported():
    table = make_table(draw_losses(30))
    is_last = (table["again"] == NIGHTS[29]) & table["trial"].str.startswith("0000000000000000")
    table.loc[is_last, ["outcome", "reason", "val_loss"]] = ["collapsed", "the mask cuts the network", np.nan]
    assert watch(table, NIGHTS[29]).failure_reasons == ["it collapsed: the mask cuts the network"]
    earlier = table["trial"].str.startswith("0000000000000000")
    table.loc[earlier, "outcome"] = "collapsed"
    assert watch(table, NIGHTS[29]).failure_reasons == []


def test_a_night_without_sentinels_gives_no_alarm():
    last = watch(make_table(draw_losses(5)), NIGHTS[7])
    assert (last.drift.runs, last.since, list(last.failure_reasons)) == (0, None, [])
    assert np.isnan(last.shift)
    assert list(last.accuracies.columns) == [*NIGHTS[:5], NIGHTS[7]]


@pytest.fixture
def tagged_nights(monkeypatch):
    """Make three nights of which the second has another torch, commit, driver and data set."""
    before = {"forcetune.version": "1", "forcetune.torch": "2.14", "mlflow.source.git.commit": "a" * 40}
    changed = {
        **before,
        "forcetune.torch": "2.15",
        "mlflow.source.git.commit": "b" * 40,
        "forcetune.driver": "570.86",
        "forcetune.data": "f00d",
    }
    before |= {"forcetune.driver": "560.35", "forcetune.data": "cafe"}
    tags = [
        {**night_tags, "forcetune.again": night}
        for night, night_tags in zip(NIGHTS, [before, changed, changed], strict=False)
    ]
    monkeypatch.setattr(tracking, "load_runs", lambda study, uri: [{"tags": run_tags} for run_tags in tags])
    return tags


def test_what_changed_on_a_night_is_named(tagged_nights):
    assert describe_provenance_changes("s", NIGHTS[1]) == [
        f"commit changed from {'a' * 40} to {'b' * 40}",
        "torch changed from 2.14 to 2.15",
        "GPU driver changed from 560.35 to 570.86",
        "data changed from cafe to f00d",
    ]
    assert describe_provenance_changes("s", NIGHTS[0]) == []
    assert describe_provenance_changes("s", NIGHTS[2]) == []
    assert describe_provenance_changes("s", NIGHTS[3]) == [], "no sentinel ran"


def test_a_tag_that_earlier_runs_lack_is_no_change(tagged_nights):
    for tags in tagged_nights[:1]:
        del tags["forcetune.driver"]
    assert not [line for line in describe_provenance_changes("s", NIGHTS[1]) if "driver" in line]


def test_an_alarm_says_since_when_by_how_much_and_what_changed(tagged_nights, monkeypatch):
    losses = draw_losses(40)
    losses[36:] += 0.1
    last = watch(make_table(losses), NIGHTS[39])
    for tags, night in zip(tagged_nights, NIGHTS[35:38], strict=True):
        tags["forcetune.again"] = night
    (line,) = _describe_sentinel_alarms(last)
    assert f"s: sentinels, the arm champion: results differ from earlier nights since {NIGHTS[36]}: on average" in line
    assert "+0.00 points of accuracy, and val_loss by +0.0" in line or "and val_loss by +0.1" in line
    assert "that night commit changed from" in line
    assert "GPU driver changed from 560.35 to 570.86" in line


def test_the_findings_as_json_have_the_measure_and_the_night():
    losses = draw_losses(40)
    losses[36:] += 0.1
    findings = Findings("2026-11-10", pd.DataFrame(), {}, [watch(make_table(losses), NIGHTS[39])], [], [], "id")
    (plain_watch,) = findings.plain()["sentinels"]
    assert (plain_watch["measure"], plain_watch["start"], plain_watch["alarm"]) == ("val_loss", NIGHTS[36], True)
    assert plain_watch["measure_shift"] == pytest.approx(0.1, abs=0.02)
