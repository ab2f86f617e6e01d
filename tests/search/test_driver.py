"""The driver on real stores, without Ray: outcomes, counts, repeats, and taking up what was left."""

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


def driver_of(study):
    progress = Progress(study, Console(quiet=True))
    tracker = Tracker(study.study, mlflow_uri())
    ledger = Ledger(study, optuna_uri())
    return Driver(study, ledger, tracker, mlflow_uri(), ledger.folder, progress, study.references(0.25))


def end(driver, assignment, outcome="trained", reason=None, **changed):
    metrics = {"val_accuracy": 0.5, "density": assignment.fields["density"], **changed}
    epoch = Epoch(2, 1000, {"val_accuracy": metrics["val_accuracy"]})
    driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome=outcome, reason=reason))


def drain(driver):
    while assignment := driver.issue():
        end(driver, assignment)
    driver.close()


def optuna_trials(name="s"):
    return optuna.load_study(study_name=name, storage=optuna_uri()).trials


def test_outcomes_in_both_stores(folder, make_study):
    driver = driver_of(make_study(search={"trials": 4}))
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

    told = {trial.number: trial for trial in optuna_trials()}
    assert [told[n].state.name for n in range(4)] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert told[0].values == [0.5, trained.fields["density"]]
    assert told[1].constraints == {"off_front": 1.0}
    study = optuna.load_study(study_name="s", storage=optuna_uri())
    assert [trial.number for trial in study.best_trials] == [0]

    rows = load_table("s").set_index("name")
    assert list(rows["outcome"]) == ["trained", "collapsed", "failed", "failed"]
    assert list(rows["status"]) == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert rows.loc["trial-0002", "reason"] == "Diverged: nan"
    assert rows.loc["trial-0003", "reason"] == "its worker ended; failed after 4 attempts"


def test_an_objective_that_is_not_finite_fails_the_trial(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    assignment = driver.issue()
    end(driver, assignment, val_accuracy=float("nan"))
    driver.close()
    assert optuna_trials()[0].state.name == "FAIL"
    assert load_table("s").loc[0, "reason"] == "the objective val_accuracy became nan"


def epoch_of(driver, assignment, step, accuracy, **known):
    opening = TrialStarted({"density": assignment.fields["density"]}, "cpu", b"masks", [], []) if step == 1 else None
    epoch = Epoch(step, step * 1000, {"val_accuracy": accuracy, **known})
    metrics = {"density": assignment.fields["density"], "train_seconds": 1.5, **epoch.metrics}
    return driver.report(assignment.number, assignment.attempt, Report(metrics, epoch, opening))


def crowd(driver, count=21, epochs=16):
    """Trials that are good at the first rung, of 16 epochs after the second, and then have ended."""
    for _ in range(count):
        assignment = driver.issue()
        assert not any(epoch_of(driver, assignment, step, 0.9) for step in (1, 2))
        end(driver, assignment, val_accuracy=0.9)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_trial_is_stopped_at_its_rung_and_is_off_the_front(folder, make_study, restarted):
    study = make_study(
        {"epochs": 16, "density": {"low": 0.05, "high": 0.1}}, search={"trials": 80, "sampler": "random"}
    )
    driver = driver_of(study)
    crowd(driver)
    if restarted:
        driver.close(0.0)
        driver = driver_of(study)
    poor = driver.issue()
    while poor.fields["density"] < 0.09:  # denser than most of the crowd, and so behind most of it
        end(driver, poor)
        poor = driver.issue()
    assert not epoch_of(driver, poor, 1, 0.1)
    assert epoch_of(driver, poor, 2, 0.1)
    assert driver.running == 0
    assert not epoch_of(driver, poor, 3, 0.9), "what comes late is of no trial"
    driver.close()

    told = optuna_trials()[poor.number]
    assert told.state.name == "COMPLETE"
    assert told.values == [0.1, poor.fields["density"]]
    assert told.constraints == {"off_front": 1.0}
    row = load_table("s").set_index("name").loc[f"trial-{poor.number:04d}"]
    assert (row["outcome"], row["status"], row["val_accuracy"]) == ("stopped", "FINISHED", 0.1)
    assert re.fullmatch(
        r"at rung 1/8, after epoch 2: rank \d+, behind \d+ and level with \d+ of \d+ trials", row["reason"]
    )
    assert row["train_seconds"] == 1.5, "what it cost until then"


def test_an_infeasible_trial_counts_and_is_off_the_front(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}, constraints={"macs": 1}))
    assignment = driver.issue()
    report = Report({"density": 0.1}, None, outcome="infeasible", reason="macs 9 is above the constraint's max 1")
    driver.end(assignment.number, assignment.attempt, report)
    driver.close()
    assert optuna_trials()[0].values == [0.25, 0.1], "a loop of the user's own says nothing of an untrained network"
    assert optuna_trials()[0].constraints == {"off_front": 1.0}
    row = load_table("s").loc[0]
    assert (row["outcome"], row["reason"]) == ("infeasible", "macs 9 is above the constraint's max 1")
    assert row["val_accuracy"] == 0.25


