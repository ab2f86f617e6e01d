"""Nights: their runs, their verdicts and their alarms."""

import itertools
import json
import re

import numpy as np
import pytest
from made import QUIET_CONSOLE

from forcetune import analysis, tracking
from forcetune.baseline import nightly
from forcetune.baseline.nightly import NIGHTLY_EXPERIMENT, Nights, load_last_nights
from forcetune.baseline.page import render_page
from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.names import COMPANION
from forcetune.stores import optuna_uri

SMALL_NIGHTLY_YAML = "studies: [s]\nbands: [0.7, 0.9, 1]\nseeds: 3\nsentinels: 2\n"


@pytest.fixture
def make_nights(folder, search_study, monkeypatch):
    """Return a function that makes a function, which runs the night of a day of November 2026."""
    search_study()
    monkeypatch.setattr(nightly, "render_page", lambda findings, margin: f"{findings.night}")  # because drawing is slow
    (folder / "nightly.yaml").write_text(SMALL_NIGHTLY_YAML)

    def make(runner):
        def run(day, text=None):
            if text:
                (folder / "nightly.yaml").write_text(text)
            *_, findings = Nights(folder / "nightly.yaml", QUIET_CONSOLE).run(f"2026-11-{day:02}", runner)
            return findings

        return run

    return make


@pytest.fixture
def night(make_nights, companion_runner):
    """Return a function that runs a night and returns its findings."""
    return make_nights(companion_runner)


@pytest.fixture
def table_night(make_nights, table_runner):
    """Return a function that runs a night whose companions are in no store, and returns its findings."""
    return make_nights(table_runner)


def make_accuracy(gain):
    """Return a function of accuracies in which SNIP gains some points from its mask, with noise between seeds."""

    def accuracy(fields):
        has_gain = fields["method"] == "snip" and not fields.get("shuffle") and not fields.get("small_dense")
        return 0.6 + (fields["seed"] * 37 + len(fields["method"]) * 11) % 100 * 1e-5 + has_gain * gain / 100

    return accuracy


def select_verdict(findings, method, against):
    rows = findings.verdicts
    return rows[(rows["method"] == method) & (rows["against"] == against)].iloc[0]


def make_key(fields):
    return tuple(sorted(map(str, fields.items())))


def test_evidence_grows_until_it_decides(table_night, table_runner):
    table_runner.accuracy = make_accuracy(5)
    pairs, held_verdicts = [], []
    for day in range(1, 6):
        row = select_verdict(table_night(day), "snip", "random_erk")
        pairs.append(row["pairs"])
        held_verdicts.append(row["holds"])
    assert pairs[:3] == [3, 6, 9]
    assert held_verdicts[0] == "undecided", "three pairs allow no verdict"
    assert held_verdicts[-1] == "beats"
    decided = held_verdicts.index("beats")
    assert pairs[decided + 1 :] == [pairs[decided] + i for i in range(1, len(pairs) - decided)], (
        "one more pair each night after the verdict"
    )


