"""The command `best`: questions to one study and to several, in a table, JSON or CSV, its refusals, and dense runs."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace

import made
import pytest
from click.testing import CliRunner

from forcetune import baseline, tracking
from forcetune.cli import asking, main
from forcetune.cli.terminal import fronts
from forcetune.report import results
from forcetune.stores import mlflow_uri

QUESTION_TRIALS = [
    ("snip", 0.3, 0.97),
    ("force", 0.1, 0.95),
    ("force", 0.05, 0.90),
    ("snip", 0.02, 0.40),
    ("random", 0.1, 0.6),
]


def ask_best(*arguments, code=0):
    return run_command("best", *arguments, code=code)


def run_command(*arguments, code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def read_rows(*arguments):
    return json.loads(ask_best(*arguments, "--json"))


def read_densities(*arguments):
    return [row["density"] for row in read_rows(*arguments)]


@pytest.fixture(scope="module")
def searched_template(tmp_path_factory, empty_mlflow, make_study):
    """Search the study once, and return its folder, which tests copy, and the study."""
    folder = tmp_path_factory.mktemp("once")
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE"):
            patch.delenv(variable, raising=False)
        return folder, made.search(make_study, QUESTION_TRIALS)


@pytest.fixture
def study(searched_template, folder):
    source, searched_study = searched_template
    # A process that closes a SQLite file releases its own locks on that file, so another process copies it.
    subprocess.run(["cp", "-r", f"{source}/.", folder], check=True)
    return searched_study


@pytest.mark.parametrize(
    ("options", "expected"),
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
def test_options_select_points_of_the_front(study, options, expected):
    assert read_densities("s", *options) == expected


def test_a_table_ends_with_its_counts_and_device_time(study):
    output = ask_best("s", "--where", "epochs=2")
    lines = output.splitlines()
    header = ["sparsity", "accuracy", "method", "epochs", "device", "time", "trial", "run", "id"]
    assert lines[0].split() == header
    assert lines[-2] == "front of 5 trials: 5 trained"
    assert lines[-1].startswith("device time: 2 min 24 s for these 4 points, 3 min 00 s for s in all")
    assert ask_best("s", "--knee").splitlines()[-2] == "knee of the front of 5 trials: 5 trained"
    knee_output = ask_best("s", "--knee", "--where", "method=snip")
    assert knee_output == "a front of fewer than three points has no knee; 5 trials: 5 trained\n"


def test_the_device_time_of_two_kinds_of_devices_is_told_apart(study):
    loaded = results.load("s")
    runs = list(loaded.trials["run_id"])
    assert fronts.costs(loaded.trials, loaded).endswith("device time"), "the runs name no kinds"
    kinds = dict.fromkeys(runs, "NVIDIA H100") | {runs[0]: "NVIDIA A100"}
    mixed = replace(loaded, devices=kinds, objectives={"val_accuracy": "max", "latency_ms": "min"})
    sentence = fronts.costs(mixed.trials, mixed)
    assert ". By kind of device: 36.0 s on NVIDIA A100, 2 min 24 s on NVIDIA H100. latency_ms: measured on" in sentence
    assert "latency_ms" not in fronts.costs(mixed.trials, replace(mixed, objectives=loaded.objectives))


def test_csv_has_what_json_has(study):
    table = list(csv.DictReader(io.StringIO(ask_best("s", "--csv"))))
    assert [float(row["density"]) for row in table] == read_densities("s")
    assert table[0]["run_id"] == read_rows("s")[0]["run_id"]


def test_several_studies_share_a_front(study, search_study):
    search_study([("snip", 0.2, 0.99), ("random", 0.3, 0.5)], name="other")
    rows = read_rows("s", "other")
    assert [(row["study"], row["density"]) for row in rows] == [
        *[("other", 0.2), ("s", 0.1), ("s", 0.05), ("s", 0.02)],
    ]
    assert [row["study"] for row in read_rows("s", "other", "--by", "study", "--top", "1")] == ["other", "s"]
    lines = ask_best("s", "other").splitlines()
    assert lines[0].split()[0] == "study"
    assert lines[-1].startswith("device time: 2 min 24 s for these 4 points, 4 min 12 s for s, other in all")


def test_studies_with_other_objectives_have_no_front_in_common(study, search_study):
    search_study(QUESTION_TRIALS[:1], name="other", objectives={"val_accuracy": "max", "macs": "min"})
    output = ask_best("s", "other", code=2)
    assert "s has val_accuracy (max), density (min); other has val_accuracy (max), macs (min)" in output


def test_dense_runs_are_run_when_requested(study, companion_runner, monkeypatch):
    output = ask_best("s", "--within", "2", code=2)
    assert "first run `forcetune baseline s --dense 3`" in output
    companion_runs, hours = baseline.plan_dense_runs("s", 2)
    assert [(run.trial.method, run.trial.density, run.trial.seed) for run in companion_runs.companions] == [
        ("random", 1.0, 1),
        ("random", 1.0, 2),
    ]
    assert hours == pytest.approx(72 / 3600)
    companion_runner.validation = lambda fields: 0.965 if fields["density"] == 1 else 0.1
    monkeypatch.setattr(baseline, "make_sender", lambda *_: companion_runner)
    planned = "2 dense runs of s, about 0.02 device hours\n"
    assert run_command("baseline", "s", "--dense", "2", "--dry-run").endswith(planned)
    assert json.loads(run_command("baseline", "s", "--dense", "2", "--dry-run", "--json")) == {
        "runs": 2,
        "device_hours": pytest.approx(hours),
    }
    assert companion_runner.run_fields == []
    accuracy_line = "dense: mlp 96.50% ± 0.00% (2 seeds)\n"
    output = run_command("baseline", "s", "--dense", "2")
    assert (output.startswith(planned), output.endswith(accuracy_line)) == (True, True), output
    assert "sparsest within 2 points of" in ask_best("s", "--within", "2")
    assert read_densities("s", "--within", "2") == [0.1]
    assert read_densities("s", "--within", "7") == [0.05]
    assert read_densities("s", "--within", "1") == [0.3]
    assert accuracy_line in ask_best("s")
    assert run_command("baseline", "s", "--dense", "2").endswith("all runs are finished\n" + accuracy_line)
    output = run_command("baseline", "s", "--dense", "2", "--json")
    (row,) = json.loads(output[output.index("[") :])
    assert (row["model"], row["mean"], row["seeds"]) == ("mlp", pytest.approx(0.965), 2)
    assert len(companion_runner.run_fields) == 2
    assert tracking.load_reruns("s").empty, "dense runs are not re-runs"


def test_the_ledger_and_mlflow_agree_on_companions(study, companion_runner):
    from forcetune import run
    from forcetune.ledger.ledger import Ledger
    from forcetune.stores import optuna_uri
    from forcetune.study import Search

    # A search with `seeds` makes the companion study from the file as the user wrote it.
    Ledger(study.make_companion(Search()), optuna_uri())
    companion_runner(baseline.plan_dense_runs("s", 1)[0])
    _, findings, _ = run.examine_study("s.companion")
    assert [finding.what for finding in findings] == ["has a run without masks.npz"], "the made-up run never had masks"


def test_several_studies_without_dense_runs_are_named_with_their_commands(study, search_study):
    search_study(QUESTION_TRIALS[:1], name="other")
    output = ask_best("s", "other", "--within", "2", code=2)
    assert "`forcetune baseline s --dense 3` and `forcetune baseline other --dense 3`" in output
    assert output.count("\n") == 1


def test_dense_runs_continue_after_an_interrupt(study, companion_runner, monkeypatch):
    monkeypatch.setattr(baseline, "make_sender", lambda *_: companion_runner)
    companion_runner.interrupt_after_runs = 1
    assert "run the same command again to continue" in run_command("baseline", "s", "--dense", "2", code=130)
    companion_runner.interrupt_after_runs = None
    assert run_command("baseline", "s", "--dense", "2").startswith("1 dense run of s, ")
    assert len(companion_runner.run_fields) == 2


def test_each_network_has_dense_runs(search_study):
    trials = [("snip", 0.3, 0.97), ("force", 0.1, 0.95)]
    search_study(trials, name="wide", trial={"width": 16})
    companion_runs, _ = baseline.plan_dense_runs("wide", 1)
    assert [run.trial.width for run in companion_runs.companions] == [16]
    assert {run.tags["arm"] for run in companion_runs.companions} == {results.DENSE_ARM}


def test_effects_and_importance_are_shown(search_study):
    methods = {"snip": 0.1, "random": 0.0}
    densities = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    search_study([(method, density, density + gain) for density in densities for method, gain in methods.items()])
    (effect,) = read_rows("s", "--effect", "method")
    assert (effect["better"], effect["worse"], effect["pairs"], effect["paired"]) == (
        "snip",
        "random",
        6,
        "all else equal",
    )
    assert (effect["difference"], effect["trials"]) == (pytest.approx(10), 12)
    output = ask_best("s", "--effect", "method")
    assert "method  snip    random     +10.00  [+10.00, +10.00]  0.031" in output
    assert "validation accuracy at equal density" in output
    shares = {row["field"]: row for row in read_rows("s", "--importance")}
    assert set(shares) == {"method", "density"}
    assert shares["method"]["accuracy at equal density"] > 0.8
    assert shares["density"]["density"] > 0.9
    assert sum(row["front"] for row in shares.values()) == pytest.approx(1)
    assert "`--effect FIELD` does" in ask_best("s", "--importance")


def test_too_few_trials_show_no_effect(study):
    assert ask_best("s", "--effect", "method").startswith("there are too few trials")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("z",), "no study 'z'; it has: s"),
        (("s", "--knee", "--top", "3"), "--knee and --top exclude each other"),
        (("s", "--json", "--csv"), "--json and --csv exclude each other"),
        (("s", "--by", "method", "--effect", "lr"), "--by and --effect exclude each other"),
        (("s", "--within", "0", "--top", "1"), "--within and --top exclude each other"),
        (("s", "--where", "densit<3"), "did you mean 'density'"),
        (("s", "--by", "metho"), "did you mean 'method'"),
        (("s", "--method", "forse"), "did you mean 'force'"),
        (("s", "--effect", "seed"), "effects of 'seed' cannot be compared"),
        (("s", "--importance"), "importance needs 10 trials"),
    ],
)
def test_a_refusal_is_one_line(study, arguments, message):
    output = ask_best(*arguments, code=2)
    assert message in output
    assert output.count("\n") == 1


def test_a_study_without_a_finished_trial_is_refused(search_study, make_study):
    from rich.console import Console

    from forcetune.search.driver import open_driver

    driver = open_driver(make_study(search={"trials": 2}), lambda: None, Console(quiet=True))
    assert ask_best("s", code=2) == "forcetune: s: no trial is finished yet; no trials yet\n"
    driver.issue()
    driver.close(seconds=10)
    assert ask_best("s", code=2) == "forcetune: s: no trial is finished yet; 1 trials: 1 running\n"


def test_a_run_is_no_study(study):
    run = read_rows("s")[0]["run_id"]
    assert f"{run} is the id of a run of the experiment 's'" in ask_best(run, code=2)


def test_an_experiment_of_another_program_is_refused(study):
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    client.create_run(client.create_experiment("foreign"))
    assert "the MLflow experiment 'foreign' was not made by forcetune" in ask_best("foreign", code=2)


def test_watch_follows_a_running_study_to_its_end(study, monkeypatch):
    finished = results.load("s")
    empty, begun = (replace(finished, trials=finished.trials.iloc[:count], state="RUNNING") for count in (0, 2))
    looks = iter([empty, begun, begun, finished, finished])
    monkeypatch.setattr(results, "load", lambda *_: next(looks))
    monkeypatch.setattr(asking, "WATCH_INTERVAL_S", 0.0)
    lines = ask_best("s", "--watch").splitlines()
    assert [line[10:] for line in lines[:3]] == [
        "0 points, front of no trials yet",
        "2 points, front of 2 trials: 2 trained",
        "4 points, front of 5 trials: 5 trained",
    ], "a look that finds nothing new prints nothing"
    assert lines[3].startswith("sparsity")


def test_watch_ends_when_it_is_interrupted(study, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "load", interrupt)
    ask_best("s", "--watch", code=130)


DIAL_TRIALS = [
    (("snip", "random")[i % 2], round(0.01 * 1.2**i, 4), round(0.2 + 0.04 * i - 0.02 * (i % 2), 4)) for i in range(18)
]


def test_the_density_is_a_dial(search_study):
    search_study(DIAL_TRIALS, name="dial")
    output = ask_best("dial", "--at", "97.5%")
    lines = output.splitlines()
    assert lines[0].startswith("at 97.50% sparsity: probably ")
    assert lines[1].startswith("with method ")
    assert "nine of ten runs with a fresh seed: from " in lines[2]
    assert lines[3].startswith("20 further trials at this sparsity would probably add ")
    assert "a model of 18 trials says so" in lines[4]
    assert "no run with a fresh seed" in lines[4]
    (row,) = read_rows("dial", "--at", "0.975")
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    assert {*row["configuration"]} == {"method"}
    (only_random,) = read_rows("dial", "--at", "0.975", "--method", "random")
    assert only_random["configuration"] == {"method": "random"}
    too_few = ask_best("dial", "--at", "0.975", "--where", "density<0.02", code=2)
    assert "4 trials with an accuracy meet these conditions; required: at least 8" in too_few
    (line,) = csv.DictReader(io.StringIO(ask_best("dial", "--at", "0.975", "--csv")))
    assert line["method"] == row["configuration"]["method"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("s", "--at", "99.9%"), "--at needs at least 8 trials that have ended with an accuracy; this study has 5"),
        (("s", "--at", "97.5"), "--at 97.5: is no sparsity; allowed: a fraction below 1 such as 0.975, or 97.5%"),
        (("s", "--at", "0.9", "--knee"), "--knee and --at exclude each other"),
        (("unknown", "--at", "0.9"), "unknown"),
    ],
)
def test_dials_that_cannot_be_turned_are_refused(study, arguments, message):
    output = ask_best(*arguments, code=2)
    assert message in output
    assert len(output.strip().splitlines()) == 1


def test_a_dial_takes_one_study(study, search_study):
    search_study(QUESTION_TRIALS[:1], name="other")
    assert "--at takes one study" in ask_best("s", "other", "--at", "0.9", code=2)
