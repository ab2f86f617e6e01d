"""Nights: what they run, what they add up to, and when they give alarm."""

import re

import pytest
from rich.console import Console

from forcetune import tracking
from forcetune.baseline import nightly
from forcetune.baseline.nightly import NIGHTLY_EXPERIMENT, Nights, load_last_nights
from forcetune.baseline.page import render_page
from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.names import COMPANION
from forcetune.stores import optuna_uri

QUIET = Console(quiet=True)
FILE = "studies: [s]\nbands: [0.7, 0.9, 1]\nseeds: 3\nsentinels: 2\n"


@pytest.fixture
def night(folder, searched, lab, monkeypatch):
    """Run the night of a day of November 2026; its findings."""
    searched()
    monkeypatch.setattr(nightly, "render_page", lambda findings, margin: f"{findings.night}")  # pictures take long
    (folder / "nightly.yaml").write_text(FILE)

    def run(day, text=None):
        if text:
            (folder / "nightly.yaml").write_text(text)
        *_, findings = Nights(folder / "nightly.yaml", QUIET).run(f"2026-11-{day:02}", lab)
        return findings

    return run


def noisy(gain):
    """SNIP better than its twins by so many points, with noise from seed to seed."""

    def accuracy(fields):
        own = fields["method"] == "snip" and not fields.get("shuffle") and not fields.get("small_dense")
        return 0.6 + (fields["seed"] * 37 + len(fields["method"]) * 11) % 100 * 1e-5 + own * gain / 100

    return accuracy


def standing(findings, method, against):
    rows = findings.verdicts
    return rows[(rows["method"] == method) & (rows["against"] == against)].iloc[0]


def key(fields):
    return tuple(sorted(map(str, fields.items())))


def test_evidence_grows_until_it_decides(night, lab):
    lab.accuracy = noisy(5)
    pairs, held = [], []
    for day in range(1, 6):
        row = standing(night(day), "snip", "random_erk")
        pairs.append(row["pairs"])
        held.append(row["holds"])
    assert pairs[:3] == [3, 6, 9]
    assert held[0] == "undecided", "three pairs allow no verdict"
    assert held[-1] == "beats"
    decided = held.index("beats")
    assert pairs[decided + 1 :] == [pairs[decided] + i for i in range(1, len(pairs) - decided)], "one pair a night then"


