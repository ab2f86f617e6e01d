"""The target folder of an export: files appear there under their names when all of them are complete, or not at all."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forcetune.errors import InputError

UNFINISHED_PREFIX = ".forcetune-export-"  # of the folder in which files are written


@contextmanager
def writing_to(out: Path) -> Iterator[Path]:
    """Make a folder for unfinished files inside the target folder; at the end of the block its files move up.

    Where the block raises, nothing is left: neither the files nor a target folder that did not exist before.

    Args:
        out: The target folder, which is made where it does not exist.

    Yields:
        The folder for unfinished files.

    Raises:
        InputError: The folder cannot be written to, or its disk is full.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    unfinished: Path | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=out))
        yield unfinished
        files = sorted(unfinished.iterdir())
        if taken := next((out / path.name for path in files if (out / path.name).is_dir()), None):
            raise IsADirectoryError(errno.EISDIR, f"{taken} is a folder")
        for path in files:
            path.replace(out / path.name)
    except Exception as error:
        _remove(unfinished, missing)
        if isinstance(error, OSError) or "No space left" in str(error):  # ONNX Runtime raises errors of its own
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"--out {out}: the files cannot be written: {reason}; nothing is left there") from error
        raise
    except BaseException:  # Ctrl-C
        _remove(unfinished, missing)
        raise
    shutil.rmtree(unfinished, ignore_errors=True)


def _remove(unfinished: Path | None, missing: list[Path]) -> None:
    """Remove the unfinished files, and the folders that did not exist before, the innermost first."""
    if unfinished:
        shutil.rmtree(unfinished, ignore_errors=True)
    for folder in missing:
        try:
            folder.rmdir()
        except OSError:  # it was not made, or another program has put a file in it
            return
