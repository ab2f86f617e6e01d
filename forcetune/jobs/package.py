"""The package of a job: the study file and the user's code, in one archive that is the same for the same content."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from forcetune.errors import InputError
from forcetune.jobs.credentials import find_secret, has_password
from forcetune.names import RUN_ID_PATTERN
from forcetune.study import Study

MAX_ARCHIVE_BYTES = 100 * 2**20  # of an archive that Ray's Jobs API takes
SHOWN_LARGEST_FILES = 5  # in the message where the archive is too large
EXCLUDED_FOLDERS = {"__pycache__", "node_modules", "mlruns", "build", "dist"}
EXCLUDED_SUFFIXES = (".db", ".db-wal", ".db-shm", ".pyc")
ARCHIVED_TIME = (1980, 1, 1, 0, 0, 0)  # of every file: Ray names an archive by its content


@dataclass(frozen=True)
class Package:
    """An archive on disk.

    Attributes:
        path: The path of the archive.
        files: The files in it, relative to the folder that was archived.
        size: Its size in bytes.
        left_out: The files that are left out because they hold a secret, each with that secret in words.
    """

    path: Path
    files: list[Path]
    size: int
    left_out: dict[Path, str] = field(default_factory=dict)


def pack(file: Path, study: Study, target: Path) -> Package:
    """Archive the study file and the code in the current folder that a study needs.

    A file that holds a secret is left out, unless the study file names it or it is a module.

    Args:
        file: The study file.
        study: The study.
        target: The path of the archive.

    Returns:
        The archive, with its files and those that are left out.

    Raises:
        InputError: A path under `code:` does not exist or lies outside the folder; data would be looked for in the
            archive; a file of the folder has the name of a study file that lies elsewhere; the archive is larger than
            Ray takes; or a module, or a file that the study file names, holds a secret.
    """
    root = Path.cwd().resolve()
    _check_data(study)
    _check_requirements(study)
    positions: dict[Path, str | None] = {}
    for path, position in sorted(_list_code(study, root), key=lambda file: file[0]):
        positions[path] = positions.get(path) or position
    archived_name = locate_in_archive(file, root)
    if archived_name in positions and (root / archived_name).resolve() != file.resolve():
        raise InputError(f"{root / archived_name} would take the place of {file} in the job; rename one of them")
    files = {archived_name: file.resolve(), **{path: root / path for path in positions if path != archived_name}}
    positions[archived_name] = "the study file"
    left_out: dict[Path, str] = {}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            content = path.read_bytes()
            if secret := find_secret(name, content):
                _refuse_needed(name, secret, positions[name])
                left_out[name] = secret
                continue
            entry = zipfile.ZipInfo(name.as_posix(), ARCHIVED_TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
        sizes = sorted(((entry.compress_size, entry.filename) for entry in archive.infolist()), reverse=True)
    size = target.stat().st_size
    if size > MAX_ARCHIVE_BYTES:
        largest = ", ".join(f"{name} ({format_size(file_size)})" for file_size, name in sizes[:SHOWN_LARGEST_FILES])
        raise InputError(
            f"the job's archive has {format_size(size)}, and Ray takes at most "
            f"{format_size(MAX_ARCHIVE_BYTES)}; the largest files: {largest}. List only the needed files under "
            "`code:`, and put data in a folder that the cluster's machines have (`data_root`)"
        )
    return Package(target, [name for name in files if name not in left_out], size, left_out)


def locate_in_archive(file: Path, root: Path) -> Path:
    """Return the path of the study file in the archive: as in the folder, or at the top where it lies elsewhere.

    Args:
        file: The study file.
        root: The folder with the code, resolved.
    """
    absolute = file.resolve()
    return absolute.relative_to(root) if absolute.is_relative_to(root) else Path(absolute.name)


def format_size(size: int) -> str:
    """Return a number of bytes in MiB or KiB, as text."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _refuse_needed(name: Path, secret: str, position: str | None) -> None:
    """Raise InputError where a job needs a file with a secret: the file is named in the study file, or is a module."""
    if position or name.suffix == ".py":
        raise InputError(
            f"{f'{position}: ' if position else ''}{name} {secret}, and every user of the cluster can read a job's "
            "files; keep the secret in a file or an environment variable of the cluster's machines"
        )


def _check_requirements(study: Study) -> None:
    for i, requirement in enumerate(study.shipped_code.pip):
        if has_password(requirement):
            raise InputError(
                f"code.pip.{i}: this requirement has a password or a token in it, and every user of the cluster can "
                "read it; write ${NAME} instead, where NAME is an environment variable of the cluster's machines"
            )


def _list_code(study: Study, root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the user's files, relative to the folder, each with its position in the study file where it is named."""
    entries = [(f"code.{i}", Path(path)) for i, path in enumerate(study.shipped_code.paths)]
    if not entries and any(_is_in_folder(module, root) for module in study.modules):
        entries = [("code", path) for path in _list_modules(root)]
    masks = study.space["layers_from"].values if "layers_from" in study.space else []
    entries += [("trial.layers_from", Path(name)) for name in masks if name and not RUN_ID_PATTERN.fullmatch(name)]
    data_roots = _find_data_roots(study, root)
    for field_path, path in entries:
        absolute = (root / path).resolve()
        if not absolute.is_relative_to(root):
            raise InputError(f"{field_path}: {path} is outside {root}; only files in that folder can be sent")
        if not absolute.exists():
            raise InputError(f"{field_path}: there is no {path} in {root}")
        position = field_path if absolute.is_file() and field_path != "code" else None
        yield from ((file.relative_to(root), position) for file in _list_files(absolute, data_roots))


def _is_in_folder(module: str, folder: Path) -> bool:
    return (folder / module).is_dir() or (folder / f"{module}.py").is_file()


def _list_modules(folder: Path) -> Iterator[Path]:
    """Yield the modules and packages of a folder, relative to it."""
    for path in folder.iterdir():
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").is_file()):
            yield path.relative_to(folder)


def _list_files(path: Path, data_roots: Iterable[Path]) -> Iterator[Path]:
    """Yield a file, or the files of a folder that may be code: no hidden files, environments, stores or data."""
    if path.is_file():
        if not path.name.endswith(EXCLUDED_SUFFIXES):
            yield path
    elif not (path.name in EXCLUDED_FOLDERS or (path / "pyvenv.cfg").exists() or path in data_roots):
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".") and not child.is_symlink():
                yield from _list_files(child, data_roots)


def _find_data_roots(study: Study, folder: Path) -> list[Path]:
    """Return the folders of data: those that the study names, and `data` in this folder, unless that is a package."""
    named_roots = study.space["data_root"].values if "data_root" in study.space else []
    default_roots = [] if (folder / "data" / "__init__.py").exists() else [folder / "data"]
    return [*(Path(root).resolve() for root in named_roots), *default_roots]


def _check_data(study: Study) -> None:
    for root in study.space["data_root"].values if "data_root" in study.space else []:
        if not Path(root).is_absolute():
            raise InputError(
                f"trial.data_root: {root} is relative to the current folder, which the job's machines do not have; "
                "allowed in a job: the absolute path of a folder that all of them have"
            )
