"""Writes to Optuna's storage: they are repeated while a database is away, and refused ones are one sentence."""

import time
from collections.abc import Callable
from typing import TypeVar, cast

import optuna
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from forcetune.errors import StoppedError
from forcetune.stores import hide_password, innermost_message, sqlite_path

WriteResult = TypeVar("WriteResult")

DATABASE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
DATABASE_PATIENCE_S = 300.0  # that a database server may be away
DATABASE_RETRY_PAUSE_S = 1.0  # between two attempts at a write


def write_patiently(write: Callable[[], WriteResult], uri: str) -> WriteResult:
    """Do a write to a store that may be repeated, and repeat it while the database is away.

    Args:
        write: The write.
        uri: The address of the Optuna storage.

    Returns:
        What `write` returns; None where an attempt came through whose answer was lost.

    Raises:
        StoppedError: The database did not come back in time, or refuses this write whenever it is made.
    """
    deadline = time.monotonic() + (DATABASE_PATIENCE_S if sqlite_path(uri) is None else 0)
    while True:
        try:
            return write()
        except optuna.exceptions.UpdateFinishedTrialError:
            return cast(WriteResult, None)  # the attempt before this one came through
        except DATABASE_ERRORS as error:
            if time.monotonic() > deadline or _is_final(error):
                raise StoppedError(_describe_refusal(uri, error)) from None
        time.sleep(DATABASE_RETRY_PAUSE_S)


def describe_unusable(uri: str, error: Exception) -> str:
    """Return the sentence that says why a storage cannot be opened or read."""
    return f"the Optuna storage {hide_password(uri)} cannot be used: {innermost_message(error)}"


def _is_final(error: Exception) -> bool:
    """Return whether a write is refused whenever it is made: for lack of a right, or since a name is taken."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return isinstance(cause, ProgrammingError | IntegrityError)


def _describe_refusal(uri: str, error: Exception) -> str:
    return (
        f"the ledger {hide_password(uri)} refuses writes: {innermost_message(error)}. Once it accepts them, run the "
        "same command again to continue"
    )
