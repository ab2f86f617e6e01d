"""The files of running trials, on a disk or in an object store.

A folder in an object store is a `UPath` of universal_pathlib, which has pathlib's interface over fsspec's file systems.
An object store has neither folders nor renames. A folder is there while an object lies below it, so `make_folder`
writes an empty one. A file is there once its upload has ended, and not before, so it needs no second name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import unquote, urlsplit

from forcetune.errors import InputError

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hdfs": "pyarrow"}  # of fsspec, by the scheme of an address
TEMPORARY_SUFFIX = "~"  # of a file that is being written, and of the object that stands for an empty folder
FOLDER_OBJECT = f"folder{TEMPORARY_SUFFIX}"
PROBE_FILE = f"probe{TEMPORARY_SUFFIX}"
# botocore counts the first try too, and waits up to 20 s before a later one
S3_OPTIONS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"mode": "standard", "max_attempts": 6}}

Parameters = ParamSpec("Parameters")
ResultT = TypeVar("ResultT")


def _raises_os_error(function: Callable[Parameters, ResultT]) -> Callable[Parameters, ResultT]:
    """Let a function raise OSError where an object store fails; the libraries for these have errors of their own."""

    @wraps(function)
    def call(*args: Parameters.args, **options: Parameters.kwargs) -> ResultT:
        try:
            return function(*args, **options)
        except (OSError, InputError):
            raise
        except Exception as error:
            if not any(map(is_remote, args)):
                raise
            raise OSError(f"{args[0]}: {type(error).__name__}: {error}") from error

    return call


def open_folder(address: str | Path) -> Path:
    """Return the folder at an address, which need not exist.

    Args:
        address: A path, or an address such as `s3://BUCKET/PREFIX`, `gs://`, `az://`, `hdfs://` or `file://`.

    Returns:
        An absolute path of pathlib, or a `UPath`, which is used as one.

    Raises:
        InputError: The scheme is another one, or the package for it is missing.
    """
    scheme, separator, location = str(address).partition("://")
    if not separator:
        return Path(address).absolute()
    if scheme == "file":
        return Path(unquote(urlsplit(str(address)).path)).absolute()
    if scheme not in PACKAGES:
        allowed = ", ".join(f"{name}://" for name in [*PACKAGES, "file"])
        raise InputError(
            f"FORCETUNE_STATE={address}: there is no file system for {scheme}://; allowed: a path, or an address that "
            f"begins with {allowed}"
        )
    login, has_login, _ = location.partition("/")[0].rpartition("@")
    if has_login and ":" in login:
        raise InputError(
            f"FORCETUNE_STATE: the {scheme}:// address has a password in it, which all who reach the cluster could "
            "read; allowed: an address without it, with the credentials in the environment of each machine"
        )
    try:
        from upath import UPath

        # another process may have changed what a listing of this process has
        options: dict[str, Any] = {"config_kwargs": S3_OPTIONS, "use_listings_cache": False} if scheme == "s3" else {}
        folder = UPath(str(address).rstrip("/"), **options)
        folder.fs  # noqa: B018 - it imports the package
    except ImportError as error:
        raise InputError(
            f"FORCETUNE_STATE={address} needs `pip install universal-pathlib {PACKAGES[scheme]}` on each machine "
            f"(for S3: forcetune[s3]): {error}"
        ) from error
    return cast(Path, folder)


def is_remote(path: object) -> bool:
    """Return whether a path is one in an object store."""
    return hasattr(path, "fs") and not isinstance(path, Path)


def check_writable(folder: Path) -> None:
    """Write, read and delete a small file below a remote folder, so that a study is refused before it starts.

    Raises:
        InputError: The object store does not answer or refuses one of the three.
    """
    if not is_remote(folder):
        return
    try:
        write_whole(folder / PROBE_FILE, b"forcetune")
        if read_file(folder / PROBE_FILE) != b"forcetune":
            raise OSError("a file has other content than was written")
        remove_file(folder / PROBE_FILE)
    except OSError as error:
        raise InputError(
            f"FORCETUNE_STATE={folder}: forcetune cannot write, read and delete a file there: {error}. Allowed: a "
            "bucket that exists, with credentials in the environment of each machine (for S3 AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or a role, and AWS_ENDPOINT_URL where it is not Amazon's)"
        ) from error


@_raises_os_error
def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    if is_remote(folder):
        (folder / FOLDER_OBJECT).write_bytes(b"")
    else:
        folder.mkdir(parents=True, exist_ok=True)


@_raises_os_error
def has_folder(folder: Path) -> bool:
    """Return whether a folder exists."""
    return folder.is_dir()


@_raises_os_error
def list_folder(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, without those that are being written; none where it does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in folder.iterdir() if not path.name.endswith(TEMPORARY_SUFFIX)]
    return []


def remove_folder(folder: Path, strict: bool = False) -> None:
    """Remove a folder with all its content.

    Args:
        folder: The folder.
        strict: Whether to raise OSError where something cannot be removed, instead of leaving it.
    """
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=not strict)
        return
    with suppress(*(() if strict else (OSError,))):
        _remove_remote_folder(folder)


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder that has nothing in it; one that has something, or that cannot be removed, stays."""
    with suppress(OSError):
        if not is_remote(folder):
            folder.rmdir()
        elif not list_folder(folder):  # of what another driver makes there meanwhile nothing may be removed
            remove_file(folder / FOLDER_OBJECT)


