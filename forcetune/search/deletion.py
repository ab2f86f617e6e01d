"""`forcetune delete`: a study with its companions leaves both stores and the disk."""

import shutil
from dataclasses import dataclass

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.names import COMPANION
from forcetune.search.cost import cost_file
from forcetune.search.driver_lock import driver_lock
from forcetune.search.ledger import counted, delete_study, folder_of, is_foreign, known, trials_of
from forcetune.stores import mlflow_uri, optuna_uri, shown


@dataclass(frozen=True)
class Contents:
    """What the stores have of a study and of its companion, in trials and in runs."""

    trials: int
    companions: int
    runs: int


def find(study: str) -> Contents:
    """Return what `delete` would delete. Raises InputError where neither store has it, or it is no study of ours."""
    names = (study, study + COMPANION)
    if not any(known(name, optuna_uri()) or tracking.exists(name, mlflow_uri()) for name in names):
        raise InputError(f"neither {shown(optuna_uri())} nor {shown(mlflow_uri())} has a study {study!r}")
    if is_foreign(study, optuna_uri()) or tracking.is_foreign(study, mlflow_uri()):
        raise InputError(f"{study!r} is no study of forcetune, but of another program; nothing is deleted")
    trials, companions = (len(counted(trials_of(name, optuna_uri()))) for name in names)
    return Contents(trials, companions, sum(tracking.count_runs(name, mlflow_uri()) for name in names))


def delete(study: str) -> None:
    """Delete a study and its companion; a kill in between leaves less, and the same command deletes the rest.

    Raises:
        HeldError: A driver runs the study or its companions; nothing is deleted then.
    """
    with driver_lock(study, optuna_uri()), driver_lock(study + COMPANION, optuna_uri()):
        for name in (study + COMPANION, study):
            tracking.delete_experiment(name, mlflow_uri())
            if known(name, optuna_uri()):
                shutil.rmtree(folder_of(name, optuna_uri()), ignore_errors=True)
                cost_file(name).unlink(missing_ok=True)
                delete_study(name, optuna_uri())
