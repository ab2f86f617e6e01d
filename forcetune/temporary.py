"""Temporary folders that one account alone can enter; a later start removes those whose owner is dead."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from forcetune.errors import InputError

LOCK_FILE = "owner.lock"  # the owner holds its lock as long as it lives; filelock could not pass the lock on
FOLDER_NAME = re.compile(r"forcetune-(ray|tune|job|companions|schema)-\w{8}")
ABANDONED_AGE_S = 24 * 3600.0  # from which a folder without a lock, as earlier versions made it, may be removed
# A socket's address has at most 107 bytes. The longest that Ray makes in its folder is
# /session_2026-11-27_17-33-11_123456_4194304/sockets/dash_TaskEventsHead
RAY_FOLDER_LIMIT_BYTES = 107 - 71
RAY_SUBFOLDER = "r"
# Ray's dashboard uses sockets of Python's multiprocessing, which lie in TMPDIR
TMPDIR_LIMIT_BYTES = 107 - len("/pymp-12345678/listener-12345678")


class OwnedFolder:
    """A new folder of mode 0700 that belongs to this process, or to the one that inherits `lock`.

    Attributes:
        path: The folder. A program that makes folders which all accounts may write to, as Ray does, makes them in it.
        lock: The descriptor of a file whose lock says that the owner lives.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all its content."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Leave the folder to the process that has inherited the lock."""
        with suppress(OSError):
            os.close(self.lock)


def make_folder(kind: str) -> OwnedFolder:
    """Make a temporary folder, and remove the abandoned ones.

    Args:
        kind: One of the kinds that FOLDER_NAME lists.
    """
    clear_abandoned()
    return _make_owned(kind, Path(tempfile.gettempdir()))


def is_too_long(folder: str) -> bool:
    """Return whether a TMPDIR leaves no room for the addresses of sockets in it."""
    return len(os.fsencode(folder)) > TMPDIR_LIMIT_BYTES


def make_ray_folder() -> tuple[OwnedFolder, Path]:
    """Make the folder for a Ray of this process, and return it with the path below it that Ray may use.

    Ray lets all accounts write to its folders, and an account that replaces the code of a job there runs code as the
    owner of the cluster. The folder above it is open to this account alone. Its path is short, whatever TMPDIR is.

    Raises:
        InputError: No folder with a short enough path can be made.
    """
    clear_abandoned()
    tried = []
    for root in _roots():
        if len(os.fsencode(root / "forcetune-ray-12345678" / RAY_SUBFOLDER)) > RAY_FOLDER_LIMIT_BYTES:
            tried.append(f"{root} (its path is too long for Ray's sockets)")
            continue
        try:
            folder = _make_owned("ray", root)
        except OSError as error:
            tried.append(f"{root} ({error.strerror})")
            continue
        return folder, folder.path / RAY_SUBFOLDER
    raise InputError(
        f"Ray needs a folder for temporary files and cannot use any of {', '.join(tried)}. Set RAY_TMPDIR to a folder "
        "with a short path that you may write to"
    )


def clear_abandoned() -> None:
    """Remove the temporary folders of this account whose owner is dead."""
    for path in _folders():
        try:
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            if not _may_be_used(path):
                shutil.rmtree(path, ignore_errors=True)
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # on a shared disk a lock may hold for one machine only, so only the owner's machine removes its folder
            if os.pread(lock, 256, 0).decode() in ("", socket.gethostname()):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # the owner lives
            continue
        finally:
            os.close(lock)


def _make_owned(kind: str, root: Path) -> OwnedFolder:
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"forcetune-{kind}-", dir=root))
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(path / LOCK_FILE)
        except (BlockingIOError, FileNotFoundError):  # another process removed the folder before it was locked
            os.close(lock)
            continue
        os.write(lock, socket.gethostname().encode())
        return OwnedFolder(path, lock)


def _roots() -> list[Path]:
    """Return the folders that may hold the temporary ones, the best first."""
    candidates = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp"]
    return list(dict.fromkeys(Path(name) for name in candidates if name))


def _folders() -> Iterator[Path]:
    for root in _roots():
        try:
            entries = list(os.scandir(root))
        except OSError:
            continue
        for entry in entries:
            if FOLDER_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                        yield Path(entry.path)


def _may_be_used(path: Path) -> bool:
    """Return whether a folder without a lock is young, or a process of this account refers to it."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime < ABANDONED_AGE_S:
            return True
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid():
                words = [*process.cmdline(), *process.environ().values()]
                if any(str(path) in word for word in words):
                    return True
    return False
