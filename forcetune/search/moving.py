"""`forcetune move`: a study with its companions goes to other stores, as it is."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack

import optuna

from forcetune import tracking
from forcetune.errors import InputError, StoppedError
from forcetune.names import COMPANION
from forcetune.search import deletion
from forcetune.search.driver_lock import driver_lock
from forcetune.search.ledger import delete_study, folder_of, known, open_storage, rename_study
from forcetune.stores import mlflow_uri, optuna_uri, shown
from forcetune.tracking import BEGUN, MOVED_FROM


def move(study: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Move a study and its companion to other stores, and delete them here once all of it is there.

    After a kill the same command goes on. What one store has of it, it has whole: a part bears another name.

    Args:
        study: Its name.
        ledger: The Optuna storage that shall have it; None leaves it where it is.
        runs: The MLflow store that shall have its runs; None leaves them where they are.
        say: Is told what was done.

    Raises:
        InputError: There is no such study, a store cannot be used, or it has another study of that name.
        HeldError: A driver runs the study or its companions.
        StoppedError: What was copied is not what was to be copied; both are left for a look.
    """
    deletion.find(study)
    names = [name for name in (study + COMPANION, study) if _is_there(name)]
    with ExitStack() as stack:
        for name in (study, study + COMPANION):
            for uri in filter(None, (optuna_uri(), ledger)):
                stack.enter_context(driver_lock(name, uri))
        for name in names:
            if runs:
                tracking.copy_experiment(name, mlflow_uri(), runs, say)
                if tracking.exists(name, mlflow_uri()) and (
                    wrong := tracking.find_difference(name, mlflow_uri(), runs)
                ):
                    raise StoppedError(f"{name} in {shown(runs)} is not what it is here: {wrong}; both are kept")
            if ledger and known(name, optuna_uri()):
                _copy_study(name, ledger)
        for name in names:
            if runs:
                tracking.delete_experiment(name, mlflow_uri())
            if ledger and known(name, optuna_uri()):
                shutil.rmtree(folder_of(name, optuna_uri()), ignore_errors=True)
                delete_study(name, optuna_uri())


def check_targets(ledger: str | None, runs: str | None) -> None:
    """Raise InputError where nothing is asked for, or what is asked for is where the study is."""
    if not (ledger or runs):
        raise InputError("nothing to do: allowed: --to STORAGE for the trials, --mlflow URI for the runs, or both")
    if runs and not runs.startswith(("http://", "https://", "sqlite:///", "postgresql")):
        raise InputError(
            f"--mlflow {shown(runs)}: this is no address of a store; allowed: http://HOST:PORT, sqlite:///FILE and "
            "postgresql://HOST/DATABASE"
        )
    for option, target, here in (("--to", ledger, optuna_uri()), ("--mlflow", runs, mlflow_uri())):
        if target and target == here:
            raise InputError(f"{option} {shown(target)}: the study is there already")


def _is_there(name: str) -> bool:
    return known(name, optuna_uri()) or tracking.exists(name, mlflow_uri())


def _copy_study(name: str, target: str) -> None:
    """Copy trials with all that is known of them, and the checkpoints of those that have not ended."""
    source = optuna_uri()
    if known(name, target):
        there = optuna.load_study(study_name=name, storage=open_storage(target))
        if there.user_attrs.get(MOVED_FROM) != shown(source):
            raise InputError(f"{shown(target)} has a study {name!r} already; nothing is moved")
        return
    if known(name + BEGUN, target):
        delete_study(name + BEGUN, target)
    optuna.copy_study(
        from_study_name=name, from_storage=open_storage(source), to_storage=open_storage(target),
        to_study_name=name + BEGUN,
    )  # fmt: skip
    copied = optuna.load_study(study_name=name + BEGUN, storage=open_storage(target))
    copied.set_user_attr(MOVED_FROM, shown(source))
    before = optuna.load_study(study_name=name, storage=open_storage(source)).get_trials(deepcopy=False)
    if [_comparable(trial) for trial in before] != [_comparable(trial) for trial in copied.get_trials(deepcopy=False)]:
        raise StoppedError(f"the trials of {name} in {shown(target)} are not what they are here; both are kept")
    folder = folder_of(name, source)
    rename_study(name + BEGUN, name, target)
    if folder.is_dir():
        shutil.copytree(folder, folder_of(name, target), dirs_exist_ok=True)


def _comparable(trial: optuna.trial.FrozenTrial) -> str:
    attrs = [trial.params, trial.values, trial.user_attrs, trial.system_attrs]
    return json.dumps([trial.number, trial.state.name, *attrs], sort_keys=True, default=str)
