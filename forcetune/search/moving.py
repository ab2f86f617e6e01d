"""`forcetune move`: the move of a study with its companions to other stores, unchanged."""

import json
from collections.abc import Callable
from contextlib import ExitStack

import optuna

from forcetune import tracking
from forcetune.errors import InputError, StoppedError
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.storage import delete_study, folder_of, has_study, open_storage, read_system_attrs, rename_study
from forcetune.ledger.writes import DATABASE_ERRORS, write_patiently
from forcetune.names import COMPANION
from forcetune.search.deletion import exists, find_contents
from forcetune.state_files import copy_folder, has_folder, remove_folder
from forcetune.stores import (
    absolute_uri,
    get_cost_file,
    hide_password,
    innermost_message,
    is_http,
    is_postgresql,
    mlflow_uri,
    optuna_uri,
    sqlite_path,
    state_folder,
)
from forcetune.tracking import MOVED_FROM_TAG, MOVING_SUFFIX, RegistryError


def move(study: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Copy a study and its companion to other stores, and delete them here once the copies are complete.

    After a kill, the same command keeps what was copied completely, and copies an incomplete part again from its
    beginning. Such a part has a name of its own in the target store until it is complete and was compared. Registered
    networks go with their runs.

    Args:
        study: The name of the study.
        ledger: The address of the Optuna storage that gets the trials; None leaves the trials where they are.
        runs: The address of the MLflow store that gets the runs; None leaves the runs where they are.
        say: Called with a line of text for what was done.

    Raises:
        InputError: There is no such study, a store cannot be used, or it has a different study of that name.
        HeldError: A driver runs the study or its companions.
        StoppedError: A copy differs from its source, and both are kept for inspection; or a store refuses a write.
    """
    check_targets(ledger, runs)
    ledger, runs = _make_absolute(ledger, runs)
    find_contents(study)
    names = [name for name in (study + COMPANION, study) if exists(name)]
    with ExitStack() as stack:
        for name in (study, study + COMPANION):
            for uri in filter(None, (optuna_uri(), ledger)):
                stack.enter_context(driver_lock(name, uri))
        for name in names:
            if runs:
                tracking.copy_experiment(name, mlflow_uri(), runs, say)
            if ledger and has_study(name, optuna_uri()):
                _copy_study(name, ledger)
        if runs:
            _move_registered(study, runs, say)
        for name in names:
            if runs:
                tracking.delete_experiment(name, mlflow_uri())
            if ledger and has_study(name, optuna_uri()):
                if folder_of(name, optuna_uri()) != folder_of(name, ledger):
                    remove_folder(folder_of(name, optuna_uri()))
                if state_folder(optuna_uri()) != state_folder(ledger):
                    get_cost_file(name).unlink(missing_ok=True)  # it is about this machine; `check` writes a new one
                delete_study(name, optuna_uri())


def _move_registered(study: str, runs: str, say: Callable[[str], None]) -> None:
    """Move the registered networks of a study whose runs were copied, unless another study has the name there."""
    has_runs = tracking.count_runs(study, mlflow_uri()) > 0  # none where an earlier call has deleted the study here
    for model in tracking.load_table(study, mlflow_uri()).registered if has_runs else ():
        try:
            count = tracking.move_versions(model, study, mlflow_uri(), runs)
        except RegistryError as error:
            raise InputError(
                f"{error}. The study is still here; once the registry answers, the same command goes on"
            ) from error
        except InputError as error:
            say(
                f"the networks of {model} were not moved: {error}. The next `mlflow gc` deletes their files; in a "
                f"shell that names the new stores, `forcetune export {study}/TRIAL --register NAME` registers the "
                "network of a trial under another name"
            )
            continue
        if count:
            say(f"moved: the versions of the registered model {model} ({count}), with new numbers and their aliases")


def check_targets(ledger: str | None, runs: str | None) -> None:
    """Check the targets of a move.

    Args:
        ledger: The address of an Optuna storage; None where the trials stay.
        runs: The address of an MLflow store; None where the runs stay.

    Raises:
        InputError: Both targets are None, an address is not one of a store, or a target is where the study is already.
    """
    ledger, runs = _make_absolute(ledger, runs)
    if ledger and sqlite_path(ledger) is None and not is_postgresql(ledger):
        raise InputError(
            f"--to {hide_password(ledger)}: this is not the address of an Optuna storage; allowed: sqlite:///FILE and "
            "postgresql://HOST/DATABASE"
        )
    if not (ledger or runs):
        raise InputError("no target is named; allowed: --to STORAGE for the trials, --mlflow URI for the runs, or both")
    if runs and sqlite_path(runs) is None and not (is_http(runs) or is_postgresql(runs)):
        raise InputError(
            f"--mlflow {hide_password(runs)}: this is not the address of an MLflow store; allowed: http://HOST:PORT, "
            "sqlite:///FILE and postgresql://HOST/DATABASE"
        )
    for option, target, source in (("--to", ledger, optuna_uri()), ("--mlflow", runs, mlflow_uri())):
        if target and target == source:
            raise InputError(f"{option} {hide_password(target)}: the study is already there")


def _make_absolute(ledger: str | None, runs: str | None) -> tuple[str | None, str | None]:
    return ledger and absolute_uri(ledger), runs and absolute_uri(runs)


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
    stores = {"from_storage": open_storage(source), "to_storage": open_storage(target)}
    try:
        optuna.copy_study(from_study_name=name, to_study_name=name + MOVING_SUFFIX, **stores)
    except DATABASE_ERRORS as error:
        raise StoppedError(
            f"{name} was not copied from the ledger {hide_password(source)} to {hide_password(target)}: "
            f"{innermost_message(error)}. Run the same command again, which begins the copy anew"
        ) from error
    copied = optuna.load_study(study_name=name + MOVING_SUFFIX, storage=open_storage(target))
    if _read_content(name, source) != _read_content(name + MOVING_SUFFIX, target):
        raise StoppedError(
            f"the copied trials of {name} in {hide_password(target)} differ from the originals; both are kept"
        )
    write_patiently(lambda: copied.set_user_attr(MOVED_FROM_TAG, hide_password(source)), target)
    source_folder, target_folder = folder_of(name, source), folder_of(name + MOVING_SUFFIX, target, name)
    if has_folder(source_folder) and source_folder != target_folder:
        copy_folder(source_folder, target_folder)
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
