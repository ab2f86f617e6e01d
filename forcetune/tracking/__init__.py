"""Trials in MLflow: written run by run, read back as a table. Everything that knows MLflow is here."""

from forcetune.tracking.client import check_answers, delete_experiment, exists, is_deleted, restore
from forcetune.tracking.copying import BEGUN, MOVED_FROM, copy_experiment
from forcetune.tracking.curves import curves
from forcetune.tracking.experiments import Experiment, experiments
from forcetune.tracking.origin import CONTEXT, origin_tags
from forcetune.tracking.records import Record, log_page, read_json, records
from forcetune.tracking.runs import UnknownError, count_runs, is_foreign, params, runs
from forcetune.tracking.schema import make_tables
from forcetune.tracking.tables import (
    FRONT,
    KNEE,
    companions,
    fetch_masks,
    find_run,
    progress,
    reruns,
    run_tags,
    study_file,
    table,
    trial_fields,
    without_arms,
)
from forcetune.tracking.writing import REFUSED, Epoch, Logged, Tracker

__all__ = [
    "BEGUN",
    "CONTEXT",
    "FRONT",
    "KNEE",
    "MOVED_FROM",
    "REFUSED",
    "Epoch",
    "Experiment",
    "Logged",
    "Record",
    "Tracker",
    "UnknownError",
    "check_answers",
    "companions",
    "copy_experiment",
    "count_runs",
    "curves",
    "delete_experiment",
    "exists",
    "experiments",
    "fetch_masks",
    "find_run",
    "is_deleted",
    "is_foreign",
    "log_page",
    "make_tables",
    "origin_tags",
    "params",
    "progress",
    "read_json",
    "records",
    "reruns",
    "restore",
    "run_tags",
    "runs",
    "study_file",
    "table",
    "trial_fields",
    "without_arms",
]
