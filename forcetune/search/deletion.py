"""`forcetune delete`: the deletion of a study with its companions from both stores and from the disk."""

from dataclasses import dataclass

from forcetune import tracking
from forcetune.errors import InputError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.storage import delete_study, folder_of, has_study, is_foreign
from forcetune.ledger.trials import load_trials, select_counted
from forcetune.names import COMPANION
from forcetune.state_files import remove_folder
from forcetune.stores import get_cost_file, hide_password, mlflow_uri, optuna_uri


@dataclass(frozen=True)
class Contents:
    """The numbers of trials, companions and runs that the stores have of a study and of its companion."""

    trials: int
    companions: int
    runs: int


def find_contents(study: str) -> Contents:
    """Return the numbers of trials and runs that `delete` would delete.

    Args:
        study: The name of the study.

    Raises:
        InputError: Neither store has the study, or another program made it.
    """
    names = (study, study + COMPANION)
    if not any(map(exists, names)):
        raise InputError(
            f"neither {hide_password(optuna_uri())} nor {hide_password(mlflow_uri())} has a study {study!r}"
        )
    if is_foreign(study, optuna_uri()) or tracking.is_foreign(study, mlflow_uri()):
        raise InputError(f"{study!r} was made by another program, not by forcetune; nothing was deleted")
    trials, companions = (len(select_counted(load_trials(name, optuna_uri()))) for name in names)
    return Contents(trials, companions, sum(tracking.count_runs(name, mlflow_uri()) for name in names))


def exists(name: str) -> bool:
    """Return whether one of the stores has a study of this name."""
    return has_study(name, optuna_uri()) or tracking.has_experiment(name, mlflow_uri())


def delete(study: str) -> None:
    """Delete a study and its companion. After a kill in between the same command deletes what is left.

    Args:
        study: The name of the study.

    Raises:
        HeldError: A driver runs the study or its companions; nothing is deleted then.
    """
    with driver_lock(study, optuna_uri()), driver_lock(study + COMPANION, optuna_uri()):
        for name in (study + COMPANION, study):
            tracking.delete_experiment(name, mlflow_uri())
            if has_study(name, optuna_uri()):
                remove_folder(folder_of(name, optuna_uri()))
                get_cost_file(name).unlink(missing_ok=True)
                delete_study(name, optuna_uri())