def test_an_objective_that_is_never_told_fails_the_trial(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}, train="collections:Counter", objectives={"val_f1": "max"}))
    end(driver, driver.issue())
    driver.close()
    reason = load_table("s").loc[0, "reason"]
    assert "does not report the objective val_f1; it reports val_accuracy, density" in reason


def test_patience_and_budget_end_a_search(folder, make_study):
    driver = driver_of(make_study(search={"trials": 50, "patience": {"trials": 4, "gain": 0.5}}))
    drain(driver)
    assert "over 4 trials the hypervolume grew by" in driver.end_reason
    assert 5 <= len(optuna_trials()) < 50
    again = driver_of(make_study(search={"trials": 50, "patience": {"trials": 4, "gain": 0.5}}))
    assert again.is_finished
    assert again.end_reason == driver.end_reason
    spent = driver_of(make_study(search={"trials": 50, "budget": {"device_hours": 1e-9}}))
    assert spent.end_reason is None
    assert spent.issue() is None
    assert spent.end_reason == "the budget of 1e-09 device hours is used up", "by the drivers before it too"


def test_more_trials_go_on_in_the_same_study(folder, make_study):
    drain(driver_of(make_study(search={"trials": 3})))
    drain(driver_of(make_study(search={"trials": 5})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 5
    assert len(load_table("s")["trial"].unique()) == 5


def test_a_repeated_proposal_is_pruned_and_does_not_count(folder, make_study):
    study = make_study({"density": 0.1, "method": ["random", "snip"]}, search={"trials": 5, "sampler": "random"})
    driver = driver_of(study)
    drain(driver)
    states = [trial.state.name for trial in optuna_trials()]
    assert states.count("COMPLETE") == 2, "the space has no more"
    assert states.count("PRUNED") == len(states) - 2 > 0
    assert driver.is_finished
    assert len(load_table("s")) == 2


def test_known_configurations_run_once_and_more_may_follow(folder, make_study):
    first = {"method": "force", "density": 0.25}
    drain(driver_of(make_study(search={"trials": 2, "start": [first]})))
    more = [{"method": "snip"}, {"method": "force", "density": 0.125}, first]
    drain(driver_of(make_study(search={"trials": 4, "start": more})))
    fields = [trial.user_attrs["fields"] for trial in optuna_trials()]
    assert [(f["method"], f["density"]) for f in (fields[0], fields[3])] == [("force", 0.25), ("force", 0.125)]
    assert fields[2]["method"] == "snip"
    assert len(fields) == 4


def test_a_known_configuration_that_the_study_has_is_not_run_again(folder, make_study):
    drain(driver_of(make_study(search={"trials": 1})))
    had = optuna_trials()[0].params
    for _ in range(2):
        drain(driver_of(make_study(search={"trials": 3, "start": [had]})))
    told = optuna_trials()
    assert [trial.state.name for trial in told] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert told[1].user_attrs["key"] == told[0].user_attrs["key"]


def test_what_other_studies_found_out(folder, make_study):
    drain(driver_of(make_study(study="other", search={"trials": 3})))
    learner = make_study(search={"warm_start": ["other"]})
    lessons = load_prior_trials(learner, optuna_uri())["other"]
    assert [lesson.fields for lesson in lessons] == [trial.user_attrs["fields"] for trial in optuna_trials("other")]
    assert [list(lesson.values) for lesson in lessons] == [[0.5, lesson.fields["density"]] for lesson in lessons]
    turned = make_study(search={"warm_start": ["other"]}, objectives={"density": "min", "val_accuracy": "max"})
    assert list(load_prior_trials(turned, optuna_uri())["other"][0].values) == lessons[0].values[::-1]
    alike = make_study(search={"warm_start": ["othr"]})
    with pytest.raises(InputError, match="search.warm_start.0: the ledger .* has no study 'othr' .* 'other'"):
        load_prior_trials(alike, optuna_uri())
    others = make_study(search={"warm_start": ["other"]}, objectives={"val_loss": "min", "density": "min"})
    with pytest.raises(InputError, match="'other' .* val_accuracy max, density min, .* val_loss min"):
        load_prior_trials(others, optuna_uri())


def test_an_interrupted_trial_is_taken_up_in_its_own_run(folder, make_study):
    study = make_study(search={"trials": 2})
    first = driver_of(study).issue()
    driver = driver_of(study)
    again = driver.issue()
    assert (again.number, again.fields) == (first.number, first.fields)
    assert (first.attempt, again.attempt) == (1, 2)
    end(driver, again)
    drain(driver)
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 2
    assert list(load_table("s")["status"]) == ["FINISHED"] * 2


def test_a_worker_that_was_given_up_is_not_heard(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    first = driver.issue()
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    again = driver.issue()
    end(driver, first, val_accuracy=0.9)
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    assert driver.running == 1
    end(driver, again)
    driver.close()
    assert optuna_trials()[0].values == [0.5, again.fields["density"]]


def test_too_little_memory_is_tried_with_more_room_as_long_as_there_is(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    driver.max_memory_factor = 3
    for room in (1, 2, 3):  # the double, or all there is
        one = driver.issue()
        assert one.memory_factor == room
        driver.report_loss(one.number, one.attempt, "memory", "OutOfMemoryError: 2 GiB")
    assert driver.is_finished
    driver.close()
    assert load_table("s").loc[0, "reason"] == "OutOfMemoryError: 2 GiB; no node has more memory for it"


def test_a_trial_that_hangs_is_not_tried_again(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    assignment = driver.issue()
    driver.report_loss(assignment.number, assignment.attempt, "time", "it took longer than max_seconds 3")
    driver.close()
    assert load_table("s").loc[0, "reason"] == "it took longer than max_seconds 3"


def test_a_trial_leaves_its_curve_its_files_and_nothing_on_disk(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    assignment = driver.issue()
    earlier = Epoch(1, 500, {"val_accuracy": 0.4})
    opening = TrialStarted({"density": 0.1, "macs": 7.0}, "cpu", b"masks", [{"layer": "a"}], [earlier])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=opening))
    end(driver, assignment)
    driver.close()
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri())
    run = load_table("s").loc[0, "run_id"]
    history = client.get_metric_history(run, "val_accuracy")
    assert [(m.step, m.timestamp, m.value) for m in history] == [(1, 500, 0.4), (2, 1000, 0.5)]
    assert client.get_run(run).data.metrics["macs"] == 7
    assert {artifact.path for artifact in client.list_artifacts(run)} == {"masks.npz", "layers.json"}
    assert client.get_run(run).data.tags["forcetune.device"] == "cpu"
    assert not (folder / ".forcetune").exists()


def test_a_driver_that_lost_the_study_writes_no_file(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}))
    assignment = driver.issue()

    def lost():
        raise HeldError("taken over")

    driver.ledger._check = lost
    with pytest.raises(HeldError):
        driver.report(
            assignment.number, assignment.attempt, Report(trial_started=TrialStarted({}, "cpu", b"masks", [], []))
        )
    assert not list((folder / ".forcetune").rglob("*.*"))


def test_what_mlflow_does_not_take_delays_nothing_and_arrives_afterwards(folder, make_study, monkeypatch):
    driver = driver_of(make_study(search={"trials": 3}))
    away = True
    real = Tracker.log

    def log(self, *args, **kwargs):
        if away:
            raise ConnectionError("no server")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Tracker, "log", log)
    while assignment := driver.issue():
        end(driver, assignment)
    assert driver.is_finished
    assert {trial.state.name for trial in optuna_trials()} == {"RUNNING"}, "MLflow first, then the last word"
    with pytest.raises(StoppedError, match="3 trials .no server."):
        driver.close(0.1)
    away = False
    drain(driver_of(make_study(search={"trials": 3})))
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"] * 3
    assert list(load_table("s")["outcome"]) == ["trained"] * 3
    assert len(load_table("s")["trial"].unique()) == 3


