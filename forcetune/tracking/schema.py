"""MLflow's tables in a SQLite file: made in one transaction, so that a killed process leaves all of them or none."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from forcetune.errors import InputError
from forcetune.stores import absolute_uri, enable_write_ahead_log
from forcetune.temporary import make_folder
from forcetune.tracking.sqlite import count_runs

OTHER_WRITER_TIMEOUT_S = 60.0  # another process may be putting its tables in the file


def make_tables(path: Path, artifacts: str | None = None) -> None:
    """Make MLflow's tables where the file has no table yet.

    MLflow's own migrations are several hundred statements, each committed by itself. After a kill between two of them,
    MLflow can neither go on nor begin anew. So the migrations run in a temporary file, and one transaction copies the
    tables to the file.

    Args:
        path: The SQLite file; it is made where it does not exist.
        artifacts: The folder for the artifacts of MLflow's experiment Default; mlruns in the current folder if None.

    Raises:
        sqlite3.DatabaseError: The file is no database.
    """
    if has_tables(path):
        return
    with make_folder("schema") as folder:
        template = folder.path / path.name
        _migrate(template, artifacts)
        with closing(sqlite3.connect(path, timeout=OTHER_WRITER_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            if _has_tables(connection):
                connection.execute("ROLLBACK")  # another process has put its tables there first
                return
            for statement in _statements(template):
                connection.execute(statement)
            connection.execute("COMMIT")


def has_tables(path: Path) -> bool:
    """Return whether the file has a table, or is in use.

    Args:
        path: The SQLite file; it need not exist.

    Raises:
        sqlite3.DatabaseError: The file is no database.
    """
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path)) as connection:
            return _has_tables(connection)
    except sqlite3.OperationalError:  # another process has it, or the disk is full: MLflow tries again
        return True


def make_store_error(path: Path, error: Exception) -> InputError:
    """Return the error for a file that MLflow cannot use.

    A file may have only a part of MLflow's tables: a driver of an earlier version that was killed in its first seconds
    leaves such a file.

    Args:
        path: The SQLite file.
        error: The exception that MLflow, or a library below it, has raised.
    """
    runs = count_runs(path)
    cause = str(error).strip().partition("\n")[0]
    if runs is None:
        return InputError(f"the MLflow store {path} cannot be used: {cause}")
    if runs:
        return InputError(
            f"the MLflow store {path} has {runs} runs, and its tables are from another version of MLflow: {cause}. "
            f"Copy the file, then run `mlflow db upgrade sqlite:///{path}`"
        )
    return InputError(
        f"the MLflow store {path} has only a part of MLflow's tables and no run: a process was killed while it made "
        f"them ({cause}). Nothing is lost: remove {path.name}, {path.name}-wal and {path.name}-shm from {path.parent}, "
        "then run the same command again; it makes new files"
    )


def _migrate(path: Path, artifacts: str | None) -> None:
    """Make MLflow's tables and its experiment Default in a new file, by MLflow's own migrations."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = absolute_uri(f"sqlite:///{path}")
    enable_write_ahead_log(uri)
    store = SqlAlchemyStore(uri, artifacts or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()  # its last connection writes everything to the one file
    SqlAlchemyStore._engine_map.pop(uri, None)


def _statements(template: Path) -> Iterator[str]:
    """Yield the statements that make a copy of the template, without those that begin and end its transaction."""
    with closing(sqlite3.connect(template)) as connection:
        for statement in connection.iterdump():
            if statement not in ("BEGIN TRANSACTION;", "COMMIT;"):
                yield statement


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("select 1 from sqlite_master limit 1").fetchone() is not None
