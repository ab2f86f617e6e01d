"""The exceptions that end a command with one paragraph; `cli` has an exit code for each."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """An input that cannot be used; the message says what is wrong, where, and what is allowed.

    The command line prints the message and exits with 2, with nothing started or written.
    """


class HeldError(Exception):
    """A study that another driver holds; exit code 4."""


class StoppedError(Exception):
    """A search that cannot go on (a full disk, a lost store, too many failures); nothing is lost, exit code 1."""


def escape_unprintable(message: str, kept: str = "") -> str:
    """Return a message with what a terminal obeys or cannot print escaped, since values and file names may contain it.

    Args:
        message: The message.
        kept: The characters that stay as they are in any case.
    """
    return "".join(sign if sign.isprintable() or sign in kept else repr(sign)[1:-1] for sign in message)


@contextmanager
def locating(position: object) -> Iterator[None]:
    """Put a position in front of the message of an InputError.

    Args:
        position: The file, the field or the option that the error is about; None leaves the message as it is.
    """
    try:
        yield
    except InputError as error:
        if position is None:
            raise
        raise InputError(f"{position}: {error}") from None