def test_the_same_date_runs_nothing_again(night, companion_runner, folder):
    first = night(1)
    run_count = len(companion_runner.run_fields)
    second = night(1)
    assert len(companion_runner.run_fields) == run_count
    assert second.verdicts.equals(first.verdicts)
    assert [run["status"] for run in tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")] == ["FINISHED"]


def test_sentinels_are_run_every_night_and_are_no_evidence(night, companion_runner):
    night(1)
    run_count = len(companion_runner.run_fields)
    night(2)
    repeated = [
        fields
        for fields in companion_runner.run_fields[run_count:]
        if make_key(fields) in set(map(make_key, companion_runner.run_fields[:run_count]))
    ]
    assert {fields["method"] for fields in repeated} == {"snip", "random_erk"}
    assert len(repeated) == 4, "two seeds of a pair"
    companions = tracking.load_companions("s")
    assert companions["trial"].is_unique
    assert set(companions["again"].dropna()) == {"2026-11-01", "2026-11-02"}


def test_an_interrupted_night_is_completed_by_the_next_call(night, companion_runner):
    companion_runner.interrupt_after_runs = 10
    with pytest.raises(KeyboardInterrupt):
        night(1)
    companion_runner.interrupt_after_runs = None
    tracking.Record(NIGHTLY_EXPERIMENT, "nightly", "other-2026-11-01", {"forcetune.night": "2026-11-01"})
    night(2)
    *nights, other = sorted(tracking.list_records(NIGHTLY_EXPERIMENT, "nightly"), key=lambda run: run["name"])
    assert (other["name"], other["status"]) == ("other-2026-11-01", "RUNNING"), "the night of another file"
    assert [(run["tags"]["forcetune.night"], run["status"]) for run in nights] == [
        ("2026-11-01", "FINISHED"),
        ("2026-11-02", "FINISHED"),
    ]
    planned = [tracking.read_json(run["id"], "plan.json")[0]["companions"] for run in nights]
    assert len(companion_runner.run_fields) == sum(map(len, planned)), (
        "the planned runs of both nights, and nothing twice"
    )
    companions = tracking.load_companions("s")
    assert companions["trial"].is_unique
    assert (companions["outcome"] == "trained").all()


def test_a_changed_sentinel_gives_alarm_and_says_what_changed(night, companion_runner, folder):
    companion_runner.accuracy = make_accuracy(5)
    (folder / "told").touch()
    alarm_yaml = SMALL_NIGHTLY_YAML + f"on_alarm: [tee, {folder / 'told'}]\n"
    assert not night(1, alarm_yaml).alarms
    assert not night(2).alarms
    unchanged_accuracy = companion_runner.accuracy
    companion_runner.accuracy = lambda fields: (
        unchanged_accuracy(fields) - (0.02 if fields["method"] in ("snip", "force") else 0)
    )
    findings = night(3)
    (line,) = [line for line in findings.alarms if "sentinels" in line]
    assert re.search(
        "s: sentinels, the arm champion: .* since 2026-11-03: .* -2.00 points of accuracy; .* 2 of 2", line
    )
    assert "versions, driver, device and data were unchanged" in line
    assert line in (folder / "told").read_text()
    assert load_last_nights()["nightly"]["outcome"] == "alarm"


def test_the_last_night_is_that_of_the_last_date(night, companion_runner):
    night(3)
    night(1)
    assert load_last_nights()["nightly"]["night"] == "2026-11-03"


def test_a_history_begins_anew_after_an_intended_change(night, companion_runner):
    night(1)
    night(2)
    companion_runner.accuracy = lambda fields: 0.7
    assert night(3).alarms
    assert not night(4, SMALL_NIGHTLY_YAML + "since: 2026-11-03\n").alarms


def test_a_sentinel_that_fails_gives_alarm(table_night, table_runner):
    table_night(1)
    table_runner.outcome = lambda fields: "failed" if fields["method"] == "snip" else "trained"
    assert any("sentinels, the arm champion: a run failed: it broke" in line for line in table_night(2).alarms)


def test_a_verdict_that_flips_gives_alarm(table_night, table_runner):
    table_runner.accuracy = make_accuracy(5)
    nightly_yaml = "studies: [s]\nbands: [0.7, 0.9]\nseeds: 6\nsentinels: 0\n"
    assert not table_night(1, nightly_yaml).alarms
    assert select_verdict(table_night(2), "snip", "random_erk")["holds"] == "beats"
    table_runner.accuracy = make_accuracy(-5)
    nights = [table_night(day) for day in range(3, 19)]
    flips = [line for findings in nights for line in findings.alarms if "the verdict was beats" in line]
    assert flips
    assert all("give loses" in line for line in flips)


def test_pairs_of_the_earlier_rule_carry_over(table_night, table_runner, monkeypatch):
    """Judge three nights by another rule, and then a night by today's: all pairs count, from the first on."""
    table_runner.accuracy = make_accuracy(5)
    with monkeypatch.context() as earlier_rule:
        earlier_rule.setattr(analysis, "follow", lambda evidence, *_: {name: [] for name in evidence})
        for day in range(1, 4):
            assert table_night(day).verdicts.empty
    findings = table_night(4)
    row = select_verdict(findings, "snip", "random_erk")
    assert (row["pairs"], row["holds"]) == (12, "beats")
    history = findings.history[row["name"]]
    assert history["pairs"].tolist() == [3, 6, 9, 12]
    assert history["night"].tolist() == [f"2026-11-0{day}" for day in range(1, 5)]


def test_a_contested_comparison_has_all_its_seeds(table_night, table_runner):
    table_runner.accuracy = make_accuracy(5)
    nightly_yaml = "studies: [s]\nbands: [0.7, 0.9]\nseeds: 6\nsentinels: 0\n"
    table_night(1, nightly_yaml)
    table_night(2)
    table_runner.accuracy = make_accuracy(-5)
    pairs = [select_verdict(table_night(day), "snip", "random_erk")["pairs"] for day in range(3, 19)]
    steps = [later - earlier for earlier, later in itertools.pairwise(pairs)]
    assert steps[0] == 1
    assert 6 in steps


def test_diverged_runs_are_counted_and_do_not_enter_the_differences(table_night, table_runner):
    table_runner.accuracy = make_accuracy(0)
    table_runner.reason = "Diverged: the loss is nan"
    table_runner.outcome = lambda fields: (
        "failed" if fields["method"] == "random_erk" and fields["seed"] % 2 else "trained"
    )
    nights = [table_night(day, SMALL_NIGHTLY_YAML.replace("sentinels: 2", "sentinels: 0")) for day in (1, 2)]
    row = select_verdict(nights[-1], "snip", "random_erk")
    assert row["pairs"] == 6
    assert (row["champion_collapses"], row["twin_collapses"]) == (0, 3)
    assert abs(row["mean"]) < 0.2, "points of accuracy where both live"
    plain_row = next(verdict for verdict in nights[-1].plain()["verdicts"] if verdict["name"] == row["name"])
    assert plain_row["twin_collapses"] == 3
    assert plain_row["collapse_bound"] == pytest.approx(row["collapse_bound"])
    assert "verdict" in plain_row["state"] or "of the way to" in plain_row["state"]


def test_four_quiet_nights(table_night, table_runner):
    table_runner.accuracy = make_accuracy(1)
    assert [table_night(day).alarms for day in range(1, 5)] == [[]] * 4


def test_nights_in_which_every_run_collapses_say_nothing(table_night, table_runner):
    table_runner.outcome = lambda fields: "collapsed"
    table_runner.reason = "no path is left"
    table_night(1)
    findings = table_night(2)
    row = select_verdict(findings, "snip", "random_erk")
    assert (row["pairs"], row["live_pairs"], row["holds"], row["state"]) == (6, 0, "undecided", "no verdict is near")
    assert (row["champion_collapses"], row["twin_collapses"]) == (6, 6)
    assert np.isnan(row["mean"])
    assert not findings.alarms
    text = json.dumps(findings.plain()["verdicts"], allow_nan=False)
    assert '"mean": null' in text
    assert "0 of 6" in render_page(findings, 0.5)


def test_a_night_without_a_run_says_so(make_nights):
    findings = make_nights(lambda companion_runs: "nothing runs today")(1)
    assert findings.verdicts.empty
    assert "There is no comparison yet." in render_page(findings, 0.5)
    assert any(re.match("s: [0-9]+ of [0-9]+ runs were not started", note) for note in findings.notes)


def test_nights_out_of_order_count_by_their_dates(table_night, table_runner):
    table_runner.accuracy = make_accuracy(5)
    table_night(3)
    first = select_verdict(table_night(1), "snip", "random_erk")
    assert first["pairs"] == 3, "the pairs of later nights do not count"
    findings = table_night(4)
    history = findings.history[select_verdict(findings, "snip", "random_erk")["name"]]
    assert history["night"].tolist() == ["2026-11-01", "2026-11-03", "2026-11-04"]
    assert history["pairs"].tolist() == [3, 6, 9]


def test_a_changed_margin_is_noted(table_night):
    assert not table_night(1).notes
    notes = table_night(2, SMALL_NIGHTLY_YAML + "margin: 2\ncollapse_margin: 0.2\n").notes
    assert [note.partition(":")[0] for note in notes] == [
        "margin was 0.5 in the night of 2026-11-01 and is 2 now",
        "collapse_margin was 0.1 in the night of 2026-11-01 and is 0.2 now",
    ]
    assert not table_night(3).notes


def test_the_studies_of_a_file_are_one_family(folder, search_study, monkeypatch):
    search_study()
    search_study(name="other")
    (folder / "nightly.yaml").write_text(SMALL_NIGHTLY_YAML.replace("[s]", "[s, other]"))
    families = []
    compute_standings = nightly.compute_standings

    def list_families(studies, *arguments):
        families.append([study.name for study in studies])
        return compute_standings(studies, *arguments)

    monkeypatch.setattr(nightly, "compute_standings", list_families)
    assert len(Nights(folder / "nightly.yaml", QUIET_CONSOLE).plan("2026-11-01")) == 2
    assert families == [["s", "other"]]


def test_the_budget_holds_and_a_note_counts_the_runs(night, companion_runner):
    findings = night(1, SMALL_NIGHTLY_YAML + "budget: 1e-9\n")
    assert len(companion_runner.run_fields) == 1
    assert any(re.match("s: [0-9]+ of [0-9]+ runs .* budget", note) for note in findings.notes)
    run_count = len(companion_runner.run_fields)
    night(2, SMALL_NIGHTLY_YAML)
    first_methods = [fields["method"] for fields in companion_runner.run_fields[run_count : run_count + 2]]
    assert first_methods == ["snip", "random_erk"], "sentinels come first"


def test_a_plan_writes_nothing(night, companion_runner, folder):
    (folder / "nightly.yaml").write_text(SMALL_NIGHTLY_YAML)
    (share,) = Nights(folder / "nightly.yaml", QUIET_CONSOLE).plan("2026-11-01")
    assert share.companions
    assert share.device_hours == pytest.approx(len(share.companions) / 100)
    assert not tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
    assert tracking.load_companions("s") is None


def test_two_studies_share_a_night(folder, search_study, companion_runner):
    search_study()
    search_study(name="other")
    (folder / "nightly.yaml").write_text(SMALL_NIGHTLY_YAML.replace("[s]", "[s, other]") + "budget: 0.4\n")
    (findings,) = Nights(folder / "nightly.yaml", QUIET_CONSOLE).run("2026-11-01", companion_runner)
    assert set(findings.verdicts["study"]) == {"s", "other"}
    assert len(tracking.load_companions("other")) > 10, "the first study leaves the second its share of the budget"


def test_a_random_champion_is_noted(folder, search_study, companion_runner):
    search_study([("random", 0.3, 0.9), ("snip", 0.29, 0.8)])
    (folder / "nightly.yaml").write_text(SMALL_NIGHTLY_YAML)
    (findings,) = Nights(folder / "nightly.yaml", QUIET_CONSOLE).run("2026-11-01", companion_runner)
    (note,) = findings.notes
    assert "s: trial-0000 at 70.00% has a random mask (random)" in note
    assert companion_runner.run_fields == []
    assert findings.verdicts.empty


def test_the_page_opens_without_a_network(night, companion_runner, folder):
    companion_runner.accuracy = make_accuracy(5)
    night(1)
    text = render_page(night(2), 0.5)
    assert (folder / "nightly.html").read_text() == "2026-11-02", "the page of the last night"
    assert "night of 2026-11-02" in text
    assert text.count("<svg") == 2
    assert "of the way to beats, about" in text
    assert "0 : 0 of 6, at most" in text
    assert not re.findall(r'(?:src|href)="(?!#)', text.replace("xlink:href", "href"))
    run = tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")[-1]["id"]
    assert run in text


def test_two_nights_at_once_are_refused(night, folder):
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
        Nights(folder / "nightly.yaml", QUIET_CONSOLE)
    assert not tracking.list_records(NIGHTLY_EXPERIMENT, "nightly")
    assert tracking.load_companions("s") is None, COMPANION
