"""Requests to a server of MLflow over a connection that loses or delays some of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

REPEAT_WITHIN_S = 15.0  # since the first try: a request that MLflow's own limit of 10 s ends is repeated once
FIRST_PAUSE_S = 0.2  # before a request is repeated; doubled each time
PASSING_CODES = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
SENT_ONCE = ("create_", "restore_")  # what these methods' names begin with


class PatientClient:
    """MLflow's client for a server, which repeats a request that failed on its way.

    A request whose answer is lost may have been carried out. Sent again, most of them change nothing; one that
    creates an experiment or a run makes a second one, so that it is sent once: see `create_once`.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return method if name.startswith(SENT_ONCE) else partial(_repeat, method)


def patient(client: MlflowClient) -> MlflowClient:
    """Return a client with the same methods that repeats requests."""
    return cast("MlflowClient", PatientClient(client))


def create_once(find: Callable[[], T | None], create: Callable[[], T]) -> T:
    """Return what `find` finds, or else what `create` creates, and look again wherever the answer of that is lost.

    Raises:
        MlflowException: MLflow refuses, or does not answer for longer than a request is repeated.
    """

    def find_or_create() -> T:
        found = find()
        return create() if found is None else found

    return _repeat(find_or_create, also=("RESOURCE_ALREADY_EXISTS",))


def _repeat(request: Callable[..., T], *values: Any, also: tuple[str, ...] = (), **options: Any) -> T:
    """Send a request, and again where it failed on its way or with one of these codes also."""
    from mlflow.exceptions import MlflowException

    given_up, pause_s = time.monotonic() + REPEAT_WITHIN_S, FIRST_PAUSE_S
    while True:
        try:
            return request(*values, **options)
        except MlflowException as error:
            passing = error.error_code in (*PASSING_CODES, *also)
            if not passing or time.monotonic() + pause_s > given_up:
                raise
        time.sleep(pause_s)
        pause_s *= 2
