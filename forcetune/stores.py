"""Where the two stores and the files of running trials are, and SQLite's settings for writing in small steps."""

import os
import re
import sqlite3
from pathlib import Path
from typing import Any


def mlflow_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or mlflow.db in the current folder; never relative, since workers run elsewhere."""
    return absolute(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")


def optuna_uri() -> str:
    """`FORCETUNE_STORAGE`, or optuna.db in the current folder."""
    return absolute(os.environ.get("FORCETUNE_STORAGE") or "sqlite:///optuna.db")


def absolute(uri: str) -> str:
    """The address with a relative SQLite path taken from the current folder."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite address, None for others."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def is_postgresql(uri: str) -> bool:
    """Whether the address is one of PostgreSQL."""
    return uri.startswith(("postgresql://", "postgresql+"))


def state_folder(optuna: str) -> Path:
    """The folder of what is on disk while trials run: `FORCETUNE_STATE`, or .forcetune beside a SQLite ledger.

    Where the ledger is a server's, .forcetune in the current folder.
    """
    chosen = os.environ.get("FORCETUNE_STATE")
    if chosen:
        return Path(chosen).absolute()
    ledger = sqlite_path(optuna)
    return (ledger.parent if ledger else Path.cwd()) / ".forcetune"


def shown(uri: str) -> str:
    """The address as it may be printed: without its password."""
    return re.sub(r"://([^:/@]+):[^@/]*@", r"://\1:***@", uri)


def why(error: BaseException) -> str:
    """What a database said, in one line: of what SQLAlchemy and Optuna wrap around it the innermost."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def quicken_sqlite() -> None:
    """From now on, SQLAlchemy's SQLite connections in this process write ahead and sync once a checkpoint.

    Optuna and MLflow both reach SQLite through SQLAlchemy. Safe against a killed process; a power cut may
    cost the last moments. For local disks only: a write-ahead log needs shared memory.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _write_ahead):
        event.listen(Engine, "connect", _write_ahead)


def _write_ahead(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=30000")
