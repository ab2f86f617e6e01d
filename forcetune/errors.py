"""The exceptions that end a command with one paragraph; `cli` has an exit code for each."""


class InputError(ValueError):
    """An input that cannot be used; the message says what is wrong, where, and what is allowed.

    The command line prints the message and exits with 2, with nothing started or written.
    """


class HeldError(Exception):
    """A study that another driver holds; exit code 4."""


class StoppedError(Exception):
    """A search that cannot go on (a full disk, a lost store, too many failures); nothing is lost, exit code 1."""
