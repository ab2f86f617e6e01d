"""One driver a study: a lock that the operating system or the database lets go when its holder dies."""

import fcntl
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
from forcetune.stores import is_postgresql, shown, sqlite_path, why

SCHEMAS = "forcetune schemas"  # held while a store's tables are made: two studies may start at once on empty ones
POLL = 0.2  # seconds between two tries of who waits
RACES, RACE_S = 200, 0.001  # how often, and after how many seconds, what another process removed is made again


def driver_lock(name: str, uri: str, wait: bool = False) -> "DriverLock":
    """A hold on `name` among those who use the store `uri`; a context manager.

    Entering raises HeldError, which says who has it, or waits for it.
    """
    return _Session(name, uri, wait) if is_postgresql(uri) else _File(name, uri, wait)


class DriverLock(ABC):
    """Held from entering to leaving, or to the death of this process."""

    def __init__(self, name: str, uri: str, wait: bool) -> None:
        self._name = name
        self._uri = uri
        self._wait = wait

    def __enter__(self) -> Self:
        try:
            while not self._take():
                if not self._wait:
                    raise HeldError(f"the study {self._name!r} is held by another driver: {self._holder()}")
                time.sleep(POLL)
        except ImportError as error:
            raise InputError(
                f"the Optuna storage {shown(self._uri)} needs `pip install forcetune[postgresql]`: {error}"
            ) from error
        except (OSError, SQLAlchemyError) as error:
            raise InputError(f"the Optuna storage {shown(self._uri)} cannot be used: {why(error)}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._let_go()

    def check(self) -> None:
        """Raise HeldError where the hold was lost, with the connection that it hung on, and another has it now.

        Raises SQLAlchemyError where the database cannot say.
        """
        return

    @abstractmethod
    def _take(self) -> bool: ...

    @abstractmethod
    def _let_go(self) -> None: ...

    @abstractmethod
    def _holder(self) -> str: ...


class _File(DriverLock):
    """A lock on a file beside a SQLite database; the kernel lets go of it with the process."""

    _file: int | None = None

    def _take(self) -> bool:
        while True:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_ino == os.stat(self._path).st_ino:
                    break
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(file)
                return False
            os.close(file)  # its holder has just removed it: a lock on it keeps nobody out
        os.truncate(file, 0)
        os.write(file, json.dumps(_myself()).encode())
        self._file = file
        return True

    def _open(self) -> int:
        """Return the descriptor of the file, which is made with its folder.

        A holder that ends removes both, perhaps between two steps here. Raises OSError where they cannot be made.
        """
        for _ in range(RACES):
            try:
                self._path.parent.mkdir(exist_ok=True)
                return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except (FileExistsError, FileNotFoundError):
                time.sleep(RACE_S)
        self._path.parent.mkdir(exist_ok=True)
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    def _let_go(self) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
            _remove_if_empty(self._path.parent)

    def _holder(self) -> str:
        try:
            return _describe(json.loads(self._path.read_text()))
        except (OSError, ValueError):
            return "a process that has just started"

    @property
    def _path(self) -> Path:
        database = sqlite_path(self._uri)
        assert database is not None
        return database.parent / ".forcetune" / f"{database.name}.{self._name}.lock"


class _Session(DriverLock):
    """An advisory lock of PostgreSQL; the server lets go of it with the session."""

    # a holder whose machine is gone says nothing: the server asks after one second, and once more
    _SETTINGS = "-c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=1"

    def __init__(self, name: str, uri: str, wait: bool) -> None:
        super().__init__(name, uri, wait)
        self._connection: sqlalchemy.Connection | None = None
        self._turn = threading.Lock()  # a connection serves one thread at a time
        self._left = threading.Event()

    def __enter__(self) -> Self:
        super().__enter__()
        threading.Thread(target=self._keep, name=f"hold on {self._name}", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        with self._turn:
            self._let_go()

    def check(self) -> None:
        with self._turn:
            if self._left.is_set():
                return
            if self._connection is not None:
                try:
                    self._connection.execute(sqlalchemy.text("select 1"))
                    return
                except SQLAlchemyError:
                    self._let_go()
            if not self._take():
                raise HeldError(
                    f"the study {self._name!r} was taken over by another driver while the database was away: "
                    f"{self._holder()}"
                )

    def _keep(self) -> None:
        """Take the lock again as soon as a database that was away is back, before a driver that starts does."""
        while not self._left.wait(POLL):
            try:
                self.check()
            except SQLAlchemyError:
                continue
            except HeldError:
                return  # whoever writes next is told

    def _take(self) -> bool:
        connection = self._connect()
        try:
            if connection.scalar(sqlalchemy.text("select pg_try_advisory_lock(:key)"), {"key": self._key}):
                self._connection = connection
        finally:
            if self._connection is None:
                connection.close()
        return self._connection is not None

    def _let_go(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()  # the session ends with the socket
            connection.close()

    def _connect(self) -> sqlalchemy.Connection:
        mine = _myself()
        called = f"forcetune {mine['process']}@{mine['host']}"[:63]
        engine = sqlalchemy.create_engine(
            self._uri,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": called, "options": self._SETTINGS, "connect_timeout": 5},
        )
        return engine.connect()

    def _holder(self) -> str:
        query = """
            select a.application_name, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS') from pg_locks l
            join pg_stat_activity a using (pid)
            where l.locktype = 'advisory' and l.granted
            and ((l.classid::bigint << 32) | l.objid::bigint) = :key
        """
        with self._connect() as connection:
            found = connection.execute(sqlalchemy.text(query), {"key": self._key}).first()
        if found is None:
            return "a process that has just ended"
        process, _, host = str(found[0]).removeprefix("forcetune ").partition("@")
        return _describe({"process": process, "host": host, "since": found[1]})

    @property
    def _key(self) -> int:
        return int.from_bytes(hashlib.sha256(f"forcetune {self._name}".encode()).digest()[:8], "big", signed=True)


def _myself() -> dict[str, Any]:
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
