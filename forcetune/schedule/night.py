"""What is run at night, where, when, and with which variables of the shell in which it was scheduled."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zlib import crc32

from forcetune.errors import InputError
from forcetune.stores import absolute, has_password

ADDRESSES = ("MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE")
FILES = (
    *("FORCETUNE_STATE", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "PGPASSFILE"),
    *("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
)
AS_THEY_ARE = (
    *("RAY_ADDRESS", "RAY_AUTH_MODE", "CUDA_VISIBLE_DEVICES"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_INSECURE_TLS"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
CARRIED = (*ADDRESSES, *FILES, "PYTHONPATH", *AS_THEY_ARE)
SECRETS = {  # what is done instead of writing them where others can read them
    "RAY_AUTH_TOKEN": "name the file that holds it with RAY_AUTH_TOKEN_PATH",
    "MLFLOW_TRACKING_PASSWORD": "put it into ~/.mlflow/credentials",
    "MLFLOW_TRACKING_TOKEN": "put a user's name and password into ~/.mlflow/credentials",
    "PGPASSWORD": "put it into ~/.pgpass",
}
NAME = "forcetune-nightly"
NAME_LENGTH = 52  # characters that Kubernetes allows a CronJob


@dataclass(frozen=True)
class Night:
    """What is run, and where.

    file: the nightly.yaml; folder: where it runs; at: HH:MM of 24 hours, by the clock of the machine; log: what it
    prints is appended to it; variables: of the environment, none of them a secret. All paths are absolute.
    """

    file: Path
    folder: Path
    at: str
    log: Path
    variables: Mapping[str, str]

    @property
    def command(self) -> list[str]:
        """With this interpreter, since cron and systemd know no virtual environment."""
        return [plain("the path of Python", sys.executable), "-m", "forcetune", "nightly", str(self.file)]

    @property
    def name(self) -> str:
        """Of its units or its CronJob: another one for a file of another name."""
        stem = self.file.stem
        if stem == "nightly":
            return NAME
        short = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-")
        if short != stem or len(f"{NAME}-{short}") > NAME_LENGTH:
            own = f"{crc32(os.fsencode(stem)):08x}"
            short = f"{short[: NAME_LENGTH - len(f'{NAME}--{own}')]}-{own}".lstrip("-")  # what was left out tells apart
        return f"{NAME}-{short}"


def plan(file: str | Path, at: str, folder: str | Path | None = None, log: str | Path | None = None) -> Night:
    """The night of a nightly.yaml, with what this shell's variables say.

    at: HH:MM of 24 hours; folder: where it runs, the current one unless given; log: unless given, in that folder with
    the name of the file (nightly.log).
    Raises InputError where one of them is not there or cannot be written in a crontab or a unit, and where a variable
    holds a secret.
    """
    here = absolute_path(folder or Path.cwd())
    own = here / f"{Path(file).stem}.log"
    night = Night(absolute_path(file), here, _time(at), absolute_path(log or own), dict(_variables()))
    for path in (night.file, night.folder, night.log):
        plain("the path", str(path))
    _check_there(night)
    return night


def next_night(at: str, now: datetime) -> datetime:
    """The next moment after `now` at which it is HH:MM."""
    hour, minute = map(int, _time(at).split(":"))
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def absolute_path(path: str | Path) -> Path:
    """Absolute and without `..`; links stay, since what they point to may change."""
    return Path(os.path.abspath(path))


def plain(what: str, text: str) -> str:
    """The text, where no cron, shell or systemd can read something else in it; raises InputError otherwise."""
    if not text.isprintable() or "\\" in text or text != text.strip():
        raise InputError(
            f"{what} {text!r} cannot be scheduled, since cron and systemd may read something else in it; allowed: text "
            "without line breaks, characters that are not printed, backslashes, and spaces at its ends"
        )
    return text


def _time(at: str) -> str:
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", at):
        raise InputError(f"--at {at!r}: allowed: a time of the day from 00:00 to 23:59, as 02:00")
    return at


def _check_there(night: Night) -> None:
    if not night.file.is_file():
        raise InputError(f"{night.file}: there is no such file")
    for folder in (night.folder, night.log.parent):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
    if night.log.is_dir():
        raise InputError(f"--log {night.log}: is a folder; allowed: the path of a file")


def _variables() -> Iterator[tuple[str, str]]:
    """Those that the night needs too."""
    for name, instead in SECRETS.items():
        if os.environ.get(name):
            raise InputError(f"{name} is a secret, and others could read it where it is scheduled: {instead}; unset it")
    for name in CARRIED:
        if value := os.environ.get(name):
            if has_password(value):
                raise InputError(
                    f"{name} has a password in it, and others could read it where it is scheduled; keep it in a file: "
                    "postgresql://USER@HOST/DATABASE?passfile=FILE, or ~/.mlflow/credentials for a server of MLflow"
                )
            yield name, plain(name, _from_here(name, value))


def _from_here(name: str, value: str) -> str:
    """The value with paths taken from the current folder, as this shell takes them."""
    if name in ADDRESSES:
        return absolute(value)
    if name == "PYTHONPATH":
        return os.pathsep.join(map(os.path.abspath, value.split(os.pathsep)))
    return os.path.abspath(value) if name in FILES else value
