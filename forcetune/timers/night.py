"""A night: what runs, where, when, and with which variables of the shell in which it was scheduled."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zlib import crc32

from forcetune.errors import InputError
from forcetune.stores import STORE_VARIABLES, absolute_uri, has_password

PATH_VARIABLES = (
    *("FORCETUNE_STATE", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "PGPASSFILE"),
    *("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
)
OTHER_VARIABLES = (
    *("RAY_ADDRESS", "RAY_AUTH_MODE", "CUDA_VISIBLE_DEVICES"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_INSECURE_TLS"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
NIGHT_VARIABLES = (*STORE_VARIABLES, *PATH_VARIABLES, "PYTHONPATH", *OTHER_VARIABLES)
SECRET_VARIABLES = {  # what to do instead, since others can read a crontab or a unit
    "RAY_AUTH_TOKEN": "name the file that holds it with RAY_AUTH_TOKEN_PATH",
    "MLFLOW_TRACKING_PASSWORD": "put it into ~/.mlflow/credentials",
    "MLFLOW_TRACKING_TOKEN": "put a user's name and password into ~/.mlflow/credentials",
    "PGPASSWORD": "put it into ~/.pgpass",
}
NIGHT_NAME = "forcetune-nightly"
NIGHT_NAME_CHARACTERS = 52  # the limit of Kubernetes for a CronJob


@dataclass(frozen=True)
class Night:
    """A night: what runs, and where. All its paths are absolute.

    Attributes:
        file: The nightly.yaml.
        folder: The folder in which it runs.
        at: When it starts, as HH:MM of 24 hours, by the clock of the machine.
        log: The file that its output is appended to.
        variables: Its environment variables, none of them a secret.
    """

    file: Path
    folder: Path
    at: str
    log: Path
    variables: Mapping[str, str]

    @property
    def command(self) -> list[str]:
        """The command that runs it, with this interpreter, since cron and systemd know no virtual environment."""
        return [check_plain("the path of Python", sys.executable), "-m", "forcetune", "nightly", str(self.file)]

    @property
    def name(self) -> str:
        """The name of its units or of its CronJob; it differs for files with different names."""
        stem = self.file.stem
        if stem == "nightly":
            return NIGHT_NAME
        short = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-")
        if short != stem or len(f"{NIGHT_NAME}-{short}") > NIGHT_NAME_CHARACTERS:
            checksum = f"{crc32(os.fsencode(stem)):08x}"
            # the checksum tells apart names that are shortened to the same text
            short = f"{short[: NIGHT_NAME_CHARACTERS - len(f'{NIGHT_NAME}--{checksum}')]}-{checksum}".lstrip("-")
        return f"{NIGHT_NAME}-{short}"


def plan(file: str | Path, at: str, folder: str | Path | None = None, log: str | Path | None = None) -> Night:
    """Return the night of a nightly.yaml, with the variables of this shell.

    Args:
        file: The nightly.yaml.
        at: When it starts, as HH:MM of 24 hours.
        folder: The folder in which it runs; None for the current one.
        log: The file for its output; None for a file in that folder with the name of `file` (nightly.log).

    Raises:
        InputError: A path does not exist or cannot be written into a crontab or a unit, or a variable holds a secret.
    """
    run_folder = absolute_path(folder or Path.cwd())
    default_log = run_folder / f"{Path(file).stem}.log"
    night = Night(
        absolute_path(file), run_folder, _check_time(at), absolute_path(log or default_log), dict(_night_variables())
    )
    for path in (night.file, night.folder, night.log):
        check_plain("the path", str(path))
    _check_paths(night)
    return night


def next_night(at: str, now: datetime) -> datetime:
    """Return the next moment at which a night starts.

    Args:
        at: When it starts, as HH:MM of 24 hours.
        now: The moment after which it starts.
    """
    hour, minute = map(int, _check_time(at).split(":"))
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def absolute_path(path: str | Path) -> Path:
    """Return a path as an absolute one without `..`. Links stay, since their targets may change."""
    return Path(os.path.abspath(path))


def check_plain(subject: str, text: str) -> str:
    """Return the text. Raises InputError where cron, a shell or systemd could read something else in it."""
    if not text.isprintable() or "\\" in text or text != text.strip():
        raise InputError(
            f"{subject} {text!r} cannot be scheduled, since cron and systemd may read it differently; allowed: text "
            "without line breaks, unprintable characters and backslashes, and without spaces at its start or end"
        )
    return text


def _check_time(at: str) -> str:
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", at):
        raise InputError(f"--at {at!r}: allowed: a time of the day from 00:00 to 23:59, such as 02:00")
    return at


def _check_paths(night: Night) -> None:
    if not night.file.is_file():
        raise InputError(f"{night.file}: there is no such file")
    for folder in (night.folder, night.log.parent):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
    if night.log.is_dir():
        raise InputError(f"--log {night.log}: is a folder; allowed: the path of a file")


def _night_variables() -> Iterator[tuple[str, str]]:
    """Yield the variables of this shell that a night needs too. Raises InputError where one holds a secret."""
    for name, instead in SECRET_VARIABLES.items():
        if os.environ.get(name):
            raise InputError(
                f"{name} is a secret, and others could read it in the crontab or the unit: {instead}, and unset {name}"
            )
    for name in NIGHT_VARIABLES:
        if value := os.environ.get(name):
            if has_password(value):
                raise InputError(
                    f"{name} contains a password, and others could read it in the crontab or the unit; keep the "
                    "password in a file: postgresql://USER@HOST/DATABASE?passfile=FILE, or ~/.mlflow/credentials for "
                    "an MLflow server"
                )
            yield name, check_plain(name, _make_absolute(name, value))


def _make_absolute(name: str, value: str) -> str:
    """Return the value with its paths made absolute, as this shell reads them."""
    if name in STORE_VARIABLES:
        return absolute_uri(value)
    if name == "PYTHONPATH":
        return os.pathsep.join(map(os.path.abspath, value.split(os.pathsep)))
    is_path = name in PATH_VARIABLES and "://" not in value  # a folder for checkpoints may be in an object store
    return os.path.abspath(value) if is_path else value