def test_the_same_date_runs_nothing_again(night, lab, folder):
    first = night(1)
    before = len(lab.ran)
    again = night(1)
    assert len(lab.ran) == before
    assert again.verdicts.equals(first.verdicts)
    assert [run["status"] for run in tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")] == ["FINISHED"]


def test_sentinels_are_run_every_night_and_are_no_evidence(night, lab):
    night(1)
    before = len(lab.ran)
    night(2)
    twice = [fields for fields in lab.ran[before:] if key(fields) in set(map(key, lab.ran[:before]))]
    assert {fields["method"] for fields in twice} == {"snip", "random_erk"}
    assert len(twice) == 4, "two seeds of a pair"
    beside = tracking.load_companions("s")
    assert beside["trial"].is_unique
    assert set(beside["again"].dropna()) == {"2026-11-01", "2026-11-02"}


def test_a_night_that_died_is_taken_up_by_the_next_call(night, lab):
    lab.dies_after = 10
    with pytest.raises(KeyboardInterrupt):
        night(1)
    lab.dies_after = None
    night(2)
    nights = tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
    assert [(run["tags"]["forcetune.night"], run["status"]) for run in nights] == [
        ("2026-11-01", "FINISHED"),
        ("2026-11-02", "FINISHED"),
    ]
    planned = [tracking.read_json(run["id"], "plan.json")[0]["companions"] for run in nights]
    assert len(lab.ran) == sum(map(len, planned)), "all that both nights planned, and nothing twice"
    beside = tracking.load_companions("s")
    assert beside["trial"].is_unique
    assert (beside["outcome"] == "trained").all()


def test_a_changed_sentinel_gives_alarm_and_says_what_changed(night, lab, folder):
    lab.accuracy = noisy(5)
    (folder / "told").touch()
    alarm = FILE + f"on_alarm: [tee, {folder / 'told'}]\n"
    assert not night(1, alarm).alarms
    assert not night(2).alarms
    before = lab.accuracy
    lab.accuracy = lambda fields: before(fields) - (0.02 if fields["method"] in ("snip", "force") else 0)
    found = night(3)
    (line,) = [line for line in found.alarms if "sentinels" in line]
    assert re.search("s: sentinels, the arm champion: .* 2 of 2 .* -2.00 points of accuracy", line)
    assert "versions and device are unchanged" in line
    assert line in (folder / "told").read_text()
    assert load_last_nights()["nightly"]["outcome"] == "alarm"


def test_a_history_begins_anew_after_a_change_that_was_meant(night, lab):
    night(1)
    night(2)
    lab.accuracy = lambda fields: 0.7
    assert night(3).alarms
    assert not night(4, FILE + "since: 2026-11-03\n").alarms


def test_a_sentinel_that_fails_gives_alarm(night, lab):
    night(1)
    lab.outcome = lambda fields: "failed" if fields["method"] == "snip" else "trained"
    assert any("sentinels, the arm champion: a run failed: it broke" in line for line in night(2).alarms)


def test_a_verdict_that_flips_gives_alarm(night, lab):
    lab.accuracy = noisy(5)
    asked = "studies: [s]\nbands: [0.7, 0.9]\nseeds: 5\nsentinels: 0\n"
    assert not night(1, asked).alarms
    assert standing(night(2), "snip", "random_erk")["holds"] == "beats"
    lab.accuracy = noisy(-5)
    found = [night(day) for day in range(3, 13)]
    flips = [line for findings in found for line in findings.alarms if "the verdict was beats" in line]
    assert flips
    assert all("give loses" in line for line in flips)


def test_four_quiet_nights(night, lab):
    lab.accuracy = noisy(1)
    assert [night(day).alarms for day in range(1, 5)] == [[]] * 4


def test_the_budget_holds_and_what_is_left_is_said(night, lab):
    found = night(1, FILE + "budget: 1e-9\n")
    assert len(lab.ran) == 1
    assert any(re.match("s: [0-9]+ of [0-9]+ runs .* budget", note) for note in found.notes)
    before = len(lab.ran)
    night(2, FILE)
    first = [fields["method"] for fields in lab.ran[before : before + 2]]
    assert first == ["snip", "random_erk"], "sentinels come first"


def test_a_plan_writes_nothing(night, lab, folder):
    (folder / "nightly.yaml").write_text(FILE)
    (share,) = Nights(folder / "nightly.yaml", QUIET).plan("2026-11-01")
    assert share.companions
    assert share.device_hours == pytest.approx(len(share.companions) / 100)
    assert not tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
    assert tracking.load_companions("s") is None


def test_two_studies_share_a_night(folder, searched, lab):
    searched()
    searched(name="other")
    (folder / "nightly.yaml").write_text(FILE.replace("[s]", "[s, other]") + "budget: 0.4\n")
    (findings,) = Nights(folder / "nightly.yaml", QUIET).run("2026-11-01", lab)
    assert set(findings.verdicts["study"]) == {"s", "other"}
    assert len(tracking.load_companions("other")) > 10, "the first one leaves the second its part"


def test_a_champion_that_is_random_is_said(folder, searched, lab):
    searched([("random", 0.3, 0.9), ("snip", 0.29, 0.8)])
    (folder / "nightly.yaml").write_text(FILE)
    (findings,) = Nights(folder / "nightly.yaml", QUIET).run("2026-11-01", lab)
    (note,) = findings.notes
    assert "s: trial-0000 at 70.00% has a random mask (random)" in note
    assert lab.ran == []
    assert findings.verdicts.empty


def test_the_page_opens_without_a_network(night, lab, folder):
    lab.accuracy = noisy(5)
    night(1)
    text = render_page(night(2), 0.5)
    assert (folder / "nightly.html").read_text() == "2026-11-02", "the last one lies here"
    assert "night of 2026-11-02" in text
    assert text.count("<svg") == 2
    assert not re.findall(r'(?:src|href)="(?!#)', text.replace("xlink:href", "href"))
    run = tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")[-1]["id"]
    assert run in text


def test_two_at_once_are_refused(night, folder):
    with (
        driver_lock("nightly.nightly", optuna_uri()),
        pytest.raises(HeldError, match="a night of .*nightly.yaml"),
    ):
        night(1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("studies: []\n", "studies: \\[\\] List should have at least 1 item"),
        ("studies: [s]\nseed: 3\n", "seed: unknown key \\(did you mean 'seeds'\\?\\); allowed: studies"),
        ("studies: [s]\nbands: [1, 0.9]\n", "bands: 1, 0.9; allowed: at least two rising edges"),
        ("studies: [z]\n", "no study 'z'"),
        ("nonsense\n", "allowed keys: studies, top"),
    ],
)
def test_a_file_that_cannot_be_used(night, folder, text, words):
    (folder / "nightly.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        Nights(folder / "nightly.yaml", QUIET)
    assert not tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
    assert tracking.load_companions("s") is None, COMPANION
