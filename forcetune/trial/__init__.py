"""One trial from its fields to its metrics: data, model, masks, training; no Ray, no MLflow."""

from forcetune.trial.checks import check, check_each, check_saliency, reported, seconds_an_epoch
from forcetune.trial.preparation import EVALUATION_BATCH, PreparedTrial, prepare, stream
from forcetune.trial.reuse import forget
from forcetune.trial.trial_run import TrialRun, resume, run

__all__ = [
    "EVALUATION_BATCH",
    "PreparedTrial",
    "TrialRun",
    "check",
    "check_each",
    "check_saliency",
    "forget",
    "prepare",
    "reported",
    "resume",
    "run",
    "seconds_an_epoch",
    "stream",
]
