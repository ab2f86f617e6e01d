"""Processes that end when this one does, also where it is killed."""

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
from forcetune.service import trees
from forcetune.stores import shown

START_LIMIT_S = 60.0  # that a process may take to answer
ENDING = 8.0  # seconds that they get to end by themselves
LINES = 15  # of a log that are told

# Reads the ids of process groups until nobody can write any more, and kills what is left of them. The pipe is closed
# by the system when this process dies, whatever it dies of.
WATCH = 'while read -r group; do all="$all -$group"; done; [ -z "$all" ] || kill -s KILL -- $all'


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    log: IO[bytes]  # without a name: it is gone with the last process that has it open


class Children:
    """What was started here, by name; leaving the context ends it, with all below it and nothing else.

    stop: set where somebody wants the end while one still starts.
    """

    def __init__(self, stop: Event, start_limit_s: float = START_LIMIT_S) -> None:
        self._stop = stop
        self._start_limit_s = start_limit_s
        self._children: dict[str, _Child] = {}

    def __enter__(self) -> Children:
        self._watcher = subprocess.Popen(
            ["sh", "-c", WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(child.process.pid for child in self._children.values())
        for child in self._children.values():
            child.process.wait()
            child.log.close()
        self._watcher.kill()  # before its pipe is closed: the ids may be others' by now
        self._watcher.communicate()

    @property
    def names(self) -> set[str]:
        """Of what was started."""
        return {*self._children}

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Start a process, in a session of its own so that Ctrl-C is this one's to handle."""
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
        """Wait until it answers there, or somebody wants the end.

        Raises StoppedError with the end of its log where it ends, answers with an error of its own, or takes too long.
        """
        deadline = time.monotonic() + self._start_limit_s
        while not self._stop.is_set():
            status = answer(url)
            if status and status < 500:
                return
            if why := self._failed(name, status, deadline):
                raise StoppedError(f"{name} {why}; the end of its log:\n{self._tail(name)}")
            self._stop.wait(0.2)

    def ended(self, name: str) -> bool:
        """Whether it was started here and runs no more."""
        return name in self._children and self._children[name].process.poll() is not None

    def _failed(self, name: str, status: int | None, deadline: float) -> str | None:
        if self.ended(name):
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
        return "\n".join(shown(line) for line in text.splitlines()[-LINES:])


def end(ids: Iterable[int]) -> None:
    """End processes and all below them: asked first, killed after a while."""
    roots = [psutil.Process(number) for number in ids if psutil.pid_exists(number)]
    everything = trees(roots)
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in everything:
            try:
                signal(process)
            except psutil.NoSuchProcess:
                continue
        _, everything = psutil.wait_procs(everything, timeout=ENDING)


def answer(url: str, within: float = 5.0) -> int | None:
    """The HTTP status that comes back; None where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=within) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None
