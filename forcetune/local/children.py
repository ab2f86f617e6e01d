"""Processes that end when this process does, even where it is killed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from threading import Event
from typing import IO

import psutil

from forcetune.errors import StoppedError
from forcetune.local.processes import end_trees, http_status, is_running
from forcetune.stores import hide_password

DASHBOARD_END_LIMIT_S = 8.0  # that processes may take to end by themselves
LOG_TAIL_LINES, LOG_TAIL_BYTES = 15, 100_000

# The script reads the ids of process groups until its pipe closes, and then kills what is left of them. The system
# closes the pipe when this process dies, whatever the cause.
WATCHER_SCRIPT = 'while read -r group; do all="$all -$group"; done; [ -z "$all" ] || kill -s KILL -- $all'


@dataclass(frozen=True)
class _Child:
    name: str
    process: psutil.Popen
    url: str
    log: IO[bytes]  # has no name: it vanishes with the last process that has it open

    def failure_reason(self, status: int | None) -> str | None:
        if not is_running(self.process):
            return "has ended"
        return f"answers with status {status}" if status else None

    def read_tail(self) -> str:
        start = max(0, os.fstat(self.log.fileno()).st_size - LOG_TAIL_BYTES)
        lines = os.pread(self.log.fileno(), LOG_TAIL_BYTES, start).decode(errors="replace").splitlines()
        return "\n".join(hide_password(line) for line in lines[-LOG_TAIL_LINES:])


class Children:
    """The processes that were started here; leaving the context ends them and their process groups."""

    def __init__(self) -> None:
        self._children: list[_Child] = []

    def __enter__(self) -> Children:
        command = ["sh", "-c", WATCHER_SCRIPT]
        self._watcher = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, bufsize=0, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        end_trees([child.process for child in self._children], DASHBOARD_END_LIMIT_S)
        self._watcher.communicate()  # it kills what is left of the groups, whose ids stay taken until `wait`
        for child in self._children:
            child.process.wait()
            child.log.close()

    def start(self, name: str, command: list[str], environment: Mapping[str, str], url: str) -> None:
        """Start a process, in a session of its own so that Ctrl-C reaches this process alone.

        Args:
            name: Its name in messages.
            command: The command and its arguments.
            environment: All of its environment variables.
            url: The address that answers once it has started.
        """
        log = tempfile.TemporaryFile()  # noqa: SIM115
        process = psutil.Popen(
            command, env=environment, stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True
        )
        self._children.append(_Child(name, process, url, log))
        assert self._watcher.stdin is not None
        self._watcher.stdin.write(f"{process.pid}\n".encode())

    def wait(self, stop: Event, start_limit_s: float) -> None:
        """Wait until all processes answer.

        Args:
            stop: Ends the wait once it is set.
            start_limit_s: Seconds that each process may take to answer.

        Raises:
            StoppedError: A process has ended, answers with a server error, or takes too long; with its log's end.
        """
        deadline = time.monotonic() + start_limit_s
        for child in self._children:
            while not stop.is_set():
                status = http_status(child.url)
                if status and status < 500:
                    break
                reason = child.failure_reason(status)
                if not reason and time.monotonic() > deadline:
                    reason = f"does not answer within {start_limit_s:g} s (--start-limit)"
                if reason:
                    raise StoppedError(f"{child.name} {reason}; the end of its log:\n{child.read_tail()}")
                stop.wait(0.2)
