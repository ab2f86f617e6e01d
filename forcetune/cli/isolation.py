"""A command that runs the user's code in a separate process, and names the function that ended this process."""

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

END_MARK = b"done\n"  # the last line of a process that reached its end by itself
TRACE_S = 2.0  # that a process gets to write its stack trace
KILL_AT_END = 'read -r line; kill -s KILL -- "-$0"'  # its pipe closes however the command ends


def run_isolated(arguments: Sequence[str], timeout_s: float) -> int:
    """Run a command of forcetune in a separate process that shares this one's output, and return its exit code.

    Args:
        arguments: The command and its arguments; `--result-fd` is added.
        timeout_s: Seconds after which the process is killed, with all that it started.

    Raises:
        InputError: The process took longer, or ended before the context of `reporting` did.
    """
    reader, writer = os.pipe()
    program = f"import sys; sys.path[:] = {sys.path!r}; from forcetune.cli import main; main(prog_name='forcetune')"
    command = [sys.executable, "-c", program, *arguments[:1], "--result-fd", str(writer), *arguments[1:]]
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
        is_late = False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)
        _wait_for_trace(reader)
        is_late = True
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        watcher.kill()  # before its pipe closes: the process group's id may be another's by now
        watcher.communicate()
    report = _read_report(reader)
    function = _find_user_function(report)
    if is_late:
        raise InputError(
            f"{function or 'the check'} has not ended within {timeout_s:g} s; `--timeout SECONDS` allows more time"
        )
    if not report.endswith(END_MARK):
        code = process.returncode
        end = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        raise InputError(f"{function or 'a function that the check called'} ended the process with {end}")
    return process.returncode


@contextmanager
def reporting(result_fd: int) -> Iterator[None]:
    """Report to `run_isolated` that the process reached the end of this context, or else its stack trace."""
    os.set_inheritable(result_fd, False)
    faulthandler.enable(result_fd)
    faulthandler.register(signal.SIGUSR1, result_fd)
    try:
        yield
    finally:
        os.write(result_fd, END_MARK)


def _wait_for_trace(reader: int) -> None:
    """Wait until the process has written its stack trace."""
    if select.select([reader], [], [], TRACE_S)[0]:
        time.sleep(TRACE_S / 10)  # the lines of a trace arrive one by one


def _read_report(reader: int) -> bytes:
    os.set_blocking(reader, False)  # a process that was left behind may still hold the other end
    with open(reader, "rb", buffering=0) as pipe:
        return pipe.read(2**20) or b""


def _find_user_function(report: bytes) -> str | None:
    """Return the innermost of the user's functions in a trace of faulthandler, which has the newest call first."""
    for file, line, name in re.findall(r'File "(.+)", line (\d+) in (.+)', report.decode(errors="replace")):
        if not is_installed(file):
            return f"{Path(file).stem}:{name} ({Path(file).name}, line {line})"
    return None
