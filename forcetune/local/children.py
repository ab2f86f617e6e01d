"""Processes that end when this process does, even where it is killed."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import IO

import psutil

from forcetune.errors import StoppedError
from forcetune.local.service import process_trees
from forcetune.stores import hide_password

DASHBOARD_START_LIMIT_S = 60.0  # that a process may take to answer
DASHBOARD_END_LIMIT_S = 8.0  # that processes may take to end by themselves
LOG_TAIL_LINES = 15

# The script reads the ids of process groups until its pipe closes, and then kills what is left of them. The system
# closes the pipe when this process dies, whatever the cause.
WATCHER_SCRIPT = 'while read -r group; do all="$all -$group"; done; [ -z "$all" ] || kill -s KILL -- $all'


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    log: IO[bytes]  # has no name: it vanishes with the last process that has it open


class Children:
    """The processes that were started here, by name; leaving the context ends them and all their descendants.

    Args:
        stop: Ends a wait for a process that still starts.
        start_limit_s: Seconds that a process may take to answer.
    """

    def __init__(self, stop: Event, start_limit_s: float = DASHBOARD_START_LIMIT_S) -> None:
        self._stop = stop
        self._start_limit_s = start_limit_s
        self._children: dict[str, _Child] = {}

    def __enter__(self) -> Children:
        self._watcher = subprocess.Popen(
            ["sh", "-c", WATCHER_SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_processes(child.process.pid for child in self._children.values())
        for child in self._children.values():
            child.process.wait()
            child.log.close()
        self._watcher.kill()  # before its pipe closes: the ids may belong to others by now
        self._watcher.communicate()

    @property
    def names(self) -> set[str]:
        """The names of the processes that were started."""
        return {*self._children}

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Start a process, in a session of its own so that Ctrl-C reaches this process alone.

        Args:
            name: Its name, by which the other methods find it.
            command: The command and its arguments.
            environment: All of its environment variables.
        """
        log = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._children[name] = _Child(process, log)
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(f"{process.pid}\n".encode())
        self._watcher.stdin.flush()

    def wait(self, name: str, url: str) -> None:
        """Wait until a process answers, or `stop` is set.

        Args:
            name: Its name.
            url: The address that it answers at.

        Raises:
            StoppedError: The process has ended, answers with a server error, or takes too long; with its log's end.
        """
        deadline = time.monotonic() + self._start_limit_s
        while not self._stop.is_set():
            status = http_status(url)
            if status and status < 500:
                return
            if reason := self._failure_reason(name, status, deadline):
                raise StoppedError(f"{name} {reason}; the end of its log:\n{self._tail(name)}")
            self._stop.wait(0.2)

    def has_ended(self, name: str) -> bool:
        """Return whether a process was started here and no longer runs."""
        return name in self._children and self._children[name].process.poll() is not None

    def _failure_reason(self, name: str, status: int | None, deadline: float) -> str | None:
        if self.has_ended(name):
            return "has ended"
        if status:
            return f"answers with status {status}"
        return (
            f"does not answer within {self._start_limit_s:g} s (--start-limit)" if time.monotonic() > deadline else None
        )

    def _tail(self, name: str) -> str:
        log = self._children[name].log.fileno()
        size = os.fstat(log).st_size
        start = max(0, size - 100_000)
        text = os.pread(log, size - start, start).decode(errors="replace")
        return "\n".join(hide_password(line) for line in text.splitlines()[-LOG_TAIL_LINES:])


def end_processes(process_ids: Iterable[int]) -> None:
    """End processes and all their descendants: ask them first, and kill them after a while."""
    roots = [psutil.Process(process_id) for process_id in process_ids if psutil.pid_exists(process_id)]
    processes = process_trees(roots)
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                signal(process)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=DASHBOARD_END_LIMIT_S)


def http_status(url: str, timeout_s: float = 5.0) -> int | None:
    """Return the HTTP status that an address answers with; None where nothing answers within so many seconds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None
