"""The one exception for what a user can mend."""


class InputError(ValueError):
    """What was given cannot be used; the message says what, where and what is allowed.

    The command line prints the message and exits with 2, with nothing started or written.
    """
