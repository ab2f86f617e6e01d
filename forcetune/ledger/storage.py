"""Optuna's storage: it is opened, and its studies are looked up, renamed and deleted."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.study import StudyDirection

from forcetune.errors import InputError
from forcetune.ledger.driver_lock import SCHEMA_LOCK_NAME, driver_lock
from forcetune.ledger.writes import DATABASE_ERRORS, describe_unusable, write_patiently
from forcetune.stores import hide_password, is_postgresql, sqlite_path, state_folder
from forcetune.study import Study

# Attributes of the Optuna study:
STUDY_ATTR = "forcetune.study"  # the study file that its trials were made by
FOLDER_ID_ATTR = "forcetune.state"  # tells the study's folder of checkpoints from those of other ledgers


def directions(study: Study) -> list[StudyDirection]:
    """Return the directions of the study's objectives as Optuna's."""
    optuna_directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [optuna_directions[direction] for direction in study.directions.values()]


def open_storage(uri: str) -> optuna.storages.BaseStorage:
    """Return Optuna's storage at an address; only one process at a time makes its tables.

    Raises:
        InputError: The address is neither one of SQLite nor one of PostgreSQL, or the storage cannot be used.
    """
    if sqlite_path(uri) is None and not is_postgresql(uri):
        raise InputError(
            f"the Optuna storage {hide_password(uri)} is not supported; allowed: sqlite:///FILE and "
            "postgresql://HOST/DATABASE"
        )
    with driver_lock(SCHEMA_LOCK_NAME, uri, wait=True):
        try:
            storage = optuna.storages.RDBStorage(uri, engine_kwargs={"pool_pre_ping": True})
        except DATABASE_ERRORS as error:
            raise InputError(describe_unusable(uri, error)) from error
        return optuna.storages.get_storage(storage)


def has_study(name: str, uri: str) -> bool:
    """Return whether the store has a study of this name; a SQLite file that does not exist is not made."""
    return load_optuna_study(name, uri) is not None


def is_foreign(name: str, uri: str) -> bool:
    """Return whether the store has an Optuna study of this name that another program has made."""
    study = load_optuna_study(name, uri)
    return study is not None and STUDY_ATTR not in study.user_attrs


def folder_of(name: str, uri: str, new_name: str | None = None) -> Path:
    """Return the folder of the running trials of a study that the store has.

    Args:
        name: The name of the study.
        uri: The address of the Optuna storage.
        new_name: The name that the study is about to get; None where it keeps its name.
    """
    study = load_optuna_study(name, uri)
    assert study is not None
    return find_folder(study, uri, new_name)


def rename_study(name: str, new: str, uri: str) -> None:
    """Give a study another name.

    Raises:
        StoppedError: The store does not accept the write.
    """
    write_patiently(lambda: rename_once(name, new, uri), uri)


def rename_once(name: str, new: str, uri: str) -> None:
    """Give a study another name by one write, which may be repeated."""
    # Optuna itself can only copy the trials one by one to a study of the new name
    engine = sqlalchemy.create_engine(uri)
    statement = sqlalchemy.text("update studies set study_name = :new where study_name = :name")
    with engine.begin() as connection:
        connection.execute(statement, {"name": name, "new": new})
    engine.dispose()


def delete_study(name: str, uri: str) -> None:
    """Delete a study with all of its trials, where the store has it.

    Raises:
        StoppedError: The store does not accept the write.
    """
    storage = open_storage(uri)
    with suppress(KeyError):  # the store does not have it, or an earlier attempt came through whose answer was lost
        write_patiently(lambda: optuna.delete_study(study_name=name, storage=storage), uri)


def find_folder(study: optuna.Study, uri: str, new_name: str | None = None) -> Path:
    """Return the folder of a study's running trials, under its new name where there is one.

    Two ledgers may have a study of one name and share a state folder: a hash follows the name, of the study's
    identifier and, for a SQLite ledger, of its file, since a copy of the file has the same identifier. Studies of
    earlier versions have no identifier, and keep the folder with their name.
    """
    name, identifier = new_name or study.study_name, study.user_attrs.get(FOLDER_ID_ATTR)
    states = state_folder(uri)
    if identifier is None:
        return states / name
    path = sqlite_path(uri)
    file = "" if path is None else path.name if path.parent / states.name == states else str(path)
    return states / f"{name}-{hashlib.sha256(f'{identifier} {file}'.encode()).hexdigest()[:8]}"


def read_system_attrs(study: optuna.Study) -> dict[str, Any]:
    """Return the system attributes of an Optuna study, which has no public method for them."""
    return study._storage.get_study_system_attrs(study._study_id)


def load_optuna_study(name: str, uri: str) -> optuna.Study | None:
    """Return the Optuna study of this name; None where the store does not have it.

    Raises:
        InputError: The storage cannot be used.
    """
    if is_missing(uri):
        return None
    try:
        return optuna.load_study(study_name=name, storage=open_storage(uri))
    except KeyError:
        return None
    except DATABASE_ERRORS as error:
        raise InputError(describe_unusable(uri, error)) from error


def is_missing(uri: str) -> bool:
    """Return whether the address names a SQLite file that does not exist."""
    path = sqlite_path(uri)
    return path is not None and not path.exists()
