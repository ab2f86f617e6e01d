"""A driver on real stores, without Ray, and the reports by which a test takes its trials to their end."""

import optuna
from rich.console import Console

from forcetune.ledger.ledger import Ledger
from forcetune.ledger.messages import Report, TrialStarted
from forcetune.search.driver import Driver
from forcetune.search.progress import Progress
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Epoch, Tracker

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


def report_epoch(driver, assignment, step, accuracy, **more_metrics):
    trial_started = TrialStarted({"density": assignment.trial.density}, "cpu", []) if step == 1 else None
    epoch = Epoch(step, step * 1000, {"val_accuracy": accuracy, **more_metrics})
    metrics = {"density": assignment.trial.density, "train_seconds": 1.5, **epoch.metrics}
    report = Report(metrics, epoch, trial_started, files=FIRST_FILES if trial_started else {})
    return driver.report(assignment.number, assignment.attempt, report)
