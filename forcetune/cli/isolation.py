"""A command that runs code of the user's own in a process of its own, and says which function ended that process."""

from __future__ import annotations

import faulthandler
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from forcetune.containment import is_installed
from forcetune.errors import InputError

DONE = b"done\n"  # the last line of a process that came to its end by itself
TRACE_S = 2.0  # that a process gets to say where it is
KILL_AT_END = 'read -r line; kill -s KILL -- "-$0"'  # once nobody can write into its pipe, whatever ended the command


def run_isolated(arguments: Sequence[str], timeout_s: float) -> int:
    """Run a command of forcetune in a process of its own, with this one's output, and return its exit code.

    Args:
        arguments: The command and its arguments; `--result-fd` is added.
        timeout_s: Seconds after which the process is killed, with all that it started.

    Raises:
        InputError: The process took longer, or ended before `reporting` did.
    """
    reader, writer = os.pipe()
    start = f"import sys; sys.path[:] = {sys.path!r}; from forcetune.cli import main; main(prog_name='forcetune')"
    command = [sys.executable, "-c", start, *arguments[:1], "--result-fd", str(writer), *arguments[1:]]
    process = subprocess.Popen(command, pass_fds=[writer], start_new_session=True)
    os.close(writer)
    watcher = subprocess.Popen(
        ["sh", "-c", KILL_AT_END, str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout_s)
        late = False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)
        _wait_for(reader)
        late = True
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        watcher.kill()  # before its pipe is closed: the number may be another group's by now
        watcher.communicate()
    report = _read(reader)
    function = _function(report)
    if late:
        raise InputError(
            f"{function or 'the check'} has not ended within {timeout_s:g} s; `--timeout SECONDS` lets it take longer"
        )
    if not report.endswith(DONE):
        code = process.returncode
        end = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        raise InputError(f"{function or 'code that the check called'} ended the process with {end}")
    return process.returncode


@contextmanager
def reporting(result_fd: int) -> Iterator[None]:
    """Report to `run_isolated` that the process came to the end of this context, or where it was before."""
    os.set_inheritable(result_fd, False)
    faulthandler.enable(result_fd)
    faulthandler.register(signal.SIGUSR1, result_fd)
    try:
        yield
    finally:
        os.write(result_fd, DONE)


def _wait_for(reader: int) -> None:
    """Wait until the process has said where it is."""
    if select.select([reader], [], [], TRACE_S)[0]:
        time.sleep(TRACE_S / 10)  # the lines of a trace are written one by one


def _read(reader: int) -> bytes:
    os.set_blocking(reader, False)  # a process that was left behind may still have the other end
    with open(reader, "rb", buffering=0) as pipe:
        return pipe.read(2**20) or b""


def _function(report: bytes) -> str | None:
    """Return the first of the user's functions in a trace of faulthandler's, which has the newest call first."""
    for file, line, name in re.findall(r'File "(.+)", line (\d+) in (.+)', report.decode(errors="replace")):
        if not is_installed(file):
            return f"{Path(file).stem}:{name} ({Path(file).name}, line {line})"
    return None
