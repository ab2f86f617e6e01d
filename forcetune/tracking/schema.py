"""MLflow's tables in a SQLite file: all of them or none, whenever the process that makes them is killed."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from forcetune.errors import InputError
from forcetune.stores import absolute, quicken_sqlite
from forcetune.temporary import make_folder

OTHER_WRITER_S = 60.0  # that another process may take to put its tables in the file


def make_tables(path: Path, artifacts: str | None = None) -> None:
    """Make MLflow's tables where the file has no table yet.

    MLflow's own migrations are several hundred statements, each committed by itself: after a kill in between MLflow
    can neither go on nor begin anew. So they run in a temporary file, and one transaction copies what they made.

    Args:
        path: The file; it need not be there.
        artifacts: The folder for the artifacts of MLflow's experiment Default, mlruns in the current folder if None.
    """
    if has_tables(path):
        return
    with make_folder("schema") as folder:
        template = folder.path / path.name
        _migrate(template, artifacts)
        with closing(sqlite3.connect(path, timeout=OTHER_WRITER_S, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            if _has_tables(connection):
                connection.execute("ROLLBACK")  # another process has put its tables there first
                return
            for statement in _statements(template):
                connection.execute(statement)
            connection.execute("COMMIT")


def has_tables(path: Path) -> bool:
    """Return whether the file has a table, or is in use. Raises sqlite3.DatabaseError where it is no database."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path)) as connection:
            return _has_tables(connection)
    except sqlite3.OperationalError:  # another process has it, or the disk is full: MLflow tries again
        return True


def refuse_torn(path: Path, error: Exception) -> InputError:
    """Return what to tell where MLflow cannot use a file.

    A driver of an earlier version that was killed in its first seconds left a part of the tables.
    """
    runs = _count_runs(path)
    cause = str(error).strip().partition("\n")[0]
    if runs is None:
        return InputError(f"the MLflow store {path} cannot be used: {cause}")
    if runs:
        return InputError(
            f"the MLflow store {path} has {runs} runs, and tables of another version of MLflow: {cause}. Copy it, and "
            f"then run `mlflow db upgrade sqlite:///{path}`"
        )
    return InputError(
        f"the MLflow store {path} has only a part of MLflow's tables and no run: a process was killed while it made "
        f"them ({cause}). Nothing is lost: remove {path.name}, {path.name}-wal and {path.name}-shm from {path.parent}, "
        "and the same command makes them anew"
    )


def _migrate(path: Path, artifacts: str | None) -> None:
    """Let MLflow make its tables, and its experiment Default, in a new file."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    quicken_sqlite()
    uri = absolute(f"sqlite:///{path}")
    store = SqlAlchemyStore(uri, artifacts or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()  # its last connection writes everything to the one file
    SqlAlchemyStore._engine_map.pop(uri, None)


def _statements(template: Path) -> Iterator[str]:
    """Yield the statements that make a database like the template, but for those of its transaction."""
    with closing(sqlite3.connect(template)) as connection:
        for statement in connection.iterdump():
            if statement not in ("BEGIN TRANSACTION;", "COMMIT;"):
                yield statement


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("select 1 from sqlite_master limit 1").fetchone() is not None


def _count_runs(path: Path) -> int | None:
    """Return the number of runs in the file, None where it is no database of MLflow's."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            if not tables & {"alembic_version", "experiments"}:
                return None
            return int(connection.execute("select count(*) from runs").fetchone()[0]) if "runs" in tables else 0
    except sqlite3.Error:
        return None
