"""The exceptions that end a command with one paragraph; each has its exit code in `cli`."""


class InputError(ValueError):
    """What was given cannot be used; the message says what, where and what is allowed.

    The command line prints the message and exits with 2, with nothing started or written.
    """


class HeldError(Exception):
    """Another driver holds the study; exit code 4."""


class StoppedError(Exception):
    """The search cannot go on (a full disk, a store that is gone, too many failures); nothing is lost, exit code 1."""