def test_what_two_attempts_measured_stands_there_once(folder, make_study, monkeypatch):
    driver = driver_of(make_study(search={"trials": 1}))
    log, answers = Tracker.log, [ConnectionError("the answer is lost")]

    def unheard(*args, **kwargs):
        refused = log(*args, **kwargs)
        if answers and len(args) > 2 and args[2]:
            raise answers.pop()
        return refused

    monkeypatch.setattr(Tracker, "log", unheard)
    first = driver.issue()
    driver.report(
        first.number, first.attempt, Report(trial_started=TrialStarted({"prune_seconds": 1.0}, "cpu", b"m", [], []))
    )
    deadline = time.monotonic() + 20
    while answers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not answers, "it was sent"
    driver.report_loss(first.number, first.attempt, "lost", "its worker ended")
    again = driver.issue()
    driver.report(
        again.number, again.attempt, Report(trial_started=TrialStarted({"prune_seconds": 2.0}, "cpu", b"m", [], []))
    )
    end(driver, again)
    driver.close()
    steps = Tracker("s", mlflow_uri()).list_steps(load_table("s").loc[0, "run_id"])
    assert steps["prune_seconds"] == [0]


@pytest.mark.parametrize("outcome", ["collapsed", "infeasible"])
def test_an_interrupted_trial_that_is_not_trained_gets_its_values(folder, make_study, outcome):
    """Its only epoch is number 0, at which the static metrics stand too."""
    study = make_study(search={"trials": 1})
    driver = driver_of(study)
    assignment = driver.issue()
    opening = TrialStarted({"density": assignment.fields["density"], "macs": 7.0}, "cpu", b"masks", [], [])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=opening))
    driver.close(10.0)
    driver = driver_of(study)
    assignment = driver.issue()
    driver.report(assignment.number, assignment.attempt, Report(trial_started=opening))
    metrics = {**opening.static_metrics, "val_accuracy": 0.25, "train_seconds": 0.0}
    epoch = Epoch(0, 1000, {"val_accuracy": 0.25, "train_seconds": 0.0})
    driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome=outcome, reason="no path"))
    driver.close()
    row = load_table("s").loc[0]
    assert (row["val_accuracy"], row["macs"], row["train_seconds"]) == (0.25, 7.0, 0.0)
    assert examine_study("s")[1] == []


