"""The doctor of damaged stores: it names the damage and repairs it, and then the promise holds."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from drivers import FIRST_FILES, make_driver
from mlflow import MlflowClient
from promise import EPOCH_METRICS, check_promise

from forcetune import tracking
from forcetune.errors import HeldError, InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.ledger import Ledger
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.run import examine_study
from forcetune.search.archive import archive
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import FRONT_TAG, Epoch


def train(driver, outcome="trained"):
    """Run the next trial to its end with the reports of a worker."""
    assignment = driver.issue()
    trial_started = TrialStarted({"density": assignment.trial.density, "macs": 7.0}, "cpu", [])
    driver.report(assignment.number, assignment.attempt, Report(trial_started=trial_started, files=FIRST_FILES))
    first, last = (Epoch(n, 1000 * n, dict.fromkeys(EPOCH_METRICS, n / 4)) for n in (1, 2))
    driver.report(assignment.number, assignment.attempt, Report(epoch=first))
    reason = "RuntimeError: mine" if outcome == "failed" else None
    report = Report({**trial_started.static_metrics, **last.metrics}, last, outcome=outcome, reason=reason)
    driver.end(assignment.number, assignment.attempt, report)


@pytest.fixture
def ended_study(folder, make_study):
    """Return a complete study with two trained trials and a failed one."""
    study = make_study(search={"trials": 3})
    driver = make_driver(study)
    for outcome in ("trained", "trained", "failed"):
        train(driver, outcome)
    driver.close()
    return study


def client():
    return MlflowClient(mlflow_uri())


def row(number=0):
    return tracking.load_table("s").trials.set_index("name").loc[f"trial-{number:04d}"]


def alter(statement, *values):
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


def make_run(**tags):
    experiment = client().get_experiment_by_name("s").experiment_id
    return client().create_run(experiment, tags={f"forcetune.{name}": text for name, text in tags.items()})


def set_another_parent():
    client().set_tag(row()["run_id"], "mlflow.parentRunId", make_run(kind="search").info.run_id)


DAMAGES = {
    "its run is gone": (lambda: client().delete_run(row()["run_id"]), "has no run"),
    "a second run": (lambda: make_run(kind="trial", trial=row()["trial"]), "is a second run of trial 0"),
    "a run of nothing": (lambda: make_run(kind="trial", trial="stranger"), "belongs to no trial in the ledger"),
    "another status": (lambda: client().set_terminated(row()["run_id"], "KILLED"), "its run is KILLED"),
    "still running": (lambda: client().update_run(row()["run_id"], "RUNNING"), "its run is RUNNING"),
    "another outcome": (lambda: client().set_tag(row()["run_id"], "forcetune.outcome", "stopped"), "run has stopped"),
    "another parent": (set_another_parent, "is an extra parent run"),
    "another value": (
        lambda: alter("update latest_metrics set value = 0.9 where key = 'val_accuracy'"),
        "has val_accuracy 0.5, but its run has 0.9",
    ),
    "another param": (lambda: alter("update params set value = '9' where key = 'epochs'"), "has fields that differ"),
    "a metric twice": (
        lambda: client().log_metric(row()["run_id"], "val_loss", 0.3, timestamp=1, step=1),
        "has a run with val_loss logged twice at one step",
    ),
    "a missing epoch": (
        lambda: alter("delete from metrics where run_uuid = ? and step = 1", row()["run_id"]),
        "has a run without the epochs 1",
    ),
    "no parent": (
        lambda: client().delete_run(client().search_runs([client().get_experiment_by_name("s").experiment_id],
        "tags.`forcetune.kind` = 'search'")[0].info.run_id),
        "has no parent run",
    ),
}  # fmt: skip


def test_a_sound_study_has_no_findings(ended_study):
    assert examine_study("s") == ([], [], None)
    assert examine_study("s", mend=True) == ([], [], None)


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_named_and_mended(ended_study, damage, message):
    damage()
    _, findings, _ = examine_study("s")
    assert message in "; ".join(f"{finding.where} {finding.what}" for finding in findings)
    assert examine_study("s")[1] == findings, "an examination changes nothing"
    mended, left, _ = examine_study("s", mend=True)
    assert {*findings} <= {*mended}
    assert [finding.what for finding in left] == (["has a run without masks.npz"] if message == "has no run" else [])
    for parent in client().search_runs([client().get_experiment_by_name("s").experiment_id], "status = 'RUNNING'"):
        client().set_terminated(parent.info.run_id)  # the next search closes a parent that the doctor made
    rows = check_promise("s", 3)
    assert set(rows["outcome"]) == {"trained", "failed"}
    for run, outcome in zip(rows["run_id"], rows["outcome"], strict=True):
        files = {artifact.path for artifact in client().list_artifacts(run)}
        assert outcome == "failed" or message == "has no run" or "masks.npz" in files


def test_masks_that_are_lost_cannot_be_mended(ended_study):
    shutil.rmtree(client().get_run(row()["run_id"]).info.artifact_uri)
    mended, left, _ = examine_study("s", mend=True)
    assert mended == []
    assert [(finding.where, finding.what) for finding in left] == [("trial 0", "has a run without masks.npz")]


def test_a_result_that_is_not_in_both_stores_is_written(folder, make_study, monkeypatch):
    driver = make_driver(make_study(search={"trials": 1}))
    monkeypatch.setattr(driver._outbox, "end", lambda number, outcome: None)
    train(driver)
    driver._outbox.close()
    (waiting,) = examine_study("s")[1]
    assert waiting.what == "has ended, but its result is not in both stores"
    assert examine_study("s", mend=True) == ([waiting], [], None)
    assert FRONT_TAG in client().get_run(row()["run_id"]).data.tags
    assert optuna.load_study(study_name="s", storage=optuna_uri()).trials[0].state.name == "COMPLETE"


def test_an_interrupted_study_is_in_order(folder, make_study):
    driver = make_driver(make_study(search={"trials": 2}))
    train(driver)
    second = driver.issue()
    driver.hand_back()
    driver.close()
    assert examine_study("s")[1] == []
    damaged = Path(second.checkpoints) / "1" / "checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"torn")
    left_over = Path(second.checkpoints).with_name("0077")
    left_over.mkdir()
    mended, left, _ = examine_study("s", mend=True)
    assert ({finding.where for finding in mended}, left) == ({str(damaged), str(left_over)}, [])
    assert not damaged.exists()
    assert not left_over.exists()


def test_a_study_that_runs_is_examined_and_not_mended(ended_study):
    alter("update latest_metrics set value = 0.9 where key = 'val_accuracy'")
    with driver_lock("s", optuna_uri()):
        _, findings, holder = examine_study("s")
        assert "another driver has the study 's': process" in holder
        assert len(findings) == 2
        with pytest.raises(HeldError):
            examine_study("s", mend=True)


def test_an_archive_that_was_begun_is_finished(ended_study):
    Ledger(ended_study, optuna_uri()).begin_archive("s.old")
    (finding,) = examine_study("s")[1]
    assert "s.old" in finding.what
    with pytest.raises(InputError, match="no study 's'"):  # nothing is left under the name
        examine_study("s", mend=True)
    check_promise("s.old", 3)


def test_an_unknown_study(folder, ended_study):
    with pytest.raises(InputError, match=r"no study 'S' of forcetune.*: s$"):
        examine_study("S")


def test_an_archive_where_the_ledger_is_gone(ended_study, folder):
    (folder / "optuna.db").unlink()
    name = archive("s", lambda: None, None, fresh=True)
    assert len(tracking.load_table(name).trials) == 3


def delete_experiment():
    client().delete_experiment(client().get_experiment_by_name("s").experiment_id)


def test_an_experiment_that_was_deleted_in_mlflow_is_named_and_restored(ended_study):
    before = tracking.load_table("s").trials
    delete_experiment()
    for call in (lambda: tracking.load_table("s").trials, lambda: make_driver(ended_study)):
        with pytest.raises(InputError, match="the study 's' was deleted in MLflow.*`forcetune doctor s --repair`"):
            call()
    _, findings, _ = examine_study("s")
    assert [(finding.what, finding.remedy) for finding in findings] == [
        ("has an experiment that was deleted in MLflow", "restore it")
    ]
    examine_study("s", mend=True)
    assert examine_study("s") == ([], [], None)
    assert tracking.load_table("s").trials.equals(before)


@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_a_run_or_experiment_that_is_deleted_while_the_study_runs_is_restored(folder, make_study, deleted):
    study = make_study(search={"trials": 2})
    driver = make_driver(study)
    train(driver)
    driver._outbox.drain(10)
    warnings = []
    driver._outbox.warn = warnings.append
    assignment = driver.issue()
    driver.report(
        assignment.number,
        assignment.attempt,
        Report(trial_started=TrialStarted({"density": 0.1}, "cpu", []), files=FIRST_FILES),
    )
    driver._outbox.drain(10)
    if deleted == "run":
        client().delete_run(row(1)["run_id"])
    else:
        delete_experiment()
    last = Epoch(2, 2000, dict.fromkeys(EPOCH_METRICS, 0.5))
    report = Report({"density": 0.1, **last.metrics}, last, outcome="trained")
    driver.end(assignment.number, assignment.attempt, report)
    driver.close()
    assert len(warnings) == 1
    assert "was deleted in MLflow" in warnings[0]
    assert list(tracking.load_table("s").trials["outcome"]) == ["trained", "trained"]
    assert row(1)["val_accuracy"] == 0.5
