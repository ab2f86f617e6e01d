"""The driver on real stores, without Ray: outcomes, counts, repeated proposals and interrupted trials."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import optuna
import pytest
import yaml
from click.testing import CliRunner
from commands import SequentialSession
from rich.console import Console

from forcetune import run
from forcetune.cli import main
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.ledger.ledger import Ledger, load_prior_trials, refuse_changes
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.run import examine_study, is_over
from forcetune.search.driver import Driver
from forcetune.search.meter import Meter
from forcetune.search.progress import Progress
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Epoch, Tracker, load_progress, load_table

FIRST_FILES = {"masks.npz": b"masks", "layers.json": b"[]"}  # of a trial, with its first report


def make_driver(study):
    progress = Progress(study, Console(quiet=True))
    tracker = Tracker(study.study, mlflow_uri())
    ledger = Ledger(study, optuna_uri())
    return Driver(study, ledger, tracker, progress, study.references(0.25))


def end(driver, assignment, outcome="trained", reason=None, **changed):
    metrics = {"val_accuracy": 0.5, "density": assignment.trial.density, **changed}
    epoch = Epoch(2, 1000, {"val_accuracy": metrics["val_accuracy"]})
    driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome=outcome, reason=reason))


def drain(driver):
    while assignment := driver.issue():
        end(driver, assignment)
    driver.close()


def optuna_trials(name="s"):
    return optuna.load_study(study_name=name, storage=optuna_uri()).trials


def test_outcomes_in_both_stores(folder, make_study):
    driver = make_driver(make_study(search={"trials": 4}))
    trained, collapsed, failed, lost = (driver.issue() for _ in range(4))
    assert driver.issue() is None
    end(driver, trained)
    end(driver, collapsed, "collapsed", reason="no path", val_accuracy=0.25)
    end(driver, failed, "failed", reason="Diverged: nan")
    for attempt in range(1, 5):
        assert lost.attempt == attempt
        driver.report_loss(lost.number, lost.attempt, "lost", "its worker ended")
        lost = driver.issue()
    assert lost is None
    assert driver.is_finished
    driver.close()

    trials = {trial.number: trial for trial in optuna_trials()}
    assert [trials[n].state.name for n in range(4)] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert trials[0].values == [0.5, trained.trial.density]
    assert trials[1].constraints == {"off_front": 1.0}
    study = optuna.load_study(study_name="s", storage=optuna_uri())
    assert [trial.number for trial in study.best_trials] == [0]

    rows = load_table("s").trials.set_index("name")
    assert list(rows["outcome"]) == ["trained", "collapsed", "failed", "failed"]
    assert list(rows["status"]) == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert rows.loc["trial-0002", "reason"] == "Diverged: nan"
    assert rows.loc["trial-0003", "reason"] == "its worker ended; failed after 4 attempts"


def test_an_objective_that_is_not_finite_fails_the_trial(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()
    end(driver, assignment, val_accuracy=float("nan"))
    driver.close()
    assert optuna_trials()[0].state.name == "FAIL"
    assert load_table("s").trials.loc[0, "reason"] == "the objective val_accuracy became nan"


def report_epoch(driver, assignment, step, accuracy, **more_metrics):
    trial_started = TrialStarted({"density": assignment.trial.density}, "cpu", []) if step == 1 else None
    epoch = Epoch(step, step * 1000, {"val_accuracy": accuracy, **more_metrics})
    metrics = {"density": assignment.trial.density, "train_seconds": 1.5, **epoch.metrics}
    report = Report(metrics, epoch, trial_started, files=FIRST_FILES if trial_started else {})
    return driver.report(assignment.number, assignment.attempt, report)


def run_crowd(driver, count=21, epochs=16):
    """Run trials to their end that are good at the first rung, which is after epoch 2 of 16."""
    for _ in range(count):
        assignment = driver.issue()
        assert not any(report_epoch(driver, assignment, step, 0.9) for step in (1, 2))
        end(driver, assignment, val_accuracy=0.9)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_trial_is_stopped_at_its_rung_and_is_off_the_front(folder, make_study, restarted):
    study = make_study(
        {"epochs": 16, "density": {"low": 0.05, "high": 0.1}}, search={"trials": 80, "sampler": "random"}
    )
    driver = make_driver(study)
    run_crowd(driver)
    if restarted:
        driver.close(0.0)
        driver = make_driver(study)
    poor = driver.issue()
    while poor.trial.density < 0.09:  # a denser trial is dominated by most of the crowd
        end(driver, poor)
        poor = driver.issue()
    assert not report_epoch(driver, poor, 1, 0.1)
    assert report_epoch(driver, poor, 2, 0.1)
    assert driver.running == 0
    assert not report_epoch(driver, poor, 3, 0.9), "a late report belongs to no trial"
    driver.close()

    trial = optuna_trials()[poor.number]
    assert trial.state.name == "COMPLETE"
    assert trial.values == [0.1, poor.trial.density]
    assert trial.constraints == {"off_front": 1.0}
    row = load_table("s").trials.set_index("name").loc[f"trial-{poor.number:04d}"]
    assert (row["outcome"], row["status"], row["val_accuracy"]) == ("stopped", "FINISHED", 0.1)
    assert re.fullmatch(
        r"at rung 1/8, after epoch 2: rank \d+, behind \d+ and level with \d+ of \d+ trials", row["reason"]
    )
    assert row["train_seconds"] == 1.5, "the time until then is kept"


def test_an_infeasible_trial_counts_and_is_off_the_front(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, constraints={"macs": 1}))
    assignment = driver.issue()
    report = Report({"density": 0.1}, None, outcome="infeasible", reason="macs 9 is above the constraint's max 1")
    driver.end(assignment.number, assignment.attempt, report)
    driver.close()
    assert optuna_trials()[0].values == [0.25, 0.1], "an untrained network counts at chance"
    assert optuna_trials()[0].constraints == {"off_front": 1.0}
    row = load_table("s").trials.loc[0]
    assert (row["outcome"], row["reason"]) == ("infeasible", "macs 9 is above the constraint's max 1")
    assert row["val_accuracy"] == 0.25


def test_an_objective_that_is_never_reported_fails_the_trial(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, train="collections:Counter", objectives={"val_f1": "max"}))
    end(driver, driver.issue())
    driver.close()
    reason = load_table("s").trials.loc[0, "reason"]
    assert "does not report the objective val_f1; it reports val_accuracy, density" in reason


def test_patience_and_budget_end_a_search(folder, make_study):
    driver = make_driver(make_study(search={"trials": 50, "patience": {"trials": 4, "gain": 0.5}}))
    drain(driver)
    assert "over 4 trials the hypervolume grew by" in driver.end_reason
    assert 5 <= len(optuna_trials()) < 50
    restarted = make_driver(make_study(search={"trials": 50, "patience": {"trials": 4, "gain": 0.5}}))
    assert restarted.is_finished
    assert restarted.end_reason == driver.end_reason
    over_budget = make_driver(make_study(search={"trials": 50, "budget": {"device_hours": 1e-9}}))
    assert over_budget.end_reason is None
    assert over_budget.issue() is None
    assert over_budget.end_reason == "the budget of 1e-09 device hours is used up", (
        "the time of earlier drivers counts too"
    )


def test_a_search_with_all_its_trials_has_not_ended_early(folder, make_study):
    driver = make_driver(make_study(search={"trials": 4, "patience": {"trials": 4, "gain": 99.0}}))
    drain(driver)
    assert (driver.end_reason, len(optuna_trials())) == (None, 4)


def test_more_trials_go_on_in_the_same_study(folder, make_study):
    drain(make_driver(make_study(search={"trials": 3})))
    drain(make_driver(make_study(search={"trials": 5})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 5
    assert len(load_table("s").trials["trial"].unique()) == 5


def test_a_repeated_proposal_is_pruned_and_does_not_count(folder, make_study):
    study = make_study({"density": 0.1, "method": ["random", "snip"]}, search={"trials": 5, "sampler": "random"})
    driver = make_driver(study)
    drain(driver)
    states = [trial.state.name for trial in optuna_trials()]
    assert states.count("COMPLETE") == 2, "the space has no more"
    assert states.count("PRUNED") == len(states) - 2 > 0
    assert driver.is_finished
    assert len(load_table("s").trials) == 2


def test_start_configurations_run_once_and_more_may_follow(folder, make_study):
    first = {"method": "force", "density": 0.25}
    drain(make_driver(make_study(search={"trials": 2, "start": [first]})))
    more_configurations = [{"method": "snip"}, {"method": "force", "density": 0.125}, first]
    drain(make_driver(make_study(search={"trials": 4, "start": more_configurations})))
    fields = [trial.user_attrs["fields"] for trial in optuna_trials()]
    assert [(f["method"], f["density"]) for f in (fields[0], fields[3])] == [("force", 0.25), ("force", 0.125)]
    assert fields[2]["method"] == "snip"
    assert len(fields) == 4


def test_a_start_configuration_that_the_study_has_is_not_run_again(folder, make_study):
    drain(make_driver(make_study(search={"trials": 1})))
    params = optuna_trials()[0].params
    for _ in range(2):
        drain(make_driver(make_study(search={"trials": 3, "start": [params]})))
    trials = optuna_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["key"] == trials[0].user_attrs["key"]


def test_prior_trials_of_another_study_are_loaded(folder, make_study):
    drain(make_driver(make_study(study="other", search={"trials": 3})))
    learner = make_study(search={"warm_start": ["other"]})
    prior_trials = load_prior_trials(learner, optuna_uri())["other"]
    assert [prior_trial.fields for prior_trial in prior_trials] == [
        trial.user_attrs["fields"] for trial in optuna_trials("other")
    ]
    assert [list(prior_trial.values) for prior_trial in prior_trials] == [
        [0.5, prior_trial.fields["density"]] for prior_trial in prior_trials
    ]
    reordered = make_study(search={"warm_start": ["other"]}, objectives={"density": "min", "val_accuracy": "max"})
    assert list(load_prior_trials(reordered, optuna_uri())["other"][0].values) == prior_trials[0].values[::-1]
    misspelled = make_study(search={"warm_start": ["othr"]})
    with pytest.raises(InputError, match="search.warm_start.0: the ledger .* has no study 'othr' .* 'other'"):
        load_prior_trials(misspelled, optuna_uri())
    different = make_study(search={"warm_start": ["other"]}, objectives={"val_loss": "min", "density": "min"})
    with pytest.raises(InputError, match="'other' .* val_accuracy max, density min, .* val_loss min"):
        load_prior_trials(different, optuna_uri())


def test_an_interrupted_trial_is_taken_up_in_its_own_run(folder, make_study):
    study = make_study(search={"trials": 2})
    first = make_driver(study).issue()
    driver = make_driver(study)
    second = driver.issue()
    assert (second.number, second.trial) == (first.number, first.trial)
    assert (first.attempt, second.attempt) == (1, 2)
    end(driver, second)
    drain(driver)
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 2
    assert list(load_table("s").trials["status"]) == ["FINISHED"] * 2


def test_a_worker_that_was_given_up_is_ignored(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    first = driver.issue()
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    second = driver.issue()
    end(driver, first, val_accuracy=0.9)
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    assert driver.running == 1
    end(driver, second)
    driver.close()
    assert optuna_trials()[0].values == [0.5, second.trial.density]


def test_a_trial_out_of_memory_gets_more_memory_while_a_node_has_it(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    driver.max_memory_factor = 3
    for memory_factor in (1, 2, 3):  # twice as much each time, up to all that a node has
        assignment = driver.issue()
        assert assignment.memory_factor == memory_factor
        driver.report_loss(assignment.number, assignment.attempt, "memory", "OutOfMemoryError: 2 GiB")
    assert driver.is_finished
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "OutOfMemoryError: 2 GiB; no node has more memory for it"


def test_a_trial_that_hangs_is_not_tried_again(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()
    driver.report_loss(assignment.number, assignment.attempt, "time", "it took longer than max_seconds 3")
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "it took longer than max_seconds 3"


def test_a_trial_leaves_its_curve_its_files_and_nothing_on_disk(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()
    earlier = Epoch(1, 500, {"val_accuracy": 0.4})
    trial_started = TrialStarted({"density": 0.1, "macs": 7.0}, "cpu", [earlier])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    end(driver, assignment)
    driver.close()
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    run = load_table("s").trials.loc[0, "run_id"]
    history = client.get_metric_history(run, "val_accuracy")
    assert [(m.step, m.timestamp, m.value) for m in history] == [(1, 500, 0.4), (2, 1000, 0.5)]
    assert client.get_run(run).data.metrics["macs"] == 7
    assert {artifact.path for artifact in client.list_artifacts(run)} == {"masks.npz", "layers.json"}
    assert client.get_run(run).data.tags["forcetune.device"] == "cpu"
    assert not (folder / ".forcetune").exists()


def test_a_driver_that_lost_the_study_writes_no_file(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}))
    assignment = driver.issue()

    def raise_held():
        raise HeldError("taken over")

    driver.ledger._check = raise_held
    with pytest.raises(HeldError):
        driver.report(
            assignment.number, assignment.attempt, Report(trial_started=TrialStarted({}, "cpu", []), files=FIRST_FILES)
        )
    assert not list((folder / ".forcetune").rglob("*.*"))


def test_what_mlflow_does_not_take_delays_nothing_and_is_sent_afterwards(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 3}))
    is_away = True
    original_log = Tracker.log

    def log(self, *args, **kwargs):
        if is_away:
            raise ConnectionError("no server")
        return original_log(self, *args, **kwargs)

    monkeypatch.setattr(Tracker, "log", log)
    while assignment := driver.issue():
        end(driver, assignment)
    assert driver.is_finished
    assert {trial.state.name for trial in optuna_trials()} == {"RUNNING"}, (
        "Optuna has the end of a trial only after MLflow has it"
    )
    with pytest.raises(StoppedError, match="3 trials .no server."):
        driver.close(0.1)
    is_away = False
    drain(make_driver(make_study(search={"trials": 3})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 3
    assert list(load_table("s").trials["outcome"]) == ["trained"] * 3
    assert len(load_table("s").trials["trial"].unique()) == 3


def test_a_metric_that_two_attempts_measured_is_logged_once(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 1}))
    log, errors = Tracker.log, [ConnectionError("the answer is lost")]

    def log_and_fail(*args, **kwargs):
        refused = log(*args, **kwargs)
        if errors and len(args) > 2 and args[2]:
            raise errors.pop()
        return refused

    monkeypatch.setattr(Tracker, "log", log_and_fail)
    first = driver.issue()
    driver.report(
        first.number,
        first.attempt,
        Report(trial_started=TrialStarted({"prune_seconds": 1.0}, "cpu", []), files=FIRST_FILES),
    )
    deadline = time.monotonic() + 20
    while errors and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not errors, "the metrics of the first attempt were sent"
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    second = driver.issue()
    driver.report(
        second.number,
        second.attempt,
        Report(trial_started=TrialStarted({"prune_seconds": 2.0}, "cpu", []), files=FIRST_FILES),
    )
    end(driver, second)
    driver.close()
    steps = Tracker("s", mlflow_uri()).list_steps(load_table("s").trials.loc[0, "run_id"])
    assert steps["prune_seconds"] == [0]


@pytest.mark.parametrize("outcome", ["collapsed", "infeasible"])
def test_an_interrupted_trial_that_is_not_trained_gets_its_values(folder, make_study, outcome):
    """Such a trial has only epoch 0, which is also the step of its static metrics."""
    study = make_study(search={"trials": 1})
    driver = make_driver(study)
    assignment = driver.issue()
    trial_started = TrialStarted({"density": assignment.trial.density, "macs": 7.0}, "cpu", [])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    driver.close(10.0)
    driver = make_driver(study)
    assignment = driver.issue()
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    metrics = {**trial_started.static_metrics, "val_accuracy": 0.25, "train_seconds": 0.0}
    epoch = Epoch(0, 1000, {"val_accuracy": 0.25, "train_seconds": 0.0})
    driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome=outcome, reason="no path"))
    driver.close()
    row = load_table("s").trials.loc[0]
    assert (row["val_accuracy"], row["macs"], row["train_seconds"]) == (0.25, 7.0, 0.0)
    assert examine_study("s")[1] == []


def test_an_epoch_that_was_logged_in_part_is_completed(folder, make_study):
    """An epoch with more metrics than one request takes is sent in several requests."""
    study = make_study(search={"trials": 1})
    driver = make_driver(study)
    assignment = driver.issue()
    driver.close(10.0)
    (run,) = load_table("s").trials["run_id"]
    driver.tracker.log(run, [Epoch(1, 1000, {"val_accuracy": 0.5})])
    driver = make_driver(study)
    assignment = driver.issue()
    report_epoch(driver, assignment, 1, 0.5, val_f1=0.4)
    end(driver, assignment)
    driver.close()
    assert driver.tracker.list_steps(run)["val_f1"] == [1]
    assert driver.tracker.list_steps(run)["val_accuracy"] == [1, 2]


def interrupt_trial(driver):
    """Leave a running trial with a checkpoint in its folder, and return the folder."""
    assignment = driver.issue()
    path = Path(assignment.checkpoints)
    (path / "1").mkdir(parents=True)
    (path / "1" / "checkpoint.pt").write_bytes(b"mine")
    driver.hand_back()
    driver.close(0.0)
    return path


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_study_of_the_same_name_in_another_ledger_keeps_its_checkpoints(
    folder, make_study, monkeypatch, copied, shared
):
    """Ledgers in one folder share .forcetune; ledgers in two folders can share FORCETUNE_STATE."""
    study = make_study(search={"trials": 1})
    other_ledger = folder / "other.db"
    if shared:
        monkeypatch.setenv("FORCETUNE_STATE", str(folder / "state"))
        (folder / "elsewhere").mkdir()
        other_ledger = folder / "elsewhere" / "optuna.db"
    trial_folder = interrupt_trial(make_driver(study))
    if copied:
        shutil.copy("optuna.db", other_ledger)
    monkeypatch.setenv("FORCETUNE_STORAGE", f"sqlite:///{other_ledger}")
    drain(make_driver(study))
    assert (trial_folder / "1" / "checkpoint.pt").is_file()
    monkeypatch.delenv("FORCETUNE_STORAGE")
    driver = make_driver(study)
    assert Path(driver.issue().checkpoints) == trial_folder


def test_a_folder_that_is_moved_takes_its_checkpoints_along(folder, make_study, monkeypatch, tmp_path_factory):
    study = make_study(search={"trials": 1})
    trial_folder = interrupt_trial(make_driver(study))
    moved = tmp_path_factory.mktemp("moved") / "folder"
    subprocess.run(["cp", "-r", folder, moved], check=True)
    monkeypatch.chdir(moved)
    assert Path(make_driver(study).issue().checkpoints) == moved / trial_folder.relative_to(folder)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_metric_name_that_mlflow_refuses_blocks_nothing(folder, make_study, capsys, restarted):
    """Earlier versions accepted such a name at first, and left a study that no command could close."""
    (folder / "my_refused.py").write_text("def recall(logits, targets):\n    return {'recall@5': 0.4}\n")
    study = make_study(
        search={"trials": 2}, objectives={"val_recall@5": "max", "density": "min"}, metrics="my_refused:recall"
    )
    driver = make_driver(study)
    driver._outbox.warn = print
    for _ in range(2):
        assignment = driver.issue()
        if restarted:
            driver._outbox._closing = True
        metrics = {"val_recall@5": 0.4, "x" * 400: 1.0}
        for step in (1, 2):
            report_epoch(driver, assignment, step, 0.5, **metrics)
        end(driver, assignment, **metrics)
    if restarted:
        driver.close(0.0)
        driver = make_driver(study)
        driver._outbox.warn = print
    started = time.monotonic()
    driver.close()
    assert time.monotonic() - started < 20
    assert {trial.state.name for trial in optuna_trials()} == {"COMPLETE"}
    rows = load_table("s").trials
    assert (list(rows["status"]), list(rows["val_accuracy"])) == (["FINISHED"] * 2, [0.5, 0.5])
    assert examine_study("s")[1] == []
    printed = capsys.readouterr().out
    assert printed.count("MLflow refuses 'val_recall@5'") == 1
    assert printed.count("MLflow refuses 'xxx") == 1


def test_one_parent_run_holds_the_study(folder, make_study):
    study = make_study(search={"trials": 1})
    drain(make_driver(study))
    drain(make_driver(study))
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"s", "trial-0000"}
    assert runs["trial-0000"].data.tags["mlflow.parentRunId"] == runs["s"].info.run_id
    assert runs["s"].info.status == "FINISHED"
    assert json.loads(runs["s"].data.tags["forcetune.objectives"]) == study.objectives
    for tag in ("version", "torch", "ray", "optuna", "digest"):
        assert runs["trial-0000"].data.tags[f"forcetune.{tag}"]
    assert runs["trial-0000"].data.params["method"] in ("random", "snip", "force")


def test_a_changed_file_is_refused_with_the_difference(folder, make_study):
    refuse_changes(make_study(), optuna_uri())
    assert not (folder / "optuna.db").exists(), "the check makes no store"
    drain(make_driver(make_study(search={"trials": 1})))
    refuse_changes(make_study(search={"trials": 9, "sampler": "random"}, resources={"cpus": 2}), optuna_uri())
    with pytest.raises(InputError, match="trial.epochs was 2, is now 3"):
        refuse_changes(make_study({"epochs": 3}), optuna_uri())


def test_a_study_without_trials_takes_a_changed_file(folder, make_study):
    Ledger(make_study(), optuna_uri())
    changed = make_study({"epochs": 3}, search={"trials": 1})
    refuse_changes(changed, optuna_uri())
    drain(make_driver(changed))
    refuse_changes(changed, optuna_uri())
    with pytest.raises(InputError, match="trial.epochs was 3, is now 2"):
        refuse_changes(make_study(), optuna_uri())


def test_a_study_without_trials_keeps_its_objectives(folder, make_study):
    Ledger(make_study(), optuna_uri())
    for objectives in ({"val_accuracy": "max"}, {"density": "min", "val_accuracy": "max"}):
        with pytest.raises(InputError, match=f"then val_accuracy, density, now {', '.join(objectives)}"):
            refuse_changes(make_study(objectives=objectives), optuna_uri())


def test_another_programs_study_is_refused(folder, make_study):
    optuna.create_study(study_name="s", storage=optuna_uri()).add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(InputError, match="another program"):
        refuse_changes(make_study(), optuna_uri())


def test_a_ledger_that_cannot_be_opened_is_named(folder, make_study):
    with pytest.raises(InputError, match="cannot be used") as refused:
        Ledger(make_study(), "sqlite:////nowhere/at/all/optuna.db")
    assert "/nowhere" in str(refused.value)


class RecordingMeter(Meter):
    """A meter that keeps all its values."""

    def __init__(self):
        self.outcomes, self.seconds, self.progress = [], [], []

    def count_trial(self, outcome):
        self.outcomes.append(outcome)

    def observe_ask(self, seconds):
        self.seconds.append(seconds)

    def observe_log(self, seconds):
        self.seconds.append(seconds)

    def observe_progress(self, backlog, hypervolume):
        self.progress.append((backlog, hypervolume))


def test_the_progress_of_a_study_is_in_its_parent_run_and_in_the_meter(folder, make_study):
    driver = make_driver(make_study(search={"trials": 3}))
    driver.meter = meter = RecordingMeter()
    end(driver, driver.issue(), "collapsed", reason="no path", val_accuracy=0.25)
    assert meter.progress[-1][1] == 0.0
    drain(driver)
    progress = load_progress(mlflow_uri())["s"]
    assert progress["trials_done"] == 3
    assert progress["front"] == len(driver.progress.front) > 0
    assert progress["hypervolume"] == meter.progress[-1][1] > 0
    assert meter.outcomes == ["collapsed", "trained", "trained"]
    assert len(meter.seconds) >= 6, "three proposals, and the log of each trial"
    restarted = make_driver(make_study(search={"trials": 3}))
    restarted.close()
    assert load_progress(mlflow_uri())["s"] == progress


def test_a_trial_that_is_handed_back_for_another_study_uses_no_retry(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, resources={"retries": 0}))
    first = driver.issue()
    assert (driver.wanted, driver.running) == (1, 1)
    driver.hand_back_one(first.number, first.attempt)
    assert (driver.wanted, driver.running) == (1, 0)
    second = driver.issue()
    assert (second.number, second.attempt, second.trial) == (first.number, 2, first.trial)
    driver.hand_back_one(first.number, first.attempt)  # a late report of the first attempt
    assert driver.running == 1
    end(driver, second)
    driver.close()
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"]
    assert driver.wanted == 0


def test_ten_lost_nodes_use_no_retry(folder, make_study):
    study = make_study(search={"trials": 1}, resources={"retries": 1})
    driver = make_driver(study)
    for loss in range(10):
        assignment = driver.issue()
        if loss == 5:  # a restart within an attempt keeps the count, since it is in the ledger
            driver = make_driver(study)
            assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "node", "its node was lost")
    assert not driver.is_finished
    for _ in range(2):  # the eleventh lost node counts, and there is one retry
        assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "node", "its node was lost")
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "its node was lost; failed after 13 attempts"


def test_a_trial_that_leaves_its_node_uses_nothing_up(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, resources={"retries": 0}))
    for _ in range(12):
        assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "leaving", "its node is about to be switched off")
    last = driver.issue()
    assert last.attempt == 13
    end(driver, last)
    driver.close()
    (trial,) = optuna_trials()
    assert (trial.state.name, trial.user_attrs["issued"]["lost"]) == ("COMPLETE", 0)
    assert trial.user_attrs["issued"]["lost_nodes"] == 0


def test_a_trial_that_waits_for_a_node_takes_no_device_time(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 1, "budget": {"device_hours": 1}}))
    clock = [time.monotonic()]
    monkeypatch.setattr("forcetune.search.driver.time.monotonic", lambda: clock[0])
    assignment = driver.issue()
    clock[0] += 7200
    driver.postpone_start(assignment.number, assignment.attempt)
    clock[0] += 36
    end(driver, assignment)
    assert driver.spending.device_hours == pytest.approx(0.01)


def test_devices_of_two_kinds_are_counted_and_named_where_they_are_measured(folder, make_study, monkeypatch):
    (folder / "my_clock.py").write_text("def latency(model, example):\n    return {'latency_ms': 1.0}\n")
    monkeypatch.syspath_prepend(folder)
    driver = make_driver(make_study(search={"trials": 3}, measure="my_clock:latency"))
    hours, warnings = {}, []
    monkeypatch.setattr(
        driver.meter, "count_device_hours", lambda device, spent: hours.update({device: hours.get(device, 0) + spent})
    )
    monkeypatch.setattr(driver.progress, "warn", warnings.append)
    for device in ("NVIDIA H100", "NVIDIA A100", "NVIDIA A100"):
        assignment = driver.issue()
        driver.report(assignment.number, assignment.attempt, Report(trial_started=TrialStarted({}, device, [])))
        end(driver, assignment)
    assert hours.keys() == {"NVIDIA H100", "NVIDIA A100"}
    assert sum(hours.values()) == pytest.approx(driver.spending.device_hours)
    (warning,) = warnings
    assert warning.startswith("measure: the trials run on devices of different kinds (NVIDIA A100, NVIDIA H100)")


def test_a_worker_that_dies_alone_counts_beside_lost_nodes(folder, make_study):
    driver = make_driver(make_study(search={"trials": 1}, resources={"retries": 0}))
    first = driver.issue()
    driver.report_loss(first.number, first.attempt, "node", "its node was lost")
    second = driver.issue()
    driver.report_loss(second.number, second.attempt, "lost", "its worker ended")
    driver.close()
    assert load_table("s").trials.loc[0, "reason"] == "its worker ended; failed after 2 attempts"


def fail_trials(driver, count):
    for _ in range(count):
        end(driver, driver.issue(), "failed", reason="RuntimeError: mine")


def test_five_equal_failures_end_a_search_and_the_next_driver_continues_it(folder, make_study):
    study = make_study(search={"trials": 12})
    driver = make_driver(study)
    fail_trials(driver, 3)
    driver.close()
    assert driver.failure_reason is None
    driver = make_driver(study)  # a restart in between changes nothing
    fail_trials(driver, 1)
    running = driver.issue()
    fail_trials(driver, 1)
    assert driver.failure_reason == "the last 5 trials failed for the same reason: RuntimeError: mine"
    assert driver.issue() is None
    assert not driver.is_finished, "a running trial may end"
    end(driver, running)
    assert driver.is_finished
    driver.close()
    assert is_over(study), "no supervisor starts it again"

    next_driver = make_driver(study)
    assert next_driver.failure_reason is None
    assert not next_driver.is_finished
    end(next_driver, next_driver.issue())
    assert not is_over(study)
    drain(next_driver)
    assert len(optuna_trials()) == 12
    assert next_driver.failure_reason is None
    assert is_over(study)


def test_a_search_whose_last_trials_fail_has_not_been_given_up(folder, make_study):
    driver = make_driver(make_study(search={"trials": 5}))
    fail_trials(driver, 5)
    driver.close()
    assert driver.is_finished
    assert driver.failure_reason is None


def test_max_failures_allows_more_failures(folder, make_study):
    driver = make_driver(make_study(search={"trials": 12, "max_failures": 7}))
    fail_trials(driver, 8)
    assert driver.issue() is None
    assert driver.failure_reason.startswith(
        "8 of 8 trials failed, more than `search.max_failures: 7` allows; the last failure:"
    )
    driver.close()


class FailingSession(SequentialSession):
    """A session in which each trial fails."""

    def drive(self, driver):
        while assignment := driver.issue():
            end(driver, assignment, "failed", reason="RuntimeError: mine")
        driver.close()


def test_a_hopeless_study_ends_with_its_reason_and_exit_code_1(folder, make_study, monkeypatch):
    monkeypatch.setattr(run, "RaySession", FailingSession)
    study_file = make_study(search={"trials": 12}).model_dump(include={"study", "trial"})
    (folder / "s.yaml").write_text(yaml.safe_dump({**study_file, "search": {"trials": 12}}))
    for trials in (5, 10):  # the second command continues the study
        result = CliRunner().invoke(main, ["search", "s.yaml"])
        assert result.exit_code == 1
        reason = "the last 5 trials failed for the same reason: RuntimeError: mine."
        assert f"forcetune: the search was given up: {reason}" in result.stderr
        assert "the same command continues with the remaining trials" in result.stderr
        assert len(optuna_trials()) == trials
    result = CliRunner().invoke(main, ["search", "s.yaml"])
    assert (result.exit_code, len(optuna_trials())) == (1, 12), "the last two failures are fewer than five"
    assert isinstance(result.exception, SystemExit)
    assert "12 failed" in result.output
