"""User code that ends the process: its attempt becomes an error that names the function."""

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
_real_exit = os._exit
_contained_threads: set[tuple[int, int]] = set()  # ids of the process and the thread that run user code
_user_packages: set[str] = set()  # the top-level packages that study files name


class ProcessEndError(InputError):
    """A function of the user's raised an exception that ends a process, or called `os._exit`."""


@contextmanager
def contained(module: str | None = None) -> Iterator[None]:
    """Turn an attempt to end this process into ProcessEndError, as long as the context lasts in this thread.

    An interrupt passes, as does the end of a Ray worker by a signal. Processes that are forked meanwhile can end.

    Args:
        module: A module of the user's. From now on an error names its functions, even where it is installed.

    Raises:
        ProcessEndError: The code raised SystemExit or another exception that is no Exception, or called `os._exit`.
    """
    first_name = (module or "").partition(".")[0]
    if first_name not in ("", "forcetune"):  # forcetune's own functions are no user code, even where a study names one
        _user_packages.add(first_name)
    os._exit = _raise_exit
    thread = os.getpid(), threading.get_ident()
    outer = thread in _contained_threads
    _contained_threads.add(thread)
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if _raised_by_ray(error.__traceback__):
            raise
        function = _find_user_function(error.__traceback__) or "a function of your own"
        kind = "called os._exit" if isinstance(error, _OsExit) else f"raised {type(error).__name__}"
        message = (
            f"{function} {kind}({error}), which ends the process; a function may only return or raise an Exception"
        )
        raise ProcessEndError(message) from error
    finally:
        if not outer:
            _contained_threads.discard(thread)


def is_installed(file: str) -> bool:
    """Return whether a source file belongs to forcetune, to Python or to an installed package."""
    return file.startswith(("<", *_INSTALLED))


class _OsExit(SystemExit):
    """A call of `os._exit`, as an exception that can be caught."""


def _raise_exit(status: int) -> NoReturn:
    if (os.getpid(), threading.get_ident()) in _contained_threads:
        raise _OsExit(status)
    _real_exit(status)


def _find_user_function(trace: TracebackType | None) -> str | None:
    """Return the user's function that is nearest to where an exception was raised, with its line."""
    for frame, line in reversed([*traceback.walk_tb(trace)]):
        module, code = str(frame.f_globals.get("__name__")), frame.f_code
        if module.partition(".")[0] in _user_packages or not is_installed(code.co_filename):
            name = f"{module}:{code.co_qualname}" if code.co_name != "<module>" else f"the module {module}"
            return f"{name} ({Path(code.co_filename).name}, line {line})"
    return None


def _raised_by_ray(trace: TracebackType | None) -> bool:
    frames = [*traceback.walk_tb(trace)]
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__")).partition(".")[0] == "ray"
