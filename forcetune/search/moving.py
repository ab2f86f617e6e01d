"""`forcetune move`: the move of a study with its companions to other stores, unchanged."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack

import optuna

from forcetune import tracking
from forcetune.errors import InputError, StoppedError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.ledger import (
    delete_study,
    folder_of,
    has_study,
    open_storage,
    read_system_attrs,
    rename_study,
)
from forcetune.names import COMPANION
from forcetune.search import deletion
from forcetune.stores import (
    get_cost_file,
    hide_password,
    is_postgresql,
    mlflow_uri,
    optuna_uri,
    sqlite_path,
    state_folder,
)
from forcetune.tracking import MOVED_FROM_TAG, MOVING_SUFFIX


def move(study: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Copy a study and its companion to other stores, and delete them here once the copies are complete.

    After a kill, the same command keeps what was copied completely, and copies an incomplete part again from its
    beginning. Such a part has a name of its own in the target store until it is complete and was compared.

    Args:
        study: The name of the study.
        ledger: The address of the Optuna storage that gets the trials; None leaves the trials where they are.
        runs: The address of the MLflow store that gets the runs; None leaves the runs where they are.
        say: Called with a line of text for what was done.

    Raises:
        InputError: There is no such study, a store cannot be used, or it has a different study of that name.
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
            if ledger and has_study(name, optuna_uri()):
                _copy_study(name, ledger)
        for name in names:
            if runs:
                tracking.delete_experiment(name, mlflow_uri())
            if ledger and has_study(name, optuna_uri()):
                if folder_of(name, optuna_uri()) != folder_of(name, ledger):
                    shutil.rmtree(folder_of(name, optuna_uri()), ignore_errors=True)
                if state_folder(optuna_uri()) != state_folder(ledger):
                    get_cost_file(name).unlink(missing_ok=True)  # it tells of this machine; `check` writes a new one
                delete_study(name, optuna_uri())


def check_targets(ledger: str | None, runs: str | None) -> None:
    """Check the targets of a move.

    Args:
        ledger: The address of an Optuna storage; None where the trials stay.
        runs: The address of an MLflow store; None where the runs stay.

    Raises:
        InputError: Both targets are None, an address is not one of a store, or a target is where the study is already.
    """
    if ledger and sqlite_path(ledger) is None and not is_postgresql(ledger):
        raise InputError(
            f"--to {hide_password(ledger)}: this is not the address of an Optuna storage; allowed: sqlite:///FILE and "
            "postgresql://HOST/DATABASE"
        )
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
        is_copy = existing.user_attrs.get(MOVED_FROM_TAG) == hide_password(source)
        if not is_copy or _read_content(name, source) != _read_content(name, target):
            raise InputError(
                f"{hide_password(target)} already has a study {name!r}, which differs from the one here; nothing was "
                "moved"
            )
        return
    if has_study(name + MOVING_SUFFIX, target):
        delete_study(name + MOVING_SUFFIX, target)
    optuna.copy_study(
        from_study_name=name, from_storage=open_storage(source), to_storage=open_storage(target),
        to_study_name=name + MOVING_SUFFIX,
    )  # fmt: skip
    copied = optuna.load_study(study_name=name + MOVING_SUFFIX, storage=open_storage(target))
    if _read_content(name, source) != _read_content(name + MOVING_SUFFIX, target):
        raise StoppedError(
            f"the copied trials of {name} in {hide_password(target)} differ from the originals; both are kept"
        )
    copied.set_user_attr(MOVED_FROM_TAG, hide_password(source))
    source_folder, target_folder = folder_of(name, source), folder_of(name + MOVING_SUFFIX, target, name)
    if source_folder.is_dir() and source_folder != target_folder:
        shutil.copytree(source_folder, target_folder, dirs_exist_ok=True)
    rename_study(name + MOVING_SUFFIX, name, target)  # last, since the name says that the copy is complete


def _read_content(name: str, uri: str) -> str:
    """Return all that the store has of a study as text, except the store that the study was in before."""
    study = optuna.load_study(study_name=name, storage=open_storage(uri))
    attrs = {key: value for key, value in study.user_attrs.items() if key != MOVED_FROM_TAG}
    records = read_system_attrs(study)
    trials = [
        [trial.number, trial.state.name, trial.params, trial.values, trial.user_attrs, trial.system_attrs]
        for trial in study.get_trials(deepcopy=False)
    ]
    return json.dumps([attrs, records, trials], sort_keys=True, default=str)
