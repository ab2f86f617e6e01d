"""What a job runs: the driver of a study, started again where it dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from forcetune import __version__
from forcetune.errors import InputError

ACCEPTED = "forcetune: the cluster has the client's versions"  # the log's line once nothing stands in the way
STORES = ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE")
FINAL = {0, 2, 4, 130}  # exit codes after which a driver is not started again
FIRST, LONGEST = 1.0, 60.0  # seconds before it is, doubled each time


def versions() -> dict[str, str]:
    """Of what a client and its cluster must share."""
    return {
        "forcetune": __version__,
        "ray": version("ray"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }


def check_versions(client: Mapping[str, str]) -> None:
    """Raise InputError where this machine has others than the client."""
    here = versions()
    differ = [f"{name} {client.get(name)} against {here[name]}" for name in here if client.get(name) != here[name]]
    if differ:
        raise InputError(
            f"the client and the cluster differ: {', '.join(differ)} on the cluster. Install the same on both, and "
            "submit again; nothing was run"
        )


def check_stores() -> None:
    """Raise InputError where an address of a store is missing: a job's own folder is gone when it ends.

    Where nobody has said where running trials are kept it is below the home folder, for the same reason.
    """
    for name in STORES:
        if not os.environ.get(name):
            raise InputError(
                f"{name} is set neither where the job was submitted nor on the cluster, and a job keeps nothing in "
                "files of its own; set it in one of the two places. Nothing was run"
            )
    os.environ.setdefault("FORCETUNE_STATE", str(Path.home() / ".forcetune" / "state"))


def supervise(
    command: Sequence[str], client: str, restarts: int, complete: Callable[[], bool], once: Sequence[str] = ()
) -> int:
    """Run a driver to its end, and again up to `restarts` times where it dies; its last exit code.

    client: the client's versions, as NAME=VERSION with commas between; complete: whether nothing is left for another
    driver, though one failed; once: options of the first start alone. SIGTERM is handed on, and ends it.
    """
    check_versions(dict(each.split("=", 1) for each in client.split(",")))
    check_stores()
    print(ACCEPTED, flush=True)
    driver = _Driver()
    code = driver.run([*command, *once])
    for again in range(1, restarts + 1):
        if code in FINAL or driver.stopped or (code > 0 and complete()):
            break
        pause = min(FIRST * 2 ** (again - 1), LONGEST)
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        told = f"forcetune: the driver died ({why}); it is started again in {pause:g} s, {again} of {restarts}"
        print(told, flush=True)
        driver.wait(pause)
        code = driver.run(list(command))
    return code if code >= 0 else 128 - code


class _Driver:
    """One driver at a time, told of SIGTERM."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self, command: list[str]) -> int:
        if self.stopped:
            return 130
        self._process = subprocess.Popen([sys.executable, "-m", "forcetune", *command], env=os.environ)
        return self._process.wait()

    def wait(self, seconds: float) -> None:
        """Let so much time pass, unless the job is stopped."""
        until = time.monotonic() + seconds
        while not self.stopped and time.monotonic() < until:
            time.sleep(min(seconds, 0.2))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process and self._process.poll() is None:
            self._process.terminate()  # Ray tells it too; a driver takes the second time for the first
