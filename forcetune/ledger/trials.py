"""The trials of a study as the ledger has them: which are in force, which count, and what became of each."""

from collections.abc import Iterable, Sequence
from copy import copy

import optuna
from optuna.trial import FrozenTrial, TrialState

from forcetune.ledger.messages import TrialOutcome
from forcetune.ledger.storage import load_optuna_study, read_system_attrs

# Attributes of a trial that runs in place of a failed one:
SUPERSEDES_ATTR = "supersedes"  # the number of the failed trial
RETRIED_AT_ATTR = "retried"  # since when it does so, in ms since 1970
# The study's attribute with what became of a trial, and its curve, is this and the trial's number.
OUTCOME_ATTR_PREFIX = "forcetune.ended:"
OFF_FRONT_CONSTRAINT = "constraints:off_front"  # keeps stopped and collapsed trials off the front


def load_trials(name: str, uri: str) -> list[FrozenTrial]:
    """Return all trials of a study in the order of their numbers; none where the store does not have the study."""
    study = load_optuna_study(name, uri)
    return read_trials(study) if study else []


def select_current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that are in force: all but the failed trials that another trial replaces."""
    superseded = {trial.user_attrs[SUPERSEDES_ATTR] for trial in trials if is_retry(trial)}
    return [trial for trial in trials if trial.number not in superseded]


def is_retry(trial: FrozenTrial) -> bool:
    """Return whether a trial runs, or has run, in place of a failed one. A duplicate of such a trial is PRUNED."""
    return SUPERSEDES_ATTR in trial.user_attrs and trial.state != TrialState.PRUNED


def select_counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count towards `trials`: all but superseded trials and repeated proposals."""
    return [trial for trial in select_current(trials) if trial.state != TrialState.PRUNED]


def retried_at(trial: FrozenTrial) -> int | None:
    """Return since when a trial runs in place of a failed one, in ms since 1970; None where it does not."""
    return trial.user_attrs.get(RETRIED_AT_ATTR) if is_retry(trial) else None


def is_failed(trial: FrozenTrial) -> bool:
    """Return whether this is a trial of forcetune's that failed after its retries."""
    return trial.state == TrialState.FAIL and "fields" in trial.user_attrs


def is_on_front(trial: FrozenTrial) -> bool:
    """Return whether a trial may stand on the front: it is COMPLETE, and was trained to its end."""
    return trial.state == TrialState.COMPLETE and OFF_FRONT_CONSTRAINT not in trial.system_attrs


def is_fresh_seed(trial: FrozenTrial) -> bool:
    """Return whether a companion runs a point of the front again with a fresh seed; companions of nights have tags."""
    return "of" in trial.user_attrs and "marks" not in trial.user_attrs


def read_outcomes(trials: Iterable[FrozenTrial]) -> list[TrialOutcome]:
    """Return the outcomes of those of the trials that have ended."""
    return [TrialOutcome(**trial.user_attrs["ended"]) for trial in trials if "ended" in trial.user_attrs]


def read_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the study's trials, each with its record as the attribute `ended`.

    A record holds a whole curve. It is an attribute of the study, since an attribute of a trial would be a column of
    `study.trials_dataframe()`, and a line in Optuna Dashboard. Trials of earlier versions have it as an attribute.
    """
    attrs = read_system_attrs(study)
    trials = []
    for trial in study.get_trials(deepcopy=False):
        if record := attrs.get(f"{OUTCOME_ATTR_PREFIX}{trial.number}"):
            trial = copy(trial)  # since Optuna shares its own object with all its callers
            trial.user_attrs = {**trial.user_attrs, "ended": record}
        trials.append(trial)
    return trials