def test_an_epoch_of_which_a_part_was_logged_is_completed(folder, make_study):
    """An epoch with more metrics than a request takes is sent in several."""
    study = make_study(search={"trials": 1})
    driver = driver_of(study)
    assignment = driver.issue()
    driver.close(10.0)
    (run,) = load_table("s")["run_id"]
    driver.tracker.log(run, [Epoch(1, 1000, {"val_accuracy": 0.5})])
    driver = driver_of(study)
    assignment = driver.issue()
    epoch_of(driver, assignment, 1, 0.5, val_f1=0.4)
    end(driver, assignment)
    driver.close()
    assert driver.tracker.list_steps(run)["val_f1"] == [1]
    assert driver.tracker.list_steps(run)["val_accuracy"] == [1, 2]


def interrupt(driver):
    """Leave a trial that runs, with a file in its folder; the folder."""
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
    """Beside one another they share .forcetune; elsewhere both may be told the same FORCETUNE_STATE."""
    study = make_study(search={"trials": 1})
    other = folder / "other.db"
    if shared:
        monkeypatch.setenv("FORCETUNE_STATE", str(folder / "state"))
        (folder / "elsewhere").mkdir()
        other = folder / "elsewhere" / "optuna.db"
    kept = interrupt(driver_of(study))
    if copied:
        shutil.copy("optuna.db", other)
    monkeypatch.setenv("FORCETUNE_STORAGE", f"sqlite:///{other}")
    drain(driver_of(study))
    assert (kept / "1" / "checkpoint.pt").is_file()
    monkeypatch.delenv("FORCETUNE_STORAGE")
    again = driver_of(study)
    assert Path(again.issue().checkpoints) == kept


