"""`forcetune move`: the move of a study with its companions to other stores, unchanged."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack

import optuna

from forcetune import tracking
from forcetune.errors import InputError, StoppedError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.ledger import delete_study, folder_of, has_study, open_storage, rename_study
from forcetune.names import COMPANION
from forcetune.search import deletion
from forcetune.stores import hide_password, mlflow_uri, optuna_uri
from forcetune.tracking import MOVED_FROM_TAG, MOVING_SUFFIX


def move(study: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Copy a study and its companion to other stores, and delete them here once the copies are complete.

    After a kill the same command goes on. A copy gets the study's name only when it is complete; until then it has
    another name.

    Args:
        study: The name of the study.
        ledger: The address of the Optuna storage that gets the trials; None leaves the trials where they are.
        runs: The address of the MLflow store that gets the runs; None leaves the runs where they are.
        say: Called with a line of text for what was done.

    Raises:
        InputError: There is no such study, a store cannot be used, or it has another study of that name.
        HeldError: A driver runs the study or its companions.
        StoppedError: A copy differs from its source; both are kept for inspection.
    """
    deletion.find(study)
    names = [name for name in (study + COMPANION, study) if _exists(name)]
    with ExitStack() as stack:
        for name in (study, study + COMPANION):
            for uri in filter(None, (optuna_uri(), ledger)):
                stack.enter_context(driver_lock(name, uri))
        for name in names:
            if runs:
                tracking.copy_experiment(name, mlflow_uri(), runs, say)
                if tracking.has_experiment(name, mlflow_uri()) and (
                    difference := tracking.find_difference(name, mlflow_uri(), runs)
                ):
                    raise StoppedError(
                        f"the copy of {name} in {hide_password(runs)} differs from the original: {difference}; "
                        "both are kept"
                    )
            if ledger and has_study(name, optuna_uri()):
                _copy_study(name, ledger)
        for name in names:
            if runs:
                tracking.delete_experiment(name, mlflow_uri())
            if ledger and has_study(name, optuna_uri()):
                shutil.rmtree(folder_of(name, optuna_uri()), ignore_errors=True)
                delete_study(name, optuna_uri())


def check_targets(ledger: str | None, runs: str | None) -> None:
    """Check the targets of a move.

    Args:
        ledger: The address of an Optuna storage; None where the trials stay.
        runs: The address of an MLflow store; None where the runs stay.

    Raises:
        InputError: Both targets are None, an address is not one of a store, or a target is where the study is already.
    """
    if not (ledger or runs):
        raise InputError("no target is named; allowed: --to STORAGE for the trials, --mlflow URI for the runs, or both")
    if runs and not runs.startswith(("http://", "https://", "sqlite:///", "postgresql")):
        raise InputError(
            f"--mlflow {hide_password(runs)}: this is not the address of an MLflow store; allowed: http://HOST:PORT, "
            "sqlite:///FILE and postgresql://HOST/DATABASE"
        )
    for option, target, source in (("--to", ledger, optuna_uri()), ("--mlflow", runs, mlflow_uri())):
        if target and target == source:
            raise InputError(f"{option} {hide_password(target)}: the study is already there")


def _exists(name: str) -> bool:
    return has_study(name, optuna_uri()) or tracking.has_experiment(name, mlflow_uri())


def _copy_study(name: str, target: str) -> None:
    """Copy the Optuna study with all data of its trials, and the checkpoints of the trials that have not ended."""
    source = optuna_uri()
    if has_study(name, target):
        existing = optuna.load_study(study_name=name, storage=open_storage(target))
        if existing.user_attrs.get(MOVED_FROM_TAG) != hide_password(source):
            raise InputError(f"{hide_password(target)} already has another study {name!r}; nothing was moved")
        return
    if has_study(name + MOVING_SUFFIX, target):
        delete_study(name + MOVING_SUFFIX, target)
    optuna.copy_study(
        from_study_name=name, from_storage=open_storage(source), to_storage=open_storage(target),
        to_study_name=name + MOVING_SUFFIX,
    )  # fmt: skip
    copied = optuna.load_study(study_name=name + MOVING_SUFFIX, storage=open_storage(target))
    copied.set_user_attr(MOVED_FROM_TAG, hide_password(source))
    source_trials = optuna.load_study(study_name=name, storage=open_storage(source)).get_trials(deepcopy=False)
    if [_comparable(trial) for trial in source_trials] != [
        _comparable(trial) for trial in copied.get_trials(deepcopy=False)
    ]:
        raise StoppedError(
            f"the copied trials of {name} in {hide_password(target)} differ from the originals; both are kept"
        )
    folder = folder_of(name, source)
    rename_study(name + MOVING_SUFFIX, name, target)
    if folder.is_dir():
        shutil.copytree(folder, folder_of(name, target), dirs_exist_ok=True)


def _comparable(trial: optuna.trial.FrozenTrial) -> str:
    attrs = [trial.params, trial.values, trial.user_attrs, trial.system_attrs]
    return json.dumps([trial.number, trial.state.name, *attrs], sort_keys=True, default=str)
