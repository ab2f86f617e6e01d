"""Where a search writes what must outlive it: each such write can be cut off before and after, to see what is lost."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# In the order in which a trial meets them; who writes, and where.
WRITES = {
    "tables": "driver, MLflow: the tables and the experiment, where they are new",
    "ledger": "driver, ledger: the tables and the study, where they are new",
    "parent": "driver, MLflow: the study's own run",
    "ask": "driver, ledger: a new trial, RUNNING",
    "retry": "driver, ledger: a new trial in place of a failed one, RUNNING",
    "issue": "driver, ledger: a further attempt at a trial",
    "claim": "worker, files: its attempt is the one in force",
    "checkpoint": "worker, files: the trial after an epoch",
    "files": "driver, files: masks and layers, until MLflow has them",
    "run record": "driver, MLflow: the trial's run",
    "log": "driver, MLflow: params, tags and metrics in one request",
    "artifact": "driver, MLflow: a file of the trial",
    "decide": "driver, ledger: what became of the trial, its curve included",
    "end": "driver, MLflow: the run is FINISHED or FAILED",
    "tell": "driver, ledger: COMPLETE or FAIL, the last word",
    "clean": "driver, files: the trial's folder goes",
    "close": "driver, MLflow: the study's own run is FINISHED",
    "archive begun": "driver, ledger: the name under which --fresh archives the study",
    "experiment archived": "driver, MLflow: the experiment has that name",
    "archived": "driver, ledger: and the study",
}

_passed: dict[str, int] = {}


@contextmanager
def durable(write: str) -> Iterator[None]:
    """Around a write of WRITES. With FORCETUNE_FAULT="tell before 2" the process kills itself at the second of them."""
    reach(f"{write} before")
    yield
    reach(f"{write} after")


def reach(point: str) -> None:
    """Die here by SIGKILL if this is the point, and the time, that FORCETUNE_FAULT names."""
    _passed[point] = _passed.get(point, 0) + 1
    if os.environ.get("FORCETUNE_FAULT") == f"{point} {_passed[point]}":
        os.kill(os.getpid(), signal.SIGKILL)
