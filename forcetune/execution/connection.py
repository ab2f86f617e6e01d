"""The connection to Ray, a cluster or a Ray that only this process uses, and a watch over Ray's head."""

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
from forcetune.execution import environment
from forcetune.stores import is_http, ray_address

START_TRIES = 3  # of a Ray of this process, before the search is given up
HEARTBEAT_S = 2.0  # between two connections to Ray's head, and the longest that one may take
OWN_HEAD_PATIENCE_S = 3.0  # short, since the head of a Ray of this process does not come back
CLUSTER_HEAD_PATIENCE_S = 40.0  # the head of a cluster may come back; Ray itself gives up after 60 s


@contextmanager
def connect_ray() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or start a Ray for this process only; disconnect at the end.

    The Ray of this process listens on loopback only. While connected, a `RayHeartbeat` watches Ray's head.

    Raises:
        InputError: RAY_ADDRESS is the address for jobs, or no Ray cluster answers there.
        StoppedError: The Ray of this process did not start.
    """
    address = ray_address()
    if is_http(address):
        raise InputError(
            f"RAY_ADDRESS is {address}, the address for jobs, which `forcetune submit` uses. To search from this "
            "process, unset it (a local Ray is started), or set it to the address of the cluster's head, HOST:PORT"
        )
    if address:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(
                f"RAY_ADDRESS is {address}, but no Ray cluster answers there; allowed: HOST:PORT of a cluster's head: "
                f"{error}"
            ) from error
    else:
        _start_own_ray()
    patience_s = CLUSTER_HEAD_PATIENCE_S if address else OWN_HEAD_PATIENCE_S
    try:
        with RayHeartbeat(ray.get_runtime_context().gcs_address, patience_s):
            yield
    finally:
        ray.shutdown()


def _start_own_ray() -> None:
    """Start a Ray of this process, in several tries.

    Ray waits no longer than 30 s until it has started, which is too short on a loaded machine.
    """
    options = {"include_dashboard": False, "_temp_dir": str(environment.get_ray_folder())}
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray.init("local", log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # Ray raises no type of its own here
            ray.shutdown()
            if not tries_left:
                reason = str(error).partition("\n")[0]
                raise StoppedError(
                    f"Ray did not start on this machine in {START_TRIES} tries ({reason}). Nothing is lost: the same "
                    "command tries again, preferably when the machine is less busy"
                ) from error


class RayHeartbeat:
    """A thread that checks every few seconds whether Ray's head, its process gcs_server, still takes connections.

    Where the head is gone, the thread prints a message and ends the process with exit code 1. No exception could end
    the search: Tune's loop waits in Ray's library, which itself ends the process a minute later. At the next start the
    running trials are taken up from the stores, as after any crash.

    Args:
        address: The address of Ray's head, HOST:PORT.
        patience_s: How long the head may refuse connections, in seconds.
    """

    def __init__(self, address: str, patience_s: float) -> None:
        host, _, port = address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self._patience_s = patience_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._check_periodically, name="ray-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._closed.set()

    def _check_periodically(self) -> None:
        last_answer = time.monotonic()
        while not self._closed.wait(HEARTBEAT_S):
            try:
                socket.create_connection(self._head, timeout=HEARTBEAT_S).close()
                last_answer = time.monotonic()
            except OSError as error:
                if time.monotonic() > last_answer + self._patience_s and not self._closed.is_set():
                    self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        host, port = self._head
        print(
            f"\nforcetune: Ray's head at {host}:{port} is gone ({error.strerror or error}): its process gcs_server was "
            "killed, or its machine cannot be reached. Nothing is lost: the same command continues the search",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
