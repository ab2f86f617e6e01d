"""What Ray reads from the environment at the moment it is imported."""

import atexit
import os
import secrets
import sys
from pathlib import Path

from forcetune.stores import ray_address
from forcetune.temporary import OwnedFolder, make_ray_folder

_folder: tuple[OwnedFolder, Path] | None = None  # of this process's own Ray


def prepare() -> None:
    """Set what Ray and Tune read; without effect where Ray is imported already.

    Tune's own files about trials would be a third record beside the two stores, and its handling of SIGINT
    would keep the interrupt from the search.
    """
    if "ray" in sys.modules:
        return
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_GLOBAL_CHECKPOINT_S="1000000",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    )
    if not is_shared():
        _keep_to_ourselves()


def is_shared() -> bool:
    """Whether trials run on a cluster, which others may use, and not on a Ray of this process alone."""
    return bool(ray_address())


def ray_folder() -> Path:
    """Return the folder for the files of this process's own Ray; no other account can enter the one above it."""
    return _own_folder()[1]


def _own_folder() -> tuple[OwnedFolder, Path]:
    global _folder
    if _folder is None:
        _folder = make_ray_folder()
        atexit.register(_folder[0].remove)
    return _folder


def _keep_to_ourselves() -> None:
    """A local Ray listens on loopback only and asks for a token, kept in a file that only we can read.

    Left alone, Ray would write ~/.ray/auth_token readable by all, which turns authentication on for every
    later cluster of this user.
    """
    token = _own_folder()[0].path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    )
