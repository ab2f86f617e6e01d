"""Attributes of a study that one command leaves for the next: retries, an archive that was begun, the announced end."""

from collections.abc import Mapping
from typing import Any

from forcetune.ledger.storage import load_optuna_study
from forcetune.ledger.trials import is_failed, select_current
from forcetune.ledger.writes import write_patiently

ARCHIVE_ATTR = "forcetune.archive"  # the name under which the study is being archived
RETRY_ATTR = "forcetune.retry"  # the numbers of the failed trials that are to be run again
ANNOUNCED_END_ATTR = "forcetune.announced"  # the last end of the study for which the program of `on_end` was started


def request_retry(name: str, uri: str) -> None:
    """Note that the next driver of a study runs its failed trials again, where the store has the study.

    Raises:
        StoppedError: The store does not accept the write.
    """
    study = load_optuna_study(name, uri)
    if study is None:
        return
    if failed := [trial.number for trial in select_current(study.get_trials(deepcopy=False)) if is_failed(trial)]:
        write_patiently(lambda: study.set_user_attr(RETRY_ATTR, failed), uri)


def has_retries(name: str, uri: str) -> bool:
    """Return whether failed trials of the study are still to be run again."""
    study = load_optuna_study(name, uri)
    return study is not None and bool(study.user_attrs.get(RETRY_ATTR))


def load_announced_end(name: str, uri: str) -> dict[str, Any] | None:
    """Return the last end of a study for which the program of `on_end` was started; None where there is none."""
    study = load_optuna_study(name, uri)
    return study.user_attrs.get(ANNOUNCED_END_ATTR) if study else None


def record_announced_end(name: str, uri: str, end: Mapping[str, Any]) -> None:
    """Record that the program of `on_end` was started for this end of a study.

    Raises:
        StoppedError: The store does not accept the write.
    """
    study = load_optuna_study(name, uri)
    if study is not None:
        write_patiently(lambda: study.set_user_attr(ANNOUNCED_END_ATTR, dict(end)), uri)


def pending_archive(name: str, uri: str) -> str | None:
    """Return the name under which a driver that was killed began to archive the study; None where none did."""
    study = load_optuna_study(name, uri)
    return study.user_attrs.get(ARCHIVE_ATTR) if study else None
