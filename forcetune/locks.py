"""Locks on files: the kernel releases one when its process ends, and the holder can remove the file without a race.

The package filelock leaves the file, and a try without waiting fails where the holder has just removed the file.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RECREATE_TRIES, RECREATE_PAUSE_S = 200, 0.001  # for a file and its folder, which a holder may remove at any time


def lock_file(path: Path, wait: bool, make_folder: Callable[[], object], mode: int = 0o644) -> int | None:
    """Lock a file, which is made where it does not exist.

    The holder may remove the file, and its folder, before it closes the descriptor.

    Args:
        path: The path of the file.
        wait: Whether the call waits while another process has the lock.
        make_folder: Makes the folder of the file where it does not exist.
        mode: The mode of a new file.

    Returns:
        The descriptor that has the lock until it is closed; None where another process has the lock.

    Raises:
        OSError: The file or its folder cannot be made.
    """
    while True:
        descriptor = _open(path, make_folder, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)  # its holder has just removed the file, so that a lock on it excludes nobody


def _open(path: Path, make_folder: Callable[[], object], mode: int) -> int:
    """Open a file whose holder may remove it and its folder between two steps: both are made again then."""
    for _ in range(RECREATE_TRIES):
        try:
            make_folder()
            return os.open(path, os.O_RDWR | os.O_CREAT, mode)
        except (FileExistsError, FileNotFoundError):
            time.sleep(RECREATE_PAUSE_S)
    make_folder()
    return os.open(path, os.O_RDWR | os.O_CREAT, mode)


@contextmanager
def machine_lock(path: Path) -> Iterator[None]:
    """Hold a lock that all accounts of this machine share; wait while another process has it.

    The file stays. It is opened for reading where it exists, since it may belong to another account.

    Args:
        path: The path of the file.

    Raises:
        OSError: The file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
