"""Where the two stores and the files of running trials are, and SQLite's settings for writing in small steps."""

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from forcetune.errors import InputError

ODD_SIGNS = "?#%"  # mean something else in an address
PASSWORD = r"://([^:/@]*):[^@/]*@"  # of an address, and what stands before it


def mlflow_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or mlflow.db in the current folder; never relative, since workers run elsewhere.

    Raises:
        InputError: It is no address of a server or a database.
    """
    # MLflow's client knows other databases and services too; a folder of files takes no queries
    return _checked("MLFLOW_TRACKING_URI", "mlflow.db", lambda uri: "://" in uri and not uri.startswith("file:"))


def optuna_uri() -> str:
    """`FORCETUNE_STORAGE`, or optuna.db in the current folder.

    Raises:
        InputError: It is no address of a database.
    """
    return _checked("FORCETUNE_STORAGE", "optuna.db", is_postgresql)


def _checked(variable: str, file: str, is_server: Callable[[str], bool]) -> str:
    """The address that a variable has, or that of a file in the current folder."""
    written = os.environ.get(variable, "").strip()
    uri = absolute(written or f"sqlite:///{file}")
    path = sqlite_path(uri)
    if path is None and not is_server(uri):
        server = "http://HOST:PORT" if file == "mlflow.db" else "postgresql://HOST/DATABASE"
        raise InputError(
            f"{variable}={shown(written)}: this is no address of a store that forcetune can use; allowed: "
            f"sqlite:///FILE, as sqlite:///{file}, and {server}"
        )
    if path and (sign := next((sign for sign in ODD_SIGNS if sign in str(path)), None)):
        raise InputError(
            f"{variable}: the path {path} has a {sign!r}, which means something else in the address of a SQLite file; "
            "allowed: a folder without it, or the address of a server"
        )
    return uri


def ray_address() -> str:
    """Return `RAY_ADDRESS`, empty where it names no cluster: `local` means, as to Ray, a Ray of this process alone."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


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
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(PASSWORD, r"://\1:***@", uri))


def without_login(address: str) -> str:
    """An http address without user and password, and without a slash at its end."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def has_password(uri: str) -> bool:
    """Whether the address itself holds a password."""
    return re.search(PASSWORD, uri) is not None or "password=" in uri


def password_apart(uri: str) -> tuple[str, str | None]:
    """A PostgreSQL address without its password, and the line of a password file that has it; None without one."""
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.password is None:
        return uri, None
    fields = [url.host or "*", str(url.port or "*"), url.database or "*", url.username or "*", str(url.password)]
    line = ":".join(field.replace("\\", r"\\").replace(":", r"\:") for field in fields)
    return url._replace(password=None).render_as_string(), line


def make_schema(uri: str, name: str) -> str:
    """The address of a schema of that name in a PostgreSQL database, made where there is none.

    Optuna and MLflow both keep a table `alembic_version`: in one schema each would take the other's for its own.
    Raises InputError where the database does not answer, or does not let it be made.
    """
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": 5})
        with engine.begin() as connection:
            if not sqlalchemy.inspect(connection).has_schema(name):
                connection.execute(sqlalchemy.schema.CreateSchema(name))
        engine.dispose()
    except ImportError as error:
        raise InputError(f"{shown(uri)} needs `pip install forcetune[postgresql]`: {error}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise InputError(f"the database {shown(uri)} cannot be used: {why(error)}") from error
    return f"{uri}{'&' if '?' in uri else '?'}options=-csearch_path={name}"


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