@_raises_os_error
def _remove_remote_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        cast(Any, folder).fs.rm(cast(Any, folder).path, recursive=True)


@_raises_os_error
def copy_folder(source: Path, target: Path) -> None:
    """Copy all files of a folder into another one, which is made where it does not exist."""
    if not (is_remote(source) or is_remote(target)):
        shutil.copytree(source, target, dirs_exist_ok=True)
        return
    make_folder(target)
    for path in list_folder(source):
        if path.is_dir():
            copy_folder(path, target / path.name)
        else:
            write_whole(target / path.name, read_file(path))


@_raises_os_error
def remove_file(path: Path) -> None:
    """Remove a file where it exists."""
    with suppress(FileNotFoundError):
        path.unlink()


@_raises_os_error
def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: There is no such file.
    """
    content: bytes = cast(Any, path).fs.cat_file(cast(Any, path).path) if is_remote(path) else path.read_bytes()
    return content


@contextmanager
def on_disk(path: Path) -> Iterator[Path]:
    """Yield the path of a file on this machine's disk: the file itself, or a copy that is removed at the end."""
    if not is_remote(path):
        yield path
        return
    with TemporaryDirectory(prefix="forcetune-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(read_file(path))
        yield copy


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there with all of its content, or not at all."""
    staged = StagedFile(path, content)
    staged.commit()


class StagedFile:
    """Content that becomes a file in one step, once `commit` is called.

    On a disk it is written under a name that ends in TEMPORARY_SUFFIX, and renamed. In an object store the one step is
    the upload.

    Args:
        path: The file.
        content: Its content.
        synced: Whether a disk has to hold the content before the file gets its name, so that it survives a power cut.
    """

    def __init__(self, path: Path, content: bytes | memoryview, synced: bool = False) -> None:
        self._path = path
        self._content = content
        if not is_remote(path):
            with open(self._temporary, "wb") as file:
                file.write(content)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())

    def commit(self) -> None:
        """Let the content be the file."""
        if is_remote(self._path):
            _upload(self._path, self._content)
        else:
            self._temporary.replace(self._path)

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f"{self._path.name}{TEMPORARY_SUFFIX}")


@_raises_os_error
def _upload(path: Path, content: bytes | memoryview) -> None:
    file_system, target = cast(Any, path).fs, cast(Any, path).path
    if cast(Any, path).protocol == "hdfs":  # it shows a file while it is written, and has renames
        file_system.pipe_file(f"{target}{TEMPORARY_SUFFIX}", bytes(content))
        file_system.mv(f"{target}{TEMPORARY_SUFFIX}", target)
    else:
        file_system.pipe_file(target, bytes(content))