def test_a_folder_that_is_moved_takes_its_checkpoints_along(folder, make_study, monkeypatch, tmp_path_factory):
    study = make_study(search={"trials": 1})
    kept = interrupt(driver_of(study))
    moved = tmp_path_factory.mktemp("moved") / "folder"
    subprocess.run(["cp", "-r", folder, moved], check=True)
    monkeypatch.chdir(moved)
    assert Path(driver_of(study).issue().checkpoints) == moved / kept.relative_to(folder)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_name_that_mlflow_refuses_wedges_nothing(folder, make_study, capsys, restarted):
    """Earlier versions did not refuse it before, and left a study that no command could close."""
    (folder / "my_refused.py").write_text("def recall(logits, targets):\n    return {'recall@5': 0.4}\n")
    study = make_study(
        search={"trials": 2}, objectives={"val_recall@5": "max", "density": "min"}, metrics="my_refused:recall"
    )
    driver = driver_of(study)
    driver._outbox.warn = print
    for _ in range(2):
        assignment = driver.issue()
        if restarted:
            driver._outbox._closing = True
        named = {"val_recall@5": 0.4, "x" * 400: 1.0}
        for step in (1, 2):
            epoch_of(driver, assignment, step, 0.5, **named)
        end(driver, assignment, **named)
    if restarted:
        driver.close(0.0)
        driver = driver_of(study)
        driver._outbox.warn = print
    began = time.monotonic()
    driver.close()
    assert time.monotonic() - began < 20
    assert {trial.state.name for trial in optuna_trials()} == {"COMPLETE"}
    rows = load_table("s")
    assert (list(rows["status"]), list(rows["val_accuracy"])) == (["FINISHED"] * 2, [0.5, 0.5])
    assert examine_study("s")[1] == []
    said = capsys.readouterr().out
    assert said.count("MLflow refuses 'val_recall@5'") == 1
    assert said.count("MLflow refuses 'xxx") == 1


def test_one_parent_run_holds_the_study(folder, make_study):
    study = make_study(search={"trials": 1})
    drain(driver_of(study))
    drain(driver_of(study))
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
    assert not (folder / "optuna.db").exists(), "asking opens no store"
    drain(driver_of(make_study(search={"trials": 1})))
    refuse_changes(make_study(search={"trials": 9, "sampler": "random"}, resources={"cpus": 2}), optuna_uri())
    with pytest.raises(InputError, match="trial.epochs was 2, is now 3"):
        refuse_changes(make_study({"epochs": 3}), optuna_uri())


def test_another_programs_study_is_refused(folder, make_study):
    optuna.create_study(study_name="s", storage=optuna_uri()).add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(InputError, match="another program"):
        refuse_changes(make_study(), optuna_uri())


def test_the_ledger_survives_without_passwords_in_errors(folder, make_study):
    with pytest.raises(InputError, match="cannot be used") as refused:
        Ledger(make_study(), "sqlite:////nowhere/at/all/optuna.db")
    assert "/nowhere" in str(refused.value)


class Counting(Meter):
    """Keeps what it is told."""

    def __init__(self):
        self.outcomes, self.seconds, self.stood = [], [], []

    def count_trial(self, outcome):
        self.outcomes.append(outcome)

    def observe_ask(self, seconds):
        self.seconds.append(seconds)

    def observe_log(self, seconds):
        self.seconds.append(seconds)

    def observe_progress(self, backlog, hypervolume):
        self.stood.append((backlog, hypervolume))


def test_how_far_a_study_is_stands_in_its_parent_run_and_is_counted(folder, make_study):
    driver = driver_of(make_study(search={"trials": 3}))
    driver.meter = meter = Counting()
    end(driver, driver.issue(), "collapsed", reason="no path", val_accuracy=0.25)
    assert meter.stood[-1][1] == 0.0
    drain(driver)
    known = load_progress(mlflow_uri())["s"]
    assert known["trials_done"] == 3
    assert known["front"] == len(driver.progress.front) > 0
    assert known["hypervolume"] == meter.stood[-1][1] > 0
    assert meter.outcomes == ["collapsed", "trained", "trained"]
    assert len(meter.seconds) >= 6, "three asks, and each trial's way to MLflow"
    again = driver_of(make_study(search={"trials": 3}))
    again.close()
    assert load_progress(mlflow_uri())["s"] == known


def test_a_trial_that_gives_way_to_another_study_has_lost_nothing(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}, resources={"retries": 0}))
    given = driver.issue()
    assert (driver.wanted, driver.running) == (1, 1)
    driver.hand_back_one(given.number, given.attempt)
    assert (driver.wanted, driver.running) == (1, 0)
    again = driver.issue()
    assert (again.number, again.attempt, again.fields) == (given.number, 2, given.fields)
    driver.hand_back_one(given.number, given.attempt)  # what the first attempt's worker had still to say
    assert driver.running == 1
    end(driver, again)
    driver.close()
    assert [trial.state.name for trial in optuna_trials()] == ["COMPLETE"]
    assert driver.wanted == 0


