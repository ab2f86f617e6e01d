"""The lock that gives a study one driver; the operating system or the database releases it when its holder dies."""

import hashlib
import json
import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from forcetune.errors import HeldError, InputError
from forcetune.ledger.writes import describe_unusable
from forcetune.locks import lock_file
from forcetune.stores import hide_password, is_postgresql, sqlite_path

# Locked while a store's tables are made, since two studies may start at once on an empty store.
SCHEMA_LOCK_NAME = "forcetune schemas"
LOCK_POLL_S = 0.2  # between two attempts to take a lock


def driver_lock(name: str, uri: str, wait: bool = False) -> "DriverLock":
    """Return a lock on a name among all processes that use one store, as a context manager.

    Args:
        name: The name that is locked, mostly that of a study.
        uri: The address of the Optuna storage.
        wait: Whether entering waits until the lock is free. Otherwise it raises HeldError, which names the holder.

    Raises:
        HeldError: On entering: another process has the lock.
        InputError: On entering: the storage cannot be used.
    """
    return _SessionLock(name, uri, wait) if is_postgresql(uri) else _FileLock(name, uri, wait)


class DriverLock(ABC):
    """A lock that is held from entering to leaving the context, or until this process dies.

    Args:
        name: The name that is locked.
        uri: The address of the Optuna storage.
        wait: Whether entering waits until the lock is free.
    """

    def __init__(self, name: str, uri: str, wait: bool) -> None:
        self._name = name
        self._uri = uri
        self._wait = wait

    def __enter__(self) -> Self:
        try:
            while not self._acquire():
                if not self._wait:
                    raise HeldError(f"another driver has the study {self._name!r}: {self._find_holder()}")
                time.sleep(LOCK_POLL_S)
        except ImportError as error:
            raise InputError(
                f"the Optuna storage {hide_password(self._uri)} needs `pip install forcetune[postgresql]`: {error}"
            ) from error
        except (OSError, SQLAlchemyError) as error:
            raise InputError(describe_unusable(self._uri, error)) from error
        return self

    def __exit__(self, *error: object) -> None:
        self._release()

    def check(self) -> None:
        """Check that this process has the lock; take it again where it was lost with the connection to the database.

        Raises:
            HeldError: The lock was lost, and another process has it now.
            SQLAlchemyError: The database does not answer.
        """
        return

    @abstractmethod
    def _acquire(self) -> bool: ...

    @abstractmethod
    def _release(self) -> None: ...

    @abstractmethod
    def _find_holder(self) -> str: ...


class _FileLock(DriverLock):
    """A lock on a file beside a SQLite database; the kernel releases it when the process ends."""

    _descriptor: int | None = None

    def _acquire(self) -> bool:
        # Only the folder of the lock is made: a missing folder of the database is an error of the user.
        self._descriptor = lock_file(self._path, False, lambda: self._path.parent.mkdir(exist_ok=True))
        if self._descriptor is None:
            return False
        try:
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps(_identify_process()).encode())
        except OSError:  # a full disk
            self._release()
            raise
        return True

    def _release(self) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            _remove_if_empty(self._path.parent)

    def _find_holder(self) -> str:
        try:
            return _describe(json.loads(self._path.read_text()))
        except (OSError, ValueError):
            return "a process that has just started"

    @property
    def _path(self) -> Path:
        database = sqlite_path(self._uri)
        assert database is not None
        return database.parent / ".forcetune" / f"{database.name}.{self._name}.lock"


class _SessionLock(DriverLock):
    """An advisory lock of PostgreSQL; the server releases it when the session ends."""

    # A holder whose machine is gone does not close its session: the server probes after one second, and once more.
    _SETTINGS = "-c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=1"

    def __init__(self, name: str, uri: str, wait: bool) -> None:
        super().__init__(name, uri, wait)
        self._connection: sqlalchemy.Connection | None = None
        self._connection_lock = threading.Lock()  # since a connection serves one thread at a time
        self._released = threading.Event()

    def __enter__(self) -> Self:
        super().__enter__()
        threading.Thread(target=self._keep_lock, name=f"lock on {self._name}", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        with self._connection_lock:
            self._release()

    def check(self) -> None:
        with self._connection_lock:
            if self._released.is_set():
                return
            if self._connection is not None:
                try:
                    self._connection.execute(sqlalchemy.text("select 1"))
                    return
                except SQLAlchemyError:
                    self._release()
            if not self._acquire():
                raise HeldError(
                    f"another driver took over the study {self._name!r} while the database was unreachable: "
                    f"{self._find_holder()}"
                )

    def _keep_lock(self) -> None:
        """Take the lock again as soon as a database that was away is back, before another driver can take it."""
        while not self._released.wait(LOCK_POLL_S):
            try:
                self.check()
            except SQLAlchemyError:
                continue
            except HeldError:
                return  # the next write of this driver raises it

    def _acquire(self) -> bool:
        connection = self._connect()
        try:
            if connection.scalar(sqlalchemy.text("select pg_try_advisory_lock(:key)"), {"key": self._key}):
                self._connection = connection
        finally:
            if self._connection is None:
                connection.close()
        return self._connection is not None

    def _release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()  # so that the session ends with the socket
            connection.close()

    def _connect(self) -> sqlalchemy.Connection:
        holder = _identify_process()
        application_name = f"forcetune {holder['process']}@{holder['host']}"[:63]
        engine = sqlalchemy.create_engine(
            self._uri,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": application_name, "options": self._SETTINGS, "connect_timeout": 5},
        )
        return engine.connect()

    def _find_holder(self) -> str:
        query = """
            select a.application_name, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS') from pg_locks l
            join pg_stat_activity a using (pid)
            where l.locktype = 'advisory' and l.granted
            and ((l.classid::bigint << 32) | l.objid::bigint) = :key
        """
        with self._connect() as connection:
            session = connection.execute(sqlalchemy.text(query), {"key": self._key}).first()
        if session is None:
            return "a process that has just ended"
        process, _, host = str(session[0]).removeprefix("forcetune ").partition("@")
        return _describe({"process": process, "host": host, "since": session[1]})

    @property
    def _key(self) -> int:
        return int.from_bytes(hashlib.sha256(f"forcetune {self._name}".encode()).digest()[:8], "big", signed=True)


def _identify_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:200],
    }


def _describe(holder: dict[str, Any]) -> str:
    command = f", `{holder['command']}`" if holder.get("command") else ""
    return f"process {holder['process']} on {holder['host']}, since {holder['since']}{command}"


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
