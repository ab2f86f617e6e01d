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
from forcetune.search.cost import cost_file
from forcetune.search.hold import hold
from forcetune.search.ledger import delete_study, folder_of, known, open_storage, rename_study
from forcetune.stores import is_postgresql, mlflow_uri, optuna_uri, shown, sqlite_path
from forcetune.tracking import BEGUN, MOVED_FROM


def move(study: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Move a study and its companion to other stores, and delete them here once all of it is there.

    After a kill the same command keeps what was copied whole, and copies again, from its beginning, the part that was
    not. Such a part has a name of its own in the target store until it is whole.

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
                stack.enter_context(hold(name, uri))
        for name in names:
            if runs:
                tracking.copy_experiment(name, mlflow_uri(), runs, say)
            if ledger and known(name, optuna_uri()):
                _copy_study(name, ledger)
        for name in names:
            if runs:
                tracking.delete_experiment(name, mlflow_uri())
            if ledger and known(name, optuna_uri()):
                if folder_of(name, optuna_uri()) != folder_of(name, ledger):
                    shutil.rmtree(folder_of(name, optuna_uri()), ignore_errors=True)
                    cost_file(name).unlink(missing_ok=True)
                delete_study(name, optuna_uri())


def check_targets(ledger: str | None, runs: str | None) -> None:
    """Raise InputError where nothing is asked for, or what is asked for is where the study is."""
    if ledger and sqlite_path(ledger) is None and not is_postgresql(ledger):
        raise InputError(
            f"--to {shown(ledger)}: this is no address of an Optuna storage; allowed: sqlite:///FILE and "
            "postgresql://HOST/DATABASE"
        )
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
        if there.user_attrs.get(MOVED_FROM) != shown(source) or _content(name, source) != _content(name, target):
            raise InputError(
                f"{shown(target)} has a study {name!r} already, and it is not the same as the one here; nothing is "
                "moved"
            )
        return
    if known(name + BEGUN, target):
        delete_study(name + BEGUN, target)
    optuna.copy_study(
        from_study_name=name, from_storage=open_storage(source), to_storage=open_storage(target),
        to_study_name=name + BEGUN,
    )  # fmt: skip
    copied = optuna.load_study(study_name=name + BEGUN, storage=open_storage(target))
    if _content(name, source) != _content(name + BEGUN, target):
        raise StoppedError(f"the trials of {name} in {shown(target)} are not what they are here; both are kept")
    copied.set_user_attr(MOVED_FROM, shown(source))
    before, after = folder_of(name, source), folder_of(name + BEGUN, target, name)
    if before.is_dir() and before != after:
        shutil.copytree(before, after, dirs_exist_ok=True)
    rename_study(name + BEGUN, name, target)  # last: from now on it is there, with all that belongs to it


def _content(name: str, uri: str) -> str:
    """All that the store has of a study but where it was before."""
    study = optuna.load_study(study_name=name, storage=open_storage(uri))
    attrs = {key: value for key, value in study.user_attrs.items() if key != MOVED_FROM}
    records = study._storage.get_study_system_attrs(study._study_id)
    trials = [
        [trial.number, trial.state.name, trial.params, trial.values, trial.user_attrs, trial.system_attrs]
        for trial in study.get_trials(deepcopy=False)
    ]
    return json.dumps([attrs, records, trials], sort_keys=True, default=str)
