"""Nights in the crontab of the current user: one line each, all other lines left as they are."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from forcetune.errors import InputError
from forcetune.schedule.night import Night, absolute_path

MARK = " # by forcetune schedule"  # ends a line of ours; a comment to the shell
LONGEST = 998  # bytes of a command that Debian's cron takes, the least of all
EMPTY = re.compile(rb"no crontab|No such file")  # what `crontab -l` says where a user has none


def cron(night: Night) -> str:
    """The line of the crontab that runs a night. Raises InputError where it is longer than cron takes."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in night.variables.items()]
    command = " ".join([*settings, shlex.join(night.command)])
    whole = f"cd {_quoted(night.folder)} && {command} >> {_quoted(night.log)} 2>&1{MARK}"
    whole = whole.replace("%", r"\%")  # to cron a bare one is the end of the line
    if len(os.fsencode(whole)) > LONGEST:
        raise InputError(
            f"the line of {night.file} has {len(os.fsencode(whole))} bytes, and cron takes {LONGEST}: use shorter "
            f"paths, unset what is not needed of {', '.join(night.variables)}, or use `forcetune schedule systemd`"
        )
    hour, minute = map(int, night.at.split(":"))
    return f"{minute} {hour} * * * {whole}"


def install(night: Night) -> str | None:
    """Put a night into the crontab, in the place of the line for the same file; that line, None where there was none.

    Raises InputError where there is no `crontab`, and where it does not take the line; the table is as it was then.
    """
    line, table = cron(night), _read()
    places = [place for place, each in enumerate(table) if _file(each) == night.file]
    kept = [each for place, each in enumerate(table) if place not in places]
    kept.insert(places[0] if places else len(kept), line)
    _write(kept)
    return table[places[0]] if places else None


def uninstall(file: str | Path) -> bool:
    """Take the night of a nightly.yaml out of the crontab; whether it was there. Raises InputError as `install`."""
    table = _read()
    kept = [each for each in table if _file(each) != absolute_path(file)]
    if len(kept) < len(table):
        _write(kept)
    return len(kept) < len(table)


def installed() -> list[tuple[Path, str]]:
    """The nights in the crontab: each file, and HH:MM or the five fields that somebody wrote instead.

    Raises InputError where there is no `crontab`, or where it refuses to say.
    """
    return [(file, _when(each)) for each in _read() if (file := _file(each))]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _file(line: str) -> Path | None:
    """The nightly.yaml that a line runs; None of one that is not ours or was made a comment."""
    if not line.endswith(MARK) or line.lstrip().startswith("#"):
        return None
    try:
        words = shlex.split(line.removesuffix(MARK).replace(r"\%", "%"))
        return Path(words[words.index("nightly") + 1])
    except (ValueError, IndexError):  # somebody wrote another command before our mark
        return None


def _when(line: str) -> str:
    minute, hour, *days = line.split()[:5]
    if minute.isdecimal() and hour.isdecimal() and days == ["*", "*", "*"]:
        return f"{int(hour):02}:{int(minute):02}"
    return " ".join((minute, hour, *days))


def _read() -> list[str]:
    """The lines of the table; bytes that are no text survive in them."""
    done = _crontab("-l")
    if done.returncode and EMPTY.search(done.stderr):
        return []
    _check(done, "cannot be read")
    text = os.fsdecode(done.stdout)
    return text.removesuffix("\n").split("\n") if text else []


def _write(lines: Iterable[str]) -> None:
    table = "".join(f"{line}\n" for line in lines)
    _check(_crontab("-", table=os.fsencode(table)), "is as it was, since the new one is refused")


def _crontab(argument: str, table: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["crontab", argument], input=table, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
        )
    except OSError as error:
        raise InputError(
            f"the program `crontab` cannot be started ({error.strerror}): install cron, or use "
            "`forcetune schedule systemd`; nothing was scheduled"
        ) from None


def _check(done: subprocess.CompletedProcess[bytes], what: str) -> None:
    if done.returncode:
        said = " ".join(os.fsdecode(done.stderr).split())
        raise InputError(f"the crontab {what}: {said or f'crontab ended with {done.returncode}'}")
