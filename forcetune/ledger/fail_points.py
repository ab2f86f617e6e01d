"""Fail points: a test can kill a process before and after each write that must survive a crash, to see what is lost."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from forcetune.errors import InputError

FAULT_VARIABLE = "FORCETUNE_FAULT"

# In the order in which a trial meets them. Each value names the process that writes, the store, and the content.
WRITES = {
    "tables": "driver, MLflow: the tables and the experiment, if they are new",
    "ledger": "driver, ledger: the tables and the study, if they are new",
    "parent": "driver, MLflow: the study's own run",
    "ask": "driver, ledger: a new trial, RUNNING",
    "retry": "driver, ledger: a new trial in place of a failed one, RUNNING",
    "issue": "driver, ledger: a further attempt at a trial",
    "claim": "worker, files: the folder of its attempt",
    "checkpoint": "worker, files: the trial after an epoch",
    "files": "driver, files: masks and layers, until MLflow has them",
    "run record": "driver, MLflow: the trial's run",
    "log": "driver, MLflow: params, tags and metrics in one request",
    "artifact": "driver, MLflow: a file of the trial",
    "decide": "driver, ledger: the outcome of the trial, with its curve",
    "end": "driver, MLflow: the run is FINISHED or FAILED",
    "tell": "driver, ledger: the trial is COMPLETE or FAIL",
    "clean": "driver, files: the trial's folder is removed",
    "drop": "driver, MLflow: weights that are no longer kept are deleted",
    "close": "driver, MLflow: the study's own run is FINISHED",
    "announced": "driver, ledger: the end for which the program of `on_end` was started",
    "archive begun": "driver, ledger: the name under which --fresh archives the study",
    "experiment archived": "driver, MLflow: the new name of the experiment",
    "archived": "driver, ledger: the new name of the study",
}

_passed: dict[str, int] = {}


@contextmanager
def durable(write: str) -> Iterator[None]:
    """Surround a durable write with two points at which the process can be killed.

    With FORCETUNE_FAULT="tell before 2" the process kills itself when it reaches the point before the write `tell` for
    the second time.

    Args:
        write: A key of WRITES.
    """
    _reach(f"{write} before")
    yield
    _reach(f"{write} after")


def refuse_outside_tests() -> None:
    """Refuse a search that would kill itself and is not run by a test of forcetune.

    Raises:
        InputError: FORCETUNE_FAULT is set, and pytest has not started this process.
    """
    if os.environ.get(FAULT_VARIABLE) and "PYTEST_CURRENT_TEST" not in os.environ:
        raise InputError(
            f"the environment variable {FAULT_VARIABLE} is set: with it forcetune's own tests make a process kill "
            "itself; unset it"
        )


def _reach(point: str) -> None:
    """Count that the process reached a point; kill it with SIGKILL if FORCETUNE_FAULT names this point and this count.

    Args:
        point: A key of WRITES, followed by ` before` or ` after`.
    """
    _passed[point] = _passed.get(point, 0) + 1
    if os.environ.get(FAULT_VARIABLE) == f"{point} {_passed[point]}":
        os.kill(os.getpid(), signal.SIGKILL)
