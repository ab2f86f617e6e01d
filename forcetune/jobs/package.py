"""What a job ships: the study file and the user's own code, in one archive that is the same for the same content."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from forcetune.errors import InputError
from forcetune.spec import Study

LIMIT = 100 * 2**20  # bytes that Ray's Jobs API takes
BIG = 5  # files that are named where the archive is too large
LEFT_OUT = {"__pycache__", "node_modules", "mlruns", "build", "dist"}
STORES = (".db", ".db-wal", ".db-shm", ".pyc")
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the time of every file in the archive, so that the same content has the same name


@dataclass(frozen=True)
class Package:
    """An archive on disk; files: what it holds, relative to the folder that it was made in; size: its bytes."""

    path: Path
    files: list[Path]
    size: int


def pack(file: Path, study: Study, target: Path, folder: Path | None = None) -> Package:
    """Archive what a study needs of a folder, the current one unless given.

    Raises InputError where a path under `code:` is not there or lies elsewhere, where data would be looked for in
    the archive, and where it is larger than Ray takes.
    """
    here = (folder or Path.cwd()).resolve()
    _check_data(study)
    files = {placed(file, here): file.resolve()}
    files |= {path: here / path for path in sorted(_code(study, here))}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            entry = zipfile.ZipInfo(name.as_posix(), WRITTEN)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
        sizes = sorted(((entry.compress_size, entry.filename) for entry in archive.infolist()), reverse=True)
    size = target.stat().st_size
    if size > LIMIT:
        largest = ", ".join(f"{name} ({told(each)})" for each, name in sizes[:BIG])
        raise InputError(
            f"the job's archive has {told(size)}, and Ray takes {told(LIMIT)}; the largest files: {largest}. Name what "
            "is needed under `code:`, and put data where the cluster's machines find it (`data_root`)"
        )
    return Package(target, list(files), size)


def placed(file: Path, here: Path) -> Path:
    """Where the study file lies in the archive: as it lies in the folder, or at the top."""
    whole = file.resolve()
    return whole.relative_to(here) if whole.is_relative_to(here) else Path(whole.name)


def told(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _code(study: Study, here: Path) -> Iterator[Path]:
    """The files of the user's own, relative to the folder."""
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
        yield from (found.relative_to(here) for found in _files(whole, roots))


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
