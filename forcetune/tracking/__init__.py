"""Trials in MLflow: written run by run, read back as a table. Everything that knows MLflow is here."""

from forcetune.tracking.client import check_answers, delete_experiment, has_experiment, is_deleted, restore_experiment
from forcetune.tracking.copying import MOVED_FROM_TAG, MOVING_SUFFIX, copy_experiment
from forcetune.tracking.curves import load_curves
from forcetune.tracking.experiments import Experiment, list_experiments
from forcetune.tracking.origin import RUN_CONTEXT_VARIABLE, collect_origin_tags
from forcetune.tracking.records import Record, list_records, log_page, read_json
from forcetune.tracking.runs import UnknownError, count_runs, format_params, is_foreign, load_runs
from forcetune.tracking.schema import make_tables
from forcetune.tracking.tables import (
    FRONT_TAG,
    KNEE_TAG,
    TrialTable,
    fetch_masks,
    find_run,
    load_companions,
    load_progress,
    load_reruns,
    load_run_metrics,
    load_run_tags,
    load_study_file,
    load_table,
    load_trial_fields,
    read_file,
    select_reruns,
)
from forcetune.tracking.writing import (
    KEPT_BY_SEARCH,
    KEPT_BY_USER,
    REFUSED_TAG,
    WEIGHTS_DROPPED,
    WEIGHTS_TAG,
    Epoch,
    LoggedContent,
    Tracker,
)

__all__ = [
    "FRONT_TAG",
    "KEPT_BY_SEARCH",
    "KEPT_BY_USER",
    "KNEE_TAG",
    "MOVED_FROM_TAG",
    "MOVING_SUFFIX",
    "REFUSED_TAG",
    "RUN_CONTEXT_VARIABLE",
    "WEIGHTS_DROPPED",
    "WEIGHTS_TAG",
    "Epoch",
    "Experiment",
    "LoggedContent",
    "Record",
    "Tracker",
    "TrialTable",
    "UnknownError",
    "check_answers",
    "collect_origin_tags",
    "copy_experiment",
    "count_runs",
    "delete_experiment",
    "fetch_masks",
    "find_run",
    "format_params",
    "has_experiment",
    "is_deleted",
    "is_foreign",
    "list_experiments",
    "list_records",
    "load_companions",
    "load_curves",
    "load_progress",
    "load_reruns",
    "load_run_metrics",
    "load_run_tags",
    "load_runs",
    "load_study_file",
    "load_table",
    "load_trial_fields",
    "log_page",
    "make_tables",
    "read_file",
    "read_json",
    "restore_experiment",
    "select_reruns",
]
