"""The search for the folder with the files of a data set."""

from collections.abc import Callable
from pathlib import Path

from forcetune.errors import InputError


def find_folder(
    dataset: str,
    root: str | None,
    subfolder: str,
    find_file: Callable[[Path], Path | None],
    file_description: str,
    default_folders: tuple[str, ...] = (),
    archive: str | None = None,
    remedy: str = "",
) -> Path:
    """Return the folder with the files of a data set.

    Args:
        dataset: The name of the data set, for the message.
        root: The folder to look in, and in its `subfolder`; None for `subfolder` of ./data and `default_folders`.
        subfolder: The path from a root to the files.
        find_file: A function that returns the file by which the data set is recognized in a folder, or None.
        file_description: A description of that file, for the message.
        default_folders: Further folders to look in without a root.
        archive: The archive that holds the files; where it is there alone, the message asks to unpack it.
        remedy: A further remedy, for the message.

    Raises:
        InputError: No folder has the file; the message names the folders.
    """
    folders = [Path(root), Path(root) / subfolder] if root else [Path("data") / subfolder, *map(Path, default_folders)]
    folders = [*dict.fromkeys(folder.absolute() for folder in folders)]
    for folder in folders:
        if find_file(folder):
            return folder
    raise InputError(
        f"data set {dataset!r}: no {file_description} in {' and '.join(map(str, folders))}; "
        f"{_unpack_hint(folders, archive)}set trial.data_root to the folder with its files{remedy}"
    )


def _unpack_hint(folders: list[Path], archive: str | None) -> str:
    archive_paths = (
        folder / archive for data_folder in folders for folder in (data_folder, data_folder.parent) if archive
    )
    archive_path = next((path for path in archive_paths if path.is_file()), None)
    return f"unpack {archive_path}, or " if archive_path else ""
