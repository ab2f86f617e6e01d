"""Processes of the service and of the dashboards: found again, asked for an answer, and ended with all below them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

import psutil

START_TOLERANCE_S = 60.0  # by which the start of a process may seem to move where the clock is set
ANSWER_LIMIT_S = 5.0  # that a process may take to answer one request
END_POLL_S = 0.05  # between two looks at whether processes have ended


def find_process(process_id: int, started: float) -> psutil.Process | None:
    """Return a process that was started before, perhaps by another process.

    Args:
        process_id: The id of the process.
        started: The start of the process, in seconds since 1970.

    Returns:
        The process; None where it has ended, or where another one has its id.
    """
    try:
        process = psutil.Process(process_id)
        is_same = abs(process.create_time() - started) < START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return None
    return process if is_same and is_running(process) else None


def is_running(process: psutil.Process) -> bool:
    """Return whether a process runs. One that has ended does not, even where its parent has not waited for it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def list_trees(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return processes with all their descendants."""
    members: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            members += [process, *process.children(recursive=True)]
    return members


def list_connections(process: psutil.Process) -> list[Any]:
    """Return the connections of a process over IP, and the ports on which it listens."""
    try:
        return list(process.net_connections(kind="inet"))
    except psutil.Error:  # the process has just ended
        return []


def end_trees(roots: Collection[psutil.Process], limit_s: float) -> None:
    """End processes with all their descendants.

    Each process receives SIGTERM, and may end by itself what it has started. Whatever is left of the trees then is
    killed. Child processes of this process keep their ids until the caller waits for them.

    Args:
        roots: The processes.
        limit_s: Seconds that the processes may take to end by themselves.
    """
    members = list_trees(roots)
    for process in roots:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _wait_for_end(roots, limit_s)
    for process in members:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_for_end(members, limit_s)


def _wait_for_end(processes: Collection[psutil.Process], limit_s: float) -> None:
    # psutil.wait_procs would free the ids of child processes, and wait for other processes' zombies
    deadline = time.monotonic() + limit_s
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(END_POLL_S)


def http_status(url: str, token: str | None = None) -> int | None:
    """Return the HTTP status with which an address answers; None where nothing answers.

    Args:
        url: The address.
        token: A token that the server may ask for.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_LIMIT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None
