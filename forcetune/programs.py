"""Programs of the user's that forcetune starts with a message on standard input: `on_alarm` and `on_end`."""

import shutil
import subprocess
from collections.abc import Sequence

from forcetune.errors import InputError

PROGRAM_LIMIT_S = 60.0  # until a program that has not ended is killed


def check_program(command: Sequence[str], field: str) -> None:
    """Check that a program can be started from the current folder.

    Args:
        command: The program and its arguments; nothing is checked where it is empty.
        field: The field that names it, for the error message.

    Raises:
        InputError: There is no such program.
    """
    if command and shutil.which(command[0]) is None:
        raise InputError(
            f"{field}: there is no program {command[0]!r} on this machine; allowed: a program in the folders of PATH, "
            "or the path of an executable file"
        )


def start_program(command: Sequence[str], message: str) -> str | None:
    """Start a program, write a message to its standard input, and wait until it has ended.

    Args:
        command: The program and its arguments.
        message: The message.

    Returns:
        Why the program failed, None where it did not.
    """
    try:
        subprocess.run(command, input=message, encoding="utf-8", check=True, timeout=PROGRAM_LIMIT_S)
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a NUL character in an argument
        return str(error)
    return None
