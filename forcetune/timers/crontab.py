"""Nights in the crontab of the current user: one line for each night; all other lines stay as they are."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from forcetune.errors import InputError
from forcetune.timers.night import Night, absolute_path

LINE_MARK = " # by forcetune schedule"  # ends forcetune's lines; a comment for the shell
COMMAND_LIMIT_BYTES = 998  # of Debian's cron, which has the lowest limit
NO_CRONTAB = re.compile(rb"no crontab|No such file")  # the error of `crontab -l` where a user has no table


def cron(night: Night) -> str:
    """Return the crontab line that runs a night.

    Args:
        night: The night that the line starts.

    Raises:
        InputError: The command is longer than cron allows.
    """
    settings = [f"{name}={shlex.quote(value)}" for name, value in night.variables.items()]
    command = " ".join([*settings, shlex.join(night.command)])
    command_line = f"cd {_quote_path(night.folder)} && {command} >> {_quote_path(night.log)} 2>&1{LINE_MARK}"
    command_line = command_line.replace("%", r"\%")  # cron ends the command at a % without a backslash
    if len(os.fsencode(command_line)) > COMMAND_LIMIT_BYTES:
        raise InputError(
            f"the crontab line of {night.file} has {len(os.fsencode(command_line))} bytes, and cron allows "
            f"{COMMAND_LIMIT_BYTES}: use shorter paths, unset variables that the night does not need "
            f"({', '.join(night.variables)}), or use `forcetune schedule systemd`"
        )
    hour, minute = map(int, night.at.split(":"))
    return f"{minute} {hour} * * * {command_line}"


def install(night: Night) -> str | None:
    """Put a night into the crontab, in place of the line for the same file.

    Args:
        night: The night that the new line starts.

    Returns:
        The line that was replaced; None where there was none.

    Raises:
        InputError: There is no program `crontab`, or it refuses the line. The crontab stays as it was.
    """
    line, table = cron(night), _read_table()
    indices = [index for index, entry in enumerate(table) if _nightly_file(entry) == night.file]
    kept = [entry for index, entry in enumerate(table) if index not in indices]
    kept.insert(indices[0] if indices else len(kept), line)
    _write_table(kept)
    return table[indices[0]] if indices else None


def uninstall(file: str | Path) -> bool:
    """Remove the night of a nightly.yaml from the crontab.

    Args:
        file: The nightly.yaml.

    Returns:
        Whether the crontab had a line for the file.

    Raises:
        InputError: There is no program `crontab`, or it refuses the table.
    """
    table = _read_table()
    kept = [entry for entry in table if _nightly_file(entry) != absolute_path(file)]
    if len(kept) < len(table):
        _write_table(kept)
    return len(kept) < len(table)


def installed() -> list[tuple[Path, str]]:
    """Return the nights in the crontab.

    Returns:
        Each file with its time as HH:MM, or with the five time fields where somebody has changed them.

    Raises:
        InputError: There is no program `crontab`, or it cannot read the table.
    """
    return [(file, _format_time(entry)) for entry in _read_table() if (file := _nightly_file(entry))]


def _quote_path(path: Path) -> str:
    return shlex.quote(str(path))


def _nightly_file(line: str) -> Path | None:
    """Return the nightly.yaml that a line runs; None for another line, or one that is commented out."""
    if not line.endswith(LINE_MARK) or line.lstrip().startswith("#"):
        return None
    try:
        words = shlex.split(line.removesuffix(LINE_MARK).replace(r"\%", "%"))
        return Path(words[words.index("nightly") + 1])
    except (ValueError, IndexError):  # somebody has put another command in front of the mark
        return None


def _format_time(line: str) -> str:
    minute, hour, *days = line.split()[:5]
    if minute.isdecimal() and hour.isdecimal() and days == ["*", "*", "*"]:
        return f"{int(hour):02}:{int(minute):02}"
    return " ".join((minute, hour, *days))


def _read_table() -> list[str]:
    """Return the lines of the crontab; bytes that are no text survive in them."""
    result = _run_crontab("-l")
    if result.returncode and NO_CRONTAB.search(result.stderr):
        return []
    _check_exit(result, "cannot be read")
    text = os.fsdecode(result.stdout)
    return text.removesuffix("\n").split("\n") if text else []


def _write_table(lines: Iterable[str]) -> None:
    table = "".join(f"{line}\n" for line in lines)
    _check_exit(_run_crontab("-", table=os.fsencode(table)), "was not changed, since the new table was refused")


def _run_crontab(argument: str, table: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["crontab", argument], input=table, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
        )
    except OSError as error:
        raise InputError(
            f"the program `crontab` cannot be started ({error.strerror}): install cron, or use "
            "`forcetune schedule systemd`; nothing was scheduled"
        ) from None


def _check_exit(result: subprocess.CompletedProcess[bytes], problem: str) -> None:
    if result.returncode:
        error_output = " ".join(os.fsdecode(result.stderr).split())
        raise InputError(f"the crontab {problem}: {error_output or f'crontab ended with {result.returncode}'}")
