"""A command that runs for a limited time: its processes are ended afterwards, and their processor time is added up."""

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
CURVE_INTERVAL_S = 2.0  # between two points of the curve that is kept
SUBREAPER_OPTION = 36  # PR_SET_CHILD_SUBREAPER


@dataclass
class Usage:
    """The time that a command used.

    started: its start, in seconds since the epoch. cpu_curve: pairs of seconds since the start and processor seconds of
    all its processes until then. other_cpu_s: processor seconds that everything else on the machine used meanwhile.
    """

    started: float = 0.0
    wall_s: float = 0.0
    cpu_curve: list[tuple[float, float]] = field(default_factory=list)
    other_cpu_s: float = 0.0
    ended_itself: bool = False

    @property
    def cpu_s(self) -> float:
        """The processor seconds of the whole run."""
        return self.cpu_curve[-1][1] if self.cpu_curve else 0.0


class ProcessMeter:
    """A meter of the processor time of all descendants of this process, their daemons included.

    A process counts as it was last sampled, so that its last half second may be missing.
    """

    def __init__(self) -> None:
        self._process_seconds: dict[tuple[int, float], float] = {}
        self._initial_busy_seconds = _busy_seconds()
        times = os.times()
        self._initial_seconds = times.user + times.system

    def sample(self) -> float:
        """Read the times of all descendants and return their processor seconds so far."""
        for process in descendants():
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._process_seconds[process.pid, process.create_time()] = times.user + times.system
        return sum(self._process_seconds.values())

    def other_seconds(self) -> float:
        """Return the processor seconds of the machine that neither the descendants nor this process used."""
        times = os.times()
        counted = sum(self._process_seconds.values()) + times.user + times.system - self._initial_seconds
        return max(0.0, _busy_seconds() - self._initial_busy_seconds - counted)


def run_for(
    command: list[str], folder: Path, environment: dict[str, str], seconds: float, grace_s: float = 0.0
) -> Usage:
    """Run a command for some seconds, then end it and everything that it started.

    grace_s: the time between SIGTERM and SIGKILL.
    """
    meter = ProcessMeter()
    usage = Usage(started=time.time())
    process = start(command, folder, environment)
    try:
        while process.poll() is None and time.time() - usage.started < seconds:
            elapsed_s, cpu_s = time.time() - usage.started, meter.sample()
            if not usage.cpu_curve or elapsed_s - usage.cpu_curve[-1][0] >= CURVE_INTERVAL_S:
                usage.cpu_curve.append((round(elapsed_s, 1), round(cpu_s, 1)))
            time.sleep(SAMPLE_INTERVAL_S)
        usage.ended_itself = process.returncode is not None
        usage.wall_s = time.time() - usage.started
        usage.cpu_curve.append((usage.wall_s, meter.sample()))
        usage.other_cpu_s = meter.other_seconds()
    finally:
        end(process, grace_s)
    return usage


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a folder, in a session of its own; its output goes to log.txt there.

    From then on this process adopts the orphans of its descendants.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER_OPTION, 1)
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={
                **os.environ,
                "RAY_TMPDIR": str(folder),
                **environment,
            },  # so that Ray's files are deleted with the folder
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], grace_s: float = 0.0) -> None:
    """End a command by SIGTERM where it has a grace period, then all descendants of this process by SIGKILL."""
    if grace_s and process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    while survivors := descendants():
        for descendant in survivors:
            with suppress(psutil.Error):
                descendant.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        psutil.wait_procs(survivors, timeout=1)
    with suppress(ChildProcessError):  # an adopted process that has ended is a zombie until it is waited for
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants() -> list[psutil.Process]:
    """Return the processes that this process or its descendants started and that have not ended."""
    with suppress(psutil.Error):
        return [process for process in psutil.Process().children(recursive=True) if _is_alive(process)]
    return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
