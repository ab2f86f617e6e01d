"""The environment variables that Ray reads when it is imported."""

import atexit
import os
import secrets
import sys
from pathlib import Path

from forcetune.stores import ray_address
from forcetune.temporary import OwnedFolder, make_ray_folder

_folder: tuple[OwnedFolder, Path] | None = None  # of this process's Ray


def prepare() -> None:
    """Set the variables that Ray and Tune read; do nothing where Ray is imported already.

    Tune's own files about trials would be a third record beside the two stores, so they are turned off. Tune's handling
    of SIGINT is turned off too, since it would keep the interrupt from the search.
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
        _require_token()


def is_shared() -> bool:
    """Return whether trials run on a cluster, which others may use, and not on a Ray that only this process uses."""
    return bool(ray_address())


def get_ray_folder() -> Path:
    """Return the folder for the files of this process's Ray; no other account can enter the folder above it."""
    return _get_folder()[1]


def _get_folder() -> tuple[OwnedFolder, Path]:
    global _folder
    if _folder is None:
        _folder = make_ray_folder()
        atexit.register(_folder[0].remove)
    return _folder


def _require_token() -> None:
    """Let a local Ray listen on loopback only and ask for a token, kept in a file that only this account can read.

    By itself Ray would write ~/.ray/auth_token for all to read, and that file turns authentication on for every later
    cluster of this user.
    """
    token = _get_folder()[0].path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    )
