"""One trial, from its fields to its metrics: data, model, masks and training, without Ray and MLflow."""

from forcetune.trial.checks import (
    check,
    check_channels,
    check_rule,
    check_saliency,
    check_trials,
    count_epoch_steps,
    find_reported_metrics,
    measure_epoch_seconds,
)
from forcetune.trial.preparation import EVALUATION_BATCH_SIZE, PreparedTrial, derive_seed, prepare
from forcetune.trial.reuse import clear_pruning_caches
from forcetune.trial.trial_run import TrialRun, resume, run

__all__ = [
    "EVALUATION_BATCH_SIZE",
    "PreparedTrial",
    "TrialRun",
    "check",
    "check_channels",
    "check_rule",
    "check_saliency",
    "check_trials",
    "clear_pruning_caches",
    "count_epoch_steps",
    "derive_seed",
    "find_reported_metrics",
    "measure_epoch_seconds",
    "prepare",
    "resume",
    "run",
]
