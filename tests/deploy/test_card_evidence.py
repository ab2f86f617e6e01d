"""The evidence behind a trial: fresh seeds, and the verdicts of comparisons and nights."""

import json

import pytest
from made import SEARCHED_TRIALS

from forcetune import tracking
from forcetune.deploy.card import render_card
from forcetune.deploy.evidence import ControlVerdict, TrialEvidence, load_evidence
from forcetune.deploy.export import export_network
from forcetune.names import NIGHTLY_EXPERIMENT
from forcetune.report import results
from forcetune.study import Companion, CompanionRuns, Trial


def find_best():
    rows = results.load("s").trials
    return rows.loc[rows["val_accuracy"].idxmax()]


def write_verdicts(experiment, kind, name, trial, **verdict):
    record = tracking.Record(experiment, kind, name)
    numbers = {"pairs": 8, "mean": 1.5, "low": 0.5, "high": 2.5}
    rows = [
        {"study": "s", "trial": trial, "against": "random_erk", **numbers, **verdict},
        {"study": "s", "trial": "another", "against": "shuffled", **numbers, **verdict},
    ]
    record.write("verdicts.json", json.dumps(rows))
    record.close()


def test_a_trial_has_the_seeds_and_verdicts_of_its_study(search_study, companion_runner):
    study = search_study()
    best = find_best()
    assert load_evidence(best["run_id"]) == TrialEvidence("s")
    fields = tracking.load_trial_fields(best["run_id"])
    companions = [Companion(Trial(**{**fields, "seed": seed}), best["trial"], {}) for seed in (5, 6, 7)]
    companion_runner.validation = lambda fields: 0.8 + fields["seed"] / 100
    companion_runner(CompanionRuns(study, companions))
    write_verdicts("s.companion", "baseline", "baseline-2026-11-20", best["trial"], verdict="undecided")
    evidence = load_evidence(best["run_id"])
    assert (evidence.study, evidence.seeds, evidence.mean) == ("s", 3, pytest.approx(0.86))
    assert evidence.interval[0] < 0.86 < evidence.interval[1]
    assert evidence.verdicts == [ControlVerdict("random_erk", "undecided", 8, 1.5, 0.5, 2.5, "baseline-2026-11-20")]
    write_verdicts(NIGHTLY_EXPERIMENT, "nightly", "nightly-2026-11-21", best["trial"], holds="beats")
    (verdict,) = load_evidence(best["run_id"]).verdicts
    assert (verdict.verdict, verdict.source) == ("beats", "nightly-2026-11-21")


def test_a_trial_without_fresh_seeds_has_none(search_study):
    search_study(SEARCHED_TRIALS[:3])
    assert load_evidence(find_best()["run_id"]) == TrialEvidence("s")


def test_the_card_says_what_the_accuracy_rests_on(trained_mlp, tmp_path):
    from dataclasses import replace

    export = export_network(trained_mlp, tmp_path, file_format="safetensors")
    text = export.paths[-1].read_text()
    assert "rests on the seed 0 alone. With `search: {seeds: {front: 5}}` in the study file" in text
    assert "It was compared with no control; `forcetune baseline STUDY` does that." in text
    assert f"`forcetune train {export.run_id}` trains them again first" in text
    verdict = ControlVerdict("random_erk", "beats", 8, 1.5, 0.5, 2.5, "nightly-2026-11-21")
    evidence = TrialEvidence("s", 3, 0.86, (0.84, 0.88), [verdict])
    card = render_card(replace(export, evidence=evidence), "forcetune export")
    assert "with 3 fresh seeds, networks of this configuration have a mean validation accuracy of 86.00% (95 %" in card
    assert "interval: 84.00% to 88.00%)" in card
    assert "| random_erk | beats | +1.50 [+0.50, +2.50] | 8 | nightly-2026-11-21 |" in card
    assert "rests on the seed" not in card
