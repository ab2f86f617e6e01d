"""`best` as people ask it: of one study and of several, in a table, JSON or CSV, and what is refused."""

import csv
import io
import json
import shutil
import subprocess

import made
import pandas as pd
import pytest
from click.testing import CliRunner

from forcetune import baseline, results, tracking
from forcetune.cli import asking, main
from forcetune.stores import mlflow_uri

POINTS = [("snip", 0.3, 0.97), ("force", 0.1, 0.95), ("force", 0.05, 0.90), ("snip", 0.02, 0.40), ("random", 0.1, 0.6)]


def said(*arguments, code=0):
    found = CliRunner().invoke(main, ["best", *arguments])
    assert found.exit_code == code, found.output
    return found.output


def rows(*arguments):
    return json.loads(said(*arguments, "--json"))


def densities(*arguments):
    return [row["density"] for row in rows(*arguments)]


@pytest.fixture(scope="module")
def once(tmp_path_factory, empty_mlflow, make_study):
    """A folder in which the study was searched, to copy."""
    place = tmp_path_factory.mktemp("once")
    shutil.copy(empty_mlflow, place / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for variable in ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE"):
            patch.delenv(variable, raising=False)
        return place, made.search(make_study, POINTS)


@pytest.fixture
def study(once, folder):
    place, found = once
    # by another process: one that closes a file of SQLite's lets go of its own locks on it
    subprocess.run(["cp", "-r", f"{place}/.", folder], check=True)
    return found


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [0.3, 0.1, 0.05, 0.02]),
        (("--knee",), [0.05]),
        (("--top", "2"), [0.3, 0.1]),
        (("--top", "1", "--min-sparsity", "0.9"), [0.1]),
        (("--min-accuracy", "0.9", "--method", "force"), [0.1, 0.05]),
        (("--where", "density<0.2", "--where", "method=force,random"), [0.1, 0.05]),
        (("--by", "method", "--top", "1"), [0.1, 0.1, 0.3]),
        (("--by", "method", "--knee"), []),
    ],
)
def test_questions(study, options, found):
    assert densities("s", *options) == found


def test_what_is_shown(study):
    told = said("s", "--where", "epochs=2")
    lines = told.splitlines()
    header = ["sparsity", "accuracy", "method", "epochs", "device", "time", "trial", "run", "id"]
    assert lines[0].split() == header
    assert lines[-2] == "front of 5 trials: 5 trained"
    assert lines[-1].startswith("device time: 2 min 24 s for these 4 points, 3 min 00 s for s in all")
    assert said("s", "--knee").splitlines()[-2] == "knee of the front of 5 trials: 5 trained"
    few = said("s", "--knee", "--where", "method=snip")
    assert few == "a front of fewer than three points has no knee; 5 trials: 5 trained\n"


def test_csv_has_what_json_has(study):
    table = list(csv.DictReader(io.StringIO(said("s", "--csv"))))
    assert [float(row["density"]) for row in table] == densities("s")
    assert table[0]["run_id"] == rows("s")[0]["run_id"]


def test_several_studies(study, searched):
    searched([("snip", 0.2, 0.99), ("random", 0.3, 0.5)], name="other")
    both = rows("s", "other")
    assert [(row["study"], row["density"]) for row in both] == [
        *[("other", 0.2), ("s", 0.1), ("s", 0.05), ("s", 0.02)],
    ]
    assert [row["study"] for row in rows("s", "other", "--by", "study", "--top", "1")] == ["other", "s"]
    told = said("s", "other").splitlines()
    assert told[0].split()[0] == "study"
    assert told[-1].startswith("device time: 2 min 24 s for these 4 points, 4 min 12 s for s, other in all")


def test_studies_with_other_objectives_have_no_front_in_common(study, searched):
    searched(POINTS[:1], name="other", objectives={"val_accuracy": "max", "macs": "min"})
    told = said("s", "other", code=2)
    assert "s has val_accuracy, density; other has val_accuracy, macs" in told


def test_dense_runs_are_run_when_they_are_asked_for(study, lab, monkeypatch):
    told = said("s", "--within", "2", code=2)
    assert "`forcetune best s --within 2 --dense 3`" in told
    companion_runs, hours = baseline.plan_dense_runs("s", 2)
    assert [(run.trial.method, run.trial.density, run.trial.seed) for run in companion_runs.companions] == [
        ("random", 1.0, 1),
        ("random", 1.0, 2),
    ]
    assert hours == pytest.approx(72 / 3600)
    lab.validation = lambda fields: 0.965 if fields["density"] == 1 else 0.1
    monkeypatch.setattr(baseline, "make_sender", lambda *_: lab)
    told = said("s", "--within", "2", "--dense", "2")
    assert told.startswith("2 dense runs of s, about 0.02 device hours\n")
    assert "sparsest within 2 points of" in told
    assert densities("s", "--within", "2") == [0.1]
    assert densities("s", "--within", "7") == [0.05]
    assert densities("s", "--within", "1") == [0.3]
    assert "dense: mlp 96.50% ± 0.00% (2 seeds)" in said("s")
    assert len(said("s", "--dense", "2").splitlines()) == len(said("s").splitlines()), "nothing is left to be run"
    assert tracking.load_reruns("s").empty, "no re-run is one of these"


