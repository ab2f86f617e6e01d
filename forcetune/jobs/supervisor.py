"""The supervisor that a job runs: it starts the driver of a study, and starts it again where it dies."""

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
from forcetune.stores import STORE_VARIABLES

ACCEPTED_LINE = "forcetune: the cluster has the client's versions"  # the log's line that `submit` waits for
FAILED_CODE, REFUSED_CODE = 1, 2
FINAL_EXIT_CODES = {0, REFUSED_CODE, 4, 130}  # after which a driver is not started again
# after which `on_end` has nothing to say: 143 is that of a driver that was stopped before its search had begun
ANNOUNCED_EXIT_CODES = FINAL_EXIT_CODES | {128 + signal.SIGTERM}
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0  # before a driver is started again; the pause doubles each time


def collect_versions() -> dict[str, str]:
    """Return the versions that a client and its cluster must share, by name."""
    return {
        "forcetune": __version__,
        "ray": version("ray"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }


def check_versions(client: Mapping[str, str]) -> None:
    """Compare the client's versions with those of this machine.

    Args:
        client: The client's versions, by name.

    Raises:
        InputError: A version differs.
    """
    cluster = collect_versions()
    differences = [
        f"{name} {client.get(name)} on the client, {cluster[name]} on the cluster"
        for name in cluster
        if client.get(name) != cluster[name]
    ]
    if differences:
        raise InputError(
            f"the client and the cluster have different versions: {'; '.join(differences)}. Install the same on both, "
            "and submit again; nothing was run"
        )


def check_stores() -> None:
    """Check that the addresses of both stores are set, since the folder of a job is deleted when the job ends.

    For the same reason the state of running trials is kept below the home folder, where FORCETUNE_STATE is not set.

    Raises:
        InputError: The address of a store is missing.
    """
    for name in STORE_VARIABLES:
        if not os.environ.get(name):
            raise InputError(
                f"{name} is set neither where the job was submitted nor on the cluster, and the files of a job are "
                "deleted when it ends; set it in one of the two places. Nothing was run"
            )
    os.environ.setdefault("FORCETUNE_STATE", str(Path.home() / ".forcetune" / "state"))


def supervise(
    command: Sequence[str],
    client: str,
    restarts: int,
    is_complete: Callable[[], bool],
    first_run_options: Sequence[str] = (),
) -> int:
    """Run a driver to its end, and start it again where it dies; SIGTERM ends the driver, and then this call.

    Args:
        command: The arguments of `forcetune` that start the driver.
        client: The client's versions, as NAME=VERSION with commas between them.
        restarts: How often the driver is started again at most.
        is_complete: Returns whether no work is left for another driver, though one failed.
        first_run_options: Options of the first start alone.

    Returns:
        The exit code of the last driver; 128 plus the number of the signal where a signal ended it. A later driver that
        is refused counts as failed (1): a store or a node may be away now.

    Raises:
        InputError: The versions differ from the client's, or the address of a store is missing.
    """
    check_versions(dict(pair.split("=", 1) for pair in client.split(",")))
    check_stores()
    print(ACCEPTED_LINE, flush=True)
    driver = _Driver()
    code, starts = driver.run([*command, *first_run_options]), 1
    for restart in range(1, restarts + 1):
        is_final = code in FINAL_EXIT_CODES and (code != REFUSED_CODE or restart == 1)
        if is_final or driver.is_stopped or (code > 0 and is_complete()):
            break
        pause = min(FIRST_PAUSE_S * 2 ** (restart - 1), MAX_PAUSE_S)
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        restart_count = f"restart {restart} of {restarts}"
        print(f"forcetune: the driver died ({cause}); starting it again in {pause:g} s ({restart_count})", flush=True)
        driver.wait(pause)
        code, starts = driver.run(list(command)), restart + 1
    if code == REFUSED_CODE and starts > 1:
        return FAILED_CODE
    return code if code >= 0 else 128 - code


class _Driver:
    """A driver process, one at a time; SIGTERM is passed on to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.is_stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self, command: list[str]) -> int:
        if self.is_stopped:
            return 130
        self._process = subprocess.Popen([sys.executable, "-m", "forcetune", *command], env=os.environ)
        return self._process.wait()

    def wait(self, seconds: float) -> None:
        """Wait for so many seconds, or until the job is stopped."""
        deadline = time.monotonic() + seconds
        while not self.is_stopped and time.monotonic() < deadline:
            time.sleep(min(seconds, 0.2))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.is_stopped = True
        if self._process and self._process.poll() is None:
            self._process.terminate()  # Ray sends SIGTERM to it too; a driver ignores the second signal
