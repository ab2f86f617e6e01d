"""Nights prove registered networks again: an alarm for a file that disagrees, a note for one that cannot be proved."""

import pytest
from made import QUIET_CONSOLE

from forcetune import deploy, tracking
from forcetune.baseline import registered
from forcetune.baseline.nightly import Nights
from forcetune.baseline.page import render_page
from forcetune.deploy import Proof
from forcetune.errors import InputError

NIGHTLY_YAML = "studies: [s]\nbands: [0.7, 0.9, 1]\nseeds: 2\nsentinels: 0\n"


@pytest.fixture
def night(folder, search_study, companion_runner, monkeypatch):
    """Return a function that runs a night with the proofs that it gets, and returns the findings."""
    search_study()
    (folder / "nightly.yaml").write_text(NIGHTLY_YAML)
    monkeypatch.setattr("forcetune.baseline.nightly.render_page", lambda findings, margin: "page")
    calls = []

    def run(day, proofs):
        def prove(study, runs):
            calls.append((study, runs))
            if isinstance(proofs, Exception):
                raise proofs
            return proofs

        monkeypatch.setattr("forcetune.deploy.proving.prove_registered", prove)
        *_, findings = Nights(folder / "nightly.yaml", QUIET_CONSOLE).run(f"2026-11-{day:02}", companion_runner)
        return findings

    run.calls = calls
    return run


def make_proof(**changes):
    fields = {"study": "s", "model": "net", "version": 3, "aliases": ["knee"], "run_id": "a" * 32, "samples": 180}
    return Proof(**{**fields, "expected": 0.95, "accuracy": 0.95, **changes})


def test_a_file_that_agrees_is_on_the_page_and_in_the_json(night):
    findings = night(1, [make_proof()])
    assert findings.alarms == []
    (row,) = findings.plain()["registered"]
    assert (row["model"], row["version"], row["aliases"], row["accuracy"]) == ("net", 3, ["knee"], 0.95)
    text = render_page(findings, 0.5)
    assert "<h2>Registered networks</h2>" in text
    assert "agrees" in text
    ((study, runs),) = night.calls
    champions = tracking.load_table("s").trials
    assert study == "s"
    assert runs <= {*champions["run_id"]}
    assert runs


def test_a_file_that_disagrees_gives_an_alarm(night):
    problem = "has an accuracy of 0.9000 on 180 validation images, and 0.9500 is that of its run"
    findings = night(1, [make_proof(accuracy=0.9, problem=problem)])
    assert findings.alarms == [f"s: the registered network net version 3 (knee) {problem}"]
    assert "alarm" in render_page(findings, 0.5)


def test_a_file_that_cannot_be_proved_here_gives_a_note(night):
    findings = night(1, [make_proof(accuracy=None, samples=0, obstacle="there is no such file")])
    assert findings.alarms == []
    assert "s: the registered network net version 3 (knee) was not tested: there is no such file" in findings.notes
    assert "not tested" in render_page(findings, 0.5)
    away = night(2, InputError("the model registry cannot be used: it is away"))
    assert away.alarms == []
    assert "s: its registered networks were not tested: the model registry cannot be used: it is away" in away.notes
    assert "Registered networks" not in render_page(away, 0.5)


def test_a_night_that_is_called_again_proves_nothing_again(night):
    first = night(1, [make_proof(problem="cannot be run: it is gone", accuracy=None)])
    second = night(1, [])
    assert len(night.calls) == 1
    assert second.proofs == first.proofs
    assert second.alarms == first.alarms


def test_a_row_has_each_column():
    table = registered.tabulate_proofs([make_proof(), make_proof(aliases=[], expected=None)])
    assert all(len(row) == len(table.header) for row in table.rows)
    assert table.rows[1][3:6] == ["-", "95%", "-"]
    assert deploy.Proof.from_plain(make_proof().plain()) == make_proof()
