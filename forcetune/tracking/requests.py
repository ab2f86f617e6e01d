"""Requests to an MLflow server over a connection that loses or delays some of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from mlflow import MlflowClient

ResultT = TypeVar("ResultT")

REPEAT_WITHIN_S = 15.0  # since the first try: a request that MLflow's own limit of 10 s ends is repeated once
FIRST_PAUSE_S = 0.2  # before a request is repeated; doubled each time
TRANSIENT_CODES = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
UNREPEATED_PREFIXES = ("create_", "restore_")  # of the names of methods whose requests are sent once


class RetryingClient:
    """MLflow's client of a server, which repeats a request that failed on its way.

    A request whose answer is lost may have been carried out. Most requests change nothing when they are sent again. A
    request that creates an experiment or a run makes a second one, so it is sent once: see `create_once`.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return method if name.startswith(UNREPEATED_PREFIXES) else partial(repeat, method)


def add_retries(client: MlflowClient) -> MlflowClient:
    """Return a client with the same methods that repeats requests."""
    return cast("MlflowClient", RetryingClient(client))


def create_once(find: Callable[[], ResultT | None], create: Callable[[], ResultT]) -> ResultT:
    """Return the entity that `find` returns, or else the one that `create` creates.

    Where the answer to `create` is lost, `find` is called again, so that no second entity is created.

    Args:
        find: Looks for the entity; returns None where there is none.
        create: Creates the entity.

    Raises:
        MlflowException: MLflow refuses, or does not answer for longer than a request is repeated.
    """

    def find_or_create() -> ResultT:
        entity = find()
        return create() if entity is None else entity

    return repeat(find_or_create, extra_codes=("RESOURCE_ALREADY_EXISTS",))


def repeat(
    request: Callable[..., ResultT], *arguments: Any, extra_codes: tuple[str, ...] = (), **options: Any
) -> ResultT:
    """Send a request, and repeat it where it failed on its way or with one of the extra codes.

    Args:
        request: Sends the request, which changes nothing when it is sent again.
        *arguments: The arguments of `request`.
        extra_codes: MLflow's codes of other errors after which the request is repeated.
        **options: The arguments of `request` by keyword.

    Returns:
        What `request` returns.

    Raises:
        MlflowException: MLflow refuses, or does not answer for longer than a request is repeated.
    """
    from mlflow.exceptions import MlflowException

    deadline, pause_s = time.monotonic() + REPEAT_WITHIN_S, FIRST_PAUSE_S
    while True:
        try:
            return request(*arguments, **options)
        except MlflowException as error:
            transient = error.error_code in (*TRANSIENT_CODES, *extra_codes)
            if not transient or time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s *= 2
