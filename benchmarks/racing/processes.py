"""A command that runs for some seconds: all of its processes ended afterwards, their processor time added up."""

import ctypes
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_INTERVAL_S = 0.5
CURVE_INTERVAL_S = 2.0  # between two points of what is kept
SUBREAPER_OPTION = 36  # PR_SET_CHILD_SUBREAPER


@dataclass
class Usage:
    """What a command has used.

    cpu_curve: seconds since the start, and processor seconds of all its processes until then; other_cpu_s: processor
    seconds that everything else on the machine used meanwhile.
    """

    started: float = 0.0
    wall_s: float = 0.0
    cpu_curve: list[tuple[float, float]] = field(default_factory=list)
    other_cpu_s: float = 0.0
    ended_itself: bool = False

    @property
    def cpu_s(self) -> float:
        """Processor seconds in all."""
        return self.cpu_curve[-1][1] if self.cpu_curve else 0.0


class ProcessMeter:
    """Adds up the processor time of all descendants of this process, daemons of theirs too.

    A process counts until it was last seen, so that of each the last half second may be missing.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, float], float] = {}
        self._machine = _busy_seconds()
        own = os.times()
        self._own = own.user + own.system

    def sample(self) -> float:
        """Look at all of them; return their processor seconds so far."""
        for process in descendants():
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process.pid, process.create_time()] = times.user + times.system
        return sum(self._seconds.values())

    def other_seconds(self) -> float:
        """Return the processor seconds of the machine that were neither theirs nor this process's."""
        own = os.times()
        counted = sum(self._seconds.values()) + own.user + own.system - self._own
        return max(0.0, _busy_seconds() - self._machine - counted)


def run_for(
    command: list[str], folder: Path, environment: dict[str, str], seconds: float, grace_s: float = 0.0
) -> Usage:
    """Run a command for some seconds, then end it and all that it has started.

    grace_s: what it gets between SIGTERM and SIGKILL.
    """
    meter = ProcessMeter()
    usage = Usage(started=time.time())
    process = start(command, folder, environment)
    try:
        while process.poll() is None and time.time() - usage.started < seconds:
            at, used = time.time() - usage.started, meter.sample()
            if not usage.cpu_curve or at - usage.cpu_curve[-1][0] >= CURVE_INTERVAL_S:
                usage.cpu_curve.append((round(at, 1), round(used, 1)))
            time.sleep(SAMPLE_INTERVAL_S)
        usage.ended_itself = process.returncode is not None
        usage.wall_s = time.time() - usage.started
        usage.cpu_curve.append((usage.wall_s, meter.sample()))
        usage.other_cpu_s = meter.other_seconds()
    finally:
        end(process, grace_s)
    return usage


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a folder and in a process group of its own; its output goes to log.txt there.

    From now on this process adopts what its descendants leave behind.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER_OPTION, 1)
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "RAY_TMPDIR": str(folder), **environment},  # Ray's files go with the folder
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], grace_s: float = 0.0) -> None:
    """End a command by SIGTERM and, after the grace, all of this process's descendants by SIGKILL."""
    if grace_s and process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    while left := descendants():
        for descendant in left:
            with suppress(psutil.Error):
                descendant.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        psutil.wait_procs(left, timeout=1)
    with suppress(ChildProcessError):  # what was adopted and has ended is still to be waited for
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants() -> list[psutil.Process]:
    """Return all processes that this one, or its descendants, have started and that have not ended."""
    with suppress(psutil.Error):
        return [process for process in psutil.Process().children(recursive=True) if _lives(process)]
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