def test_the_ledger_and_mlflow_agree_on_companions(study, lab):
    from forcetune import run
    from forcetune.ledger.ledger import Ledger
    from forcetune.stores import optuna_uri
    from forcetune.study import Search

    Ledger(
        study.make_companion(Search()), optuna_uri()
    )  # as a search with `seeds` makes it, from the file as it is written
    lab(baseline.plan_dense_runs("s", 1)[0])
    _, found, _ = run.examine_study("s.companion")
    assert [finding.what for finding in found] == ["has a run without masks.npz"], "made up, it never had any"


def test_each_network_has_dense_runs(searched):
    wide = [("snip", 0.3, 0.97), ("force", 0.1, 0.95)]
    searched(wide, name="wide", trial={"width": 16})
    companion_runs, _ = baseline.plan_dense_runs("wide", 1)
    assert [run.trial.width for run in companion_runs.companions] == [16]
    assert {run.tags["arm"] for run in companion_runs.companions} == {results.DENSE_ARM}


def test_effects_and_importance(searched):
    methods = {"snip": 0.1, "random": 0.0}
    densities = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    searched([(method, density, density + gain) for density in densities for method, gain in methods.items()])
    (found,) = rows("s", "--effect", "method")
    assert (found["better"], found["worse"], found["pairs"], found["paired"]) == ("snip", "random", 6, "all else equal")
    assert (found["difference"], found["trials"]) == (pytest.approx(10), 12)
    told = said("s", "--effect", "method")
    assert "method  snip    random     +10.00  [+10.00, +10.00]  0.031" in told
    assert "validation accuracy at equal density" in told
    shares = {row["field"]: row for row in rows("s", "--importance")}
    assert set(shares) == {"method", "density"}
    assert shares["method"]["accuracy at equal density"] > 0.8
    assert shares["density"]["density"] > 0.9
    assert sum(row["front"] for row in shares.values()) == pytest.approx(1)
    assert "`--effect FIELD` does" in said("s", "--importance")


def test_too_few_trials_show_no_effect(study):
    assert said("s", "--effect", "method").startswith("there are too few trials")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("z",), "no study 'z'; it has: s"),
        (("s", "--knee", "--top", "3"), "--knee and --top exclude each other"),
        (("s", "--json", "--csv"), "--json and --csv exclude each other"),
        (("s", "--by", "method", "--effect", "lr"), "--by and --effect exclude each other"),
        (("s", "--watch", "--dense", "3"), "--dense and --watch exclude each other"),
        (("s", "--within", "0", "--top", "1"), "--within and --top exclude each other"),
        (("s", "--where", "densit<3"), "did you mean 'density'"),
        (("s", "--by", "metho"), "did you mean 'method'"),
        (("s", "--method", "forse"), "did you mean 'force'"),
        (("s", "--effect", "seed"), "effects of 'seed' cannot be compared"),
        (("s", "--importance"), "importance needs 10 trials"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(study, arguments, words):
    told = said(*arguments, code=2)
    assert words in told
    assert told.count("\n") == 1


def test_a_study_without_a_finished_trial(searched, make_study):
    from rich.console import Console

    from forcetune.search.driver import open_driver

    driver = open_driver(make_study(search={"trials": 2}), lambda: None, Console(quiet=True))
    assert said("s", code=2) == "forcetune: s: no trial is finished yet; no trials yet\n"
    driver.issue()
    driver.close(seconds=10)
    assert said("s", code=2) == "forcetune: s: no trial is finished yet; 1 trials: 1 running\n"


def test_a_run_is_no_study(study):
    run = rows("s")[0]["run_id"]
    assert f"{run} is the id of a run of the experiment 's'" in said(run, code=2)


def test_an_experiment_of_something_else(study):
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    client.create_run(client.create_experiment("foreign"))
    assert "the MLflow experiment 'foreign' was not made by forcetune" in said("foreign", code=2)


def test_a_running_study_is_followed_to_its_end(study, monkeypatch):
    table = results.load("s")
    states = [table.iloc[:0], table.iloc[:2], table]
    for found, state in zip(states, ("RUNNING", "RUNNING", "FINISHED"), strict=True):
        found.attrs = {**table.attrs, "state": state}
    looks = iter([states[0], states[1], states[1].copy(), states[2], states[2]])
    monkeypatch.setattr(results, "read", lambda *_: results.Results(next(looks), pd.DataFrame()))
    monkeypatch.setattr(asking, "WATCH_INTERVAL_S", 0.0)
    lines = said("s", "--watch").splitlines()
    assert [line[10:] for line in lines[:3]] == [
        "0 points, front of no trials yet",
        "2 points, front of 2 trials: 2 trained",
        "4 points, front of 5 trials: 5 trained",
    ], "the look at which nothing is new says nothing"
    assert lines[3].startswith("sparsity")


def test_following_ends_where_it_is_interrupted(study, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "read", interrupt)
    said("s", "--watch", code=130)
