"""The connection to Ray: a cluster, or a Ray of this process alone; and what is said where Ray's head is gone."""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from forcetune.errors import InputError, StoppedError
from forcetune.search import environment
from forcetune.stores import ray_address

START_TRIES = 3  # of a Ray of this process
HEARTBEAT_S = 2.0  # between two questions to Ray's head, and for its answer
OWN_HEAD_PATIENCE_S = 3.0  # the head of a Ray of this process does not come back
CLUSTER_HEAD_PATIENCE_S = 40.0  # that of a cluster may; Ray gives up after 60 s


@contextmanager
def connected() -> Iterator[None]:
    """The cluster that RAY_ADDRESS names, or a Ray of this process alone that listens on loopback only."""
    address = ray_address()
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS is {address}, the address for jobs: `forcetune submit` sends a study there. To search from "
            "this process unset it (a local Ray is started) or give a cluster's own address, host:port"
        )
    if address:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise InputError(f"RAY_ADDRESS is {address}, and no Ray cluster answers there: {error}") from error
    else:
        _start_own_ray()
    patience_s = CLUSTER_HEAD_PATIENCE_S if address else OWN_HEAD_PATIENCE_S
    try:
        with RayHeartbeat(ray.get_runtime_context().gcs_address, patience_s):
            yield
    finally:
        ray.shutdown()


def _start_own_ray() -> None:
    """Start a Ray of this process. Ray waits for itself for 30 s and no longer: a loaded machine gets further tries."""
    options = {"include_dashboard": False, "_temp_dir": str(environment.ray_folder())}
    for left in reversed(range(START_TRIES)):
        try:
            ray.init("local", log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # Ray raises plain exceptions here
            ray.shutdown()
            if not left:
                reason = str(error).partition("\n")[0]
                raise StoppedError(
                    f"Ray did not start on this machine in {START_TRIES} tries ({reason}). Nothing is lost: the same "
                    "command tries again, best when the machine has less to do"
                ) from error


class RayHeartbeat:
    """A thread that asks every few seconds whether Ray's head, its process gcs_server, still takes connections.

    Where the head is gone it says so and ends the process with exit code 1. Ray does the same after a minute, with a
    line of its own; Tune's loop waits in Ray's library until then, so no exception reaches it. The stores take up the
    running trials at the next start, as after any crash.
    """

    def __init__(self, address: str, patience_s: float) -> None:
        host, _, port = address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self._patience_s = patience_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="ray-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    def _ask(self) -> None:
        answered = time.monotonic()
        while not self._ended.wait(HEARTBEAT_S):
            try:
                socket.create_connection(self._head, timeout=HEARTBEAT_S).close()
                answered = time.monotonic()
            except OSError as error:
                if time.monotonic() > answered + self._patience_s and not self._ended.is_set():
                    self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        host, port = self._head
        print(
            f"\nforcetune: Ray's head at {host}:{port} is gone ({error.strerror or error}): its process gcs_server was "
            "killed, or its machine is not to be reached. Nothing is lost: the same command goes on where the search "
            "was",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
