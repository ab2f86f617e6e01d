"""Code of the user's own that ends the process: turned into an error that names the function."""

import os
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from forcetune.errors import InputError

_PACKAGE = str(Path(__file__).parent)
_INSTALLED = tuple({_PACKAGE, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))})
_exit = os._exit
_contained: set[tuple[int, int]] = set()  # process and thread that run code of the user's own
_modules: set[str] = set()  # that a study file names, by their first names


class ProcessEndError(InputError):
    """A function of the user's own raised what ends a process, or called `os._exit`."""


@contextmanager
def contained(module: str | None = None) -> Iterator[None]:
    """Turn what would end this process into ProcessEndError, as long as the context lasts in this thread.

    A worker of Ray's that ends by a signal is left alone, and so are an interrupt and processes forked meanwhile.

    Args:
        module: A module of the user's own, whose functions are named from now on, wherever it is installed.

    Raises:
        ProcessEndError: SystemExit or another exception that no handler of errors sees, or `os._exit`.
    """
    first_name = (module or "").partition(".")[0]
    if first_name not in ("", "forcetune"):  # a study may name a function of forcetune's; this module is none of them
        _modules.add(first_name)
    os._exit = _raise_exit
    thread = os.getpid(), threading.get_ident()
    outer = thread in _contained
    _contained.add(thread)
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if _raised_by_ray(error.__traceback__):
            raise
        function = _function(error.__traceback__) or "a function of your own"
        kind = "called os._exit" if isinstance(error, _OsExit) else f"raised {type(error).__name__}"
        message = f"{function} {kind}({error}), which ends the process; allowed: to return, or to raise an Exception"
        raise ProcessEndError(message) from error
    finally:
        if not outer:
            _contained.discard(thread)


def is_installed(file: str) -> bool:
    """Return whether a source file belongs to forcetune, to Python or to an installed package."""
    return file.startswith(("<", *_INSTALLED))


class _OsExit(SystemExit):
    """`os._exit`, as an exception that can be caught."""


def _raise_exit(status: int) -> NoReturn:
    if (os.getpid(), threading.get_ident()) in _contained:
        raise _OsExit(status)
    _exit(status)


def _function(trace: TracebackType | None) -> str | None:
    """Return the user's function that is nearest to where an exception was raised, with its line."""
    for frame, line in reversed([*traceback.walk_tb(trace)]):
        module, code = str(frame.f_globals.get("__name__")), frame.f_code
        if module.partition(".")[0] in _modules or not is_installed(code.co_filename):
            name = f"{module}:{code.co_qualname}" if code.co_name != "<module>" else f"the module {module}"
            return f"{name} ({Path(code.co_filename).name}, line {line})"
    return None


def _raised_by_ray(trace: TracebackType | None) -> bool:
    frames = [*traceback.walk_tb(trace)]
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__")).partition(".")[0] == "ray"
