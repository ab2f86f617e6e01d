"""The search for the folder with the files of a data set."""

from pathlib import Path

from forcetune.errors import InputError


def find_folder(
    dataset: str,
    root: str | None,
    subfolder: str,
    markers: tuple[str, ...],
    description: str = "",
    default_folders: tuple[str, ...] = (),
    archive: str = "",
    remedy: str = "",
) -> Path:
    """Return the folder with the files of a data set.

    Args:
        dataset: The name of the data set, for the message.
        root: The folder to look in, and in its `subfolder`; None for `subfolder` of ./data and `default_folders`.
        subfolder: The path from a root to the files.
        markers: The files by which the data set is recognized in a folder, of which one is enough; a name that ends
            with a slash is that of a folder.
        description: A description of the markers, for the message; by default their names.
        default_folders: Further folders to look in without a root.
        archive: The archive that holds the files; where it is there alone, the message asks to unpack it.
        remedy: A further remedy, for the message.

    Raises:
        InputError: No folder has a marker; the message names the folders.
    """
    folders = [Path(root), Path(root) / subfolder] if root else [Path("data") / subfolder, *map(Path, default_folders)]
    folders = [*dict.fromkeys(folder.absolute() for folder in folders)]
    for folder in folders:
        if any((folder / name).is_dir() if name.endswith("/") else (folder / name).is_file() for name in markers):
            return folder
    archives = [path / archive for folder in folders for path in (folder, folder.parent) if archive]
    archive_path = next((path for path in archives if path.is_file()), None)
    unpack_hint = f"unpack {archive_path}, or " if archive_path else ""
    raise InputError(
        f"data set {dataset!r}: no {description or ' or '.join(markers)} in {' and '.join(map(str, folders))}; "
        f"{unpack_hint}set trial.data_root to the folder with its files{remedy}"
    )
