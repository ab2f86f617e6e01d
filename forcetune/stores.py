"""The addresses of the two stores, the folder for running trials, and SQLite's settings for small writes."""

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from forcetune.errors import InputError
from forcetune.state_files import is_remote, open_folder

_write_ahead_files: set[Path] = set()  # the SQLite files of this process's stores

STORE_VARIABLES = ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE")
RESERVED_CHARACTERS = "?#%"  # have a meaning of their own in an address
# The user name in an address, and the password behind it. In a database's address the name may have an @ and the
# password a slash, as SQLAlchemy reads them; in an http address a slash ends the part that may have a login.
LOGIN_PATTERN = r"((?<!http)(?<!https)://[^:/\s]*(?=:(?:[^@\s]*|[^@/]*)@)|://[^:/@\s]*(?=:[^@/\s]*@)):[^@]*@"


def mlflow_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or mlflow.db in the current folder; never relative, since workers run elsewhere.

    Raises:
        InputError: The variable holds no address of a server or a database.
    """
    # MLflow's client knows further databases and services; a folder of files cannot be queried
    return _read_address("MLFLOW_TRACKING_URI", "mlflow.db", lambda uri: "://" in uri and not uri.startswith("file:"))


def optuna_uri() -> str:
    """Return `FORCETUNE_STORAGE`, or optuna.db in the current folder.

    Raises:
        InputError: The variable holds no address of a database.
    """
    return _read_address("FORCETUNE_STORAGE", "optuna.db", is_postgresql)


def _read_address(variable: str, file: str, is_server: Callable[[str], bool]) -> str:
    """Return the address that a variable has, or the address of a file in the current folder."""
    value = os.environ.get(variable, "").strip()
    uri = absolute_uri(value or f"sqlite:///{file}")
    path = sqlite_path(uri)
    if path is None and not is_server(uri):
        server = "http://HOST:PORT" if file == "mlflow.db" else "postgresql://HOST/DATABASE"
        raise InputError(
            f"{variable}={hide_password(value)}: this is not the address of a store that forcetune can use; allowed: "
            f"sqlite:///FILE, such as sqlite:///{file}, and {server}"
        )
    if path and (character := next((character for character in RESERVED_CHARACTERS if character in str(path)), None)):
        raise InputError(
            f"{variable}: the path {path} has a {character!r}, which has a special meaning in the address of a "
            "SQLite file; allowed: a folder without it, or the address of a server"
        )
    return uri


def ray_address() -> str:
    """Return `RAY_ADDRESS`, empty where it names no cluster.

    `local` names none: to Ray it means a Ray of this process alone.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


def absolute_uri(uri: str) -> str:
    """Return an address, with a relative SQLite path made absolute from the current folder."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite address; None for other addresses."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def is_http(uri: str) -> bool:
    """Return whether an address is one of an HTTP server."""
    return uri.startswith(("http://", "https://"))


def is_postgresql(uri: str) -> bool:
    """Return whether an address is one of PostgreSQL."""
    return uri.startswith(("postgresql://", "postgresql+"))


def state_folder(optuna: str) -> Path:
    """Return the folder for the files of running trials: `FORCETUNE_STATE`, or .forcetune beside a SQLite ledger.

    Where the ledger is on a server, it is .forcetune in the current folder.

    Args:
        optuna: The address of the ledger.

    Raises:
        InputError: The variable has an address of a kind that forcetune cannot use.
    """
    folder = os.environ.get("FORCETUNE_STATE", "").strip()
    return open_folder(folder) if folder else _default_state_folder(optuna)


def _default_state_folder(optuna: str) -> Path:
    ledger = sqlite_path(optuna)
    return (ledger.parent if ledger else Path.cwd()) / ".forcetune"


def get_cost_file(study: str) -> Path:
    """Return the path of the file that keeps the predicted cost of a study, which is always on this machine."""
    folder = state_folder(optuna_uri())
    return (_default_state_folder(optuna_uri()) if is_remote(folder) else folder) / f"{study}.cost.json"


def hide_password(uri: str) -> str:
    """Return an address without its password, as it may be printed."""
    # make_url(uri).render_as_string() shows `password=`, refuses text around an address, and changes its quoting
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(LOGIN_PATTERN, r"\1:***@", uri))


def without_login(address: str) -> str:
    """Return an http address without user, password and trailing slash."""
    url = urlsplit(address)
    return urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2])).rstrip("/")


def has_password(uri: str) -> bool:
    """Return whether an address contains a password."""
    return re.search(LOGIN_PATTERN, uri) is not None or "password=" in uri


def split_password(uri: str) -> tuple[str, str | None]:
    """Split the password from a PostgreSQL address.

    Returns:
        The address without its password, and the line of a password file that holds it; None where it has no password.
    """
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    password = url.query.get("password") if url.password is None else url.password
    if password is None:
        return uri, None
    fields = [url.host or "*", str(url.port or "*"), url.database or "*", url.username or "*", str(password)]
    line = ":".join(field.replace("\\", r"\\").replace(":", r"\:") for field in fields)
    return url._replace(password=None).difference_update_query(["password"]).render_as_string(), line


def make_schema(uri: str, name: str) -> str:
    """Return the address of a schema of a PostgreSQL database, and create the schema where it does not exist.

    Optuna and MLflow both keep a table `alembic_version`: in one schema each would take the other's table for its own.

    Args:
        uri: The address of the database.
        name: The name of the schema.

    Raises:
        InputError: The database does not answer, or refuses to create the schema.
    """
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": 5})
        with engine.begin() as connection:
            if not sqlalchemy.inspect(connection).has_schema(name):
                connection.execute(sqlalchemy.schema.CreateSchema(name))
        engine.dispose()
    except ImportError as error:
        raise InputError(f"{hide_password(uri)} needs `pip install forcetune[postgresql]`: {error}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise InputError(f"the database {hide_password(uri)} cannot be used: {innermost_message(error)}") from error
    return f"{uri}{'&' if '?' in uri else '?'}options=-csearch_path={name}"


def innermost_message(error: BaseException) -> str:
    """Return the first line of the error that SQLAlchemy or Optuna has wrapped, which is the database's own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def enable_write_ahead_log(uri: str) -> None:
    """Make SQLAlchemy's connections to a SQLite file write ahead, and sync at checkpoints only.

    Optuna and MLflow both reach SQLite through SQLAlchemy. The setting is safe against a killed process; a power cut
    may cost the last writes. It is for local disks only, since a write-ahead log needs shared memory. The process's
    connections to other files stay as they are.

    Args:
        uri: The address of the store; nothing is done where it is not one of SQLite.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    _write_ahead_files.add(path.resolve())
    if not event.contains(Engine, "connect", _write_ahead):
        event.listen(Engine, "connect", _write_ahead)


def _find_file(connection: sqlite3.Connection) -> Path | None:
    """Return the path of a connection's file; None for a database in memory."""
    name = connection.execute("PRAGMA database_list").fetchone()[2]
    return Path(name).resolve() if name else None


def _write_ahead(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection) and _find_file(connection) in _write_ahead_files:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=30000")