def test_a_lost_node_is_no_retry_ten_times(folder, make_study):
    study = make_study(search={"trials": 1}, resources={"retries": 1})
    driver = driver_of(study)
    for loss in range(10):
        assignment = driver.issue()
        if loss == 5:  # a restart in the middle of an attempt: the count stands in the ledger
            driver = driver_of(study)
            assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "node", "its node was lost")
    assert not driver.is_finished
    for _ in range(2):  # the eleventh counts, and there is one retry
        assignment = driver.issue()
        driver.report_loss(assignment.number, assignment.attempt, "node", "its node was lost")
    driver.close()
    assert load_table("s").loc[0, "reason"] == "its node was lost; failed after 13 attempts"


def test_a_worker_that_dies_alone_counts_beside_lost_nodes(folder, make_study):
    driver = driver_of(make_study(search={"trials": 1}, resources={"retries": 0}))
    first = driver.issue()
    driver.report_loss(first.number, first.attempt, "node", "its node was lost")
    again = driver.issue()
    driver.report_loss(again.number, again.attempt, "lost", "its worker ended")
    driver.close()
    assert load_table("s").loc[0, "reason"] == "its worker ended; failed after 2 attempts"


def fail(driver, count):
    for _ in range(count):
        end(driver, driver.issue(), "failed", reason="RuntimeError: mine")


def test_five_equal_failures_end_a_search_that_goes_on_when_it_is_asked_again(folder, make_study):
    study = make_study(search={"trials": 12})
    driver = driver_of(study)
    fail(driver, 3)
    driver.close()
    assert driver.failure_reason is None
    driver = driver_of(study)  # a restart in between changes nothing
    fail(driver, 1)
    running = driver.issue()
    fail(driver, 1)
    assert driver.failure_reason == "the last 5 trials failed for the same reason: RuntimeError: mine"
    assert driver.issue() is None
    assert not driver.is_finished, "what runs may end"
    end(driver, running)
    assert driver.is_finished
    driver.close()
    assert is_over(study), "no supervisor starts it again"

    mended = driver_of(study)
    assert mended.failure_reason is None
    assert not mended.is_finished
    end(mended, mended.issue())
    assert not is_over(study)
    drain(mended)
    assert len(optuna_trials()) == 12
    assert mended.failure_reason is None
    assert is_over(study)


def test_a_search_whose_last_trials_fail_has_not_been_given_up(folder, make_study):
    driver = driver_of(make_study(search={"trials": 5}))
    fail(driver, 5)
    driver.close()
    assert driver.is_finished
    assert driver.failure_reason is None


def test_more_failures_may_be_borne(folder, make_study):
    driver = driver_of(make_study(search={"trials": 12, "max_failures": 7}))
    fail(driver, 8)
    assert driver.issue() is None
    assert driver.failure_reason.startswith(
        "8 of 8 trials failed, more than `search.max_failures: 7` allows; the last failure:"
    )
    driver.close()


class FailingCluster:
    """A cluster on which each trial fails."""

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin(self):
        pass

    def start(self):
        pass

    def drive(self, driver):
        while assignment := driver.issue():
            end(driver, assignment, "failed", reason="RuntimeError: mine")
        driver.close()


def test_a_hopeless_study_ends_with_its_reason_and_exit_code_1(folder, make_study, monkeypatch):
    monkeypatch.setattr(run, "RaySession", FailingCluster)
    written = make_study(search={"trials": 12}).model_dump(include={"study", "trial"})
    (folder / "s.yaml").write_text(yaml.safe_dump({**written, "search": {"trials": 12}}))
    for trials in (5, 10):  # asked again the study goes on
        done = CliRunner().invoke(main, ["search", "s.yaml"])
        assert done.exit_code == 1
        reason = "the last 5 trials failed for the same reason: RuntimeError: mine."
        assert f"forcetune: the search was given up: {reason}" in done.stderr
        assert "the same command continues with the remaining trials" in done.stderr
        assert len(optuna_trials()) == trials
    done = CliRunner().invoke(main, ["search", "s.yaml"])
    assert (done.exit_code, len(optuna_trials())) == (1, 12), "the last two are no five in a row"
    assert isinstance(done.exception, SystemExit)
    assert "12 failed" in done.output
