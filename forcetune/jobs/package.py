"""What a job ships: the study file and the user's own code, in one archive that is the same for the same content."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from forcetune.errors import InputError
from forcetune.jobs.credentials import find_secret, has_password
from forcetune.spec import Study

LIMIT = 100 * 2**20  # bytes that Ray's Jobs API takes
BIG = 5  # files that are named where the archive is too large
LEFT_OUT = {"__pycache__", "node_modules", "mlruns", "build", "dist"}
STORES = (".db", ".db-wal", ".db-shm", ".pyc")
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the time of every file in the archive, so that the same content has the same name


@dataclass(frozen=True)
class Package:
    """An archive on disk.

    Attributes:
        path: The archive.
        files: What it holds, relative to the folder that it was made in.
        size: Its bytes.
        left_out: Files that hold a secret, and why they are taken for such.
    """

    path: Path
    files: list[Path]
    size: int
    left_out: dict[Path, str] = field(default_factory=dict)


def pack(file: Path, study: Study, target: Path, folder: Path | None = None) -> Package:
    """Archive what a study needs of a folder, the current one unless given.

    A file that holds a secret is left out where nobody named it.

    Raises InputError where a path under `code:` is not there or lies elsewhere, where data would be looked for in
    the archive, where it is larger than Ray takes, and where a module or a file that is named holds a secret.
    """
    here = (folder or Path.cwd()).resolve()
    _check_data(study)
    _check_requirements(study)
    named: dict[Path, str | None] = {}
    for path, position in sorted(_code(study, here), key=lambda file: file[0]):
        named[path] = named.get(path) or position
    files = {placed(file, here): file.resolve(), **{path: here / path for path in named}}
    named[placed(file, here)] = "the study file"
    left_out: dict[Path, str] = {}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            content = path.read_bytes()
            if secret := find_secret(name, content):
                _refuse_needed(name, secret, named[name])
                left_out[name] = secret
                continue
            entry = zipfile.ZipInfo(name.as_posix(), WRITTEN)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
        sizes = sorted(((entry.compress_size, entry.filename) for entry in archive.infolist()), reverse=True)
    size = target.stat().st_size
    if size > LIMIT:
        largest = ", ".join(f"{name} ({told(each)})" for each, name in sizes[:BIG])
        raise InputError(
            f"the job's archive has {told(size)}, and Ray takes {told(LIMIT)}; the largest files: {largest}. Name what "
            "is needed under `code:`, and put data where the cluster's machines find it (`data_root`)"
        )
    return Package(target, [name for name in files if name not in left_out], size, left_out)


def placed(file: Path, here: Path) -> Path:
    """Where the study file lies in the archive: as it lies in the folder, or at the top."""
    whole = file.resolve()
    return whole.relative_to(here) if whole.is_relative_to(here) else Path(whole.name)


def told(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _refuse_needed(name: Path, secret: str, position: str | None) -> None:
    """Raise InputError where a job would miss a file that is left out: one that is named, or a module."""
    if position or name.suffix == ".py":
        raise InputError(
            f"{f'{position}: ' if position else ''}{name} {secret}, and all who reach the cluster can read what a job "
            "is given; keep the secret in a file or a variable of the environment of the cluster's machines"
        )


def _check_requirements(study: Study) -> None:
    for i, requirement in enumerate(study.shipped.pip):
        if has_password(requirement):
            raise InputError(
                f"code.pip.{i}: this requirement has a password or a token in it, and all who reach the cluster can "
                "read what a job is given; write ${NAME} in its place, a variable of the cluster's machines"
            )


def _code(study: Study, here: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the files of the user's own, relative to the folder, each with the position at which it is named itself."""
    written = [(f"code.{i}", Path(path)) for i, path in enumerate(study.shipped.paths)]
    if not written and any(_is_here(module, here) for module in study.modules):
        written = [("code", path) for path in _modules(here)]
    masks = study.space["layers_from"].values if "layers_from" in study.space else []
    written += [("trial.layers_from", Path(name)) for name in masks if str(name).endswith(".npz")]
    roots = _roots(study, here)
    for place, path in written:
        whole = (here / path).resolve()
        if not whole.is_relative_to(here):
            raise InputError(f"{place}: {path} lies outside {here}, and only what lies in it can be shipped")
        if not whole.exists():
            raise InputError(f"{place}: there is no {path} in {here}")
        position = place if whole.is_file() and place != "code" else None
        yield from ((file.relative_to(here), position) for file in _files(whole, roots))


def _is_here(module: str, here: Path) -> bool:
    return (here / module).is_dir() or (here / f"{module}.py").is_file()


def _modules(here: Path) -> Iterator[Path]:
    """The modules and packages of a folder."""
    for path in here.iterdir():
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").is_file()):
            yield path.relative_to(here)


def _files(path: Path, roots: Iterable[Path]) -> Iterator[Path]:
    """The file itself, or those of the folder that may be code: no hidden ones, environments, stores or data."""
    if path.is_file():
        if not path.name.endswith(STORES):
            yield path
    elif not (path.name in LEFT_OUT or (path / "pyvenv.cfg").exists() or path in roots):
        for below in sorted(path.iterdir()):
            if not below.name.startswith(".") and not below.is_symlink():
                yield from _files(below, roots)


def _roots(study: Study, here: Path) -> list[Path]:
    """Folders of data: those that the study names, and the one in which data is looked for unless it names one."""
    named = study.space["data_root"].values if "data_root" in study.space else []
    data = [] if (here / "data" / "__init__.py").exists() else [here / "data"]
    return [*(Path(root).resolve() for root in named), *data]


def _check_data(study: Study) -> None:
    for root in study.space["data_root"].values if "data_root" in study.space else []:
        if not Path(root).is_absolute():
            raise InputError(
                f"trial.data_root: {root} is looked for from the current folder, which a job's machines do not have; "
                "allowed in a job: the absolute path of a folder that all of them have"
            )
