"""Names in a study file: a row of a table, or `package.module:function` of the user's own code."""

import difflib
import importlib
import posixpath
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from forcetune.containment import ProcessEndError, contained
from forcetune.errors import InputError

METRIC_NAME_LENGTH = 246  # characters; MLflow takes 250, and metrics of the validation images begin with val_
COMPANION = ".companion"  # after a study's name: the study of its re-runs


def resolve(name: str, table: Mapping[str, Any], kind: str) -> Any:
    """The row of `table` called `name`, or the object that `package.module:object` names.

    The user's modules are looked for in the current folder and among what is installed.
    Raises InputError with the near and the allowed names.
    """
    if name in table:
        return table[name]
    if ":" not in name:
        rows = f"{', '.join(table)}, or " if table else ""
        raise InputError(
            f"unknown {kind} {name!r}{suggestion(name, table)}; allowed: {rows}package.module:function of your own"
        )
    return _load(name, kind, {type(row) for row in table.values()})


def check_metric_name(name: object) -> str:
    """Return the name of a metric. Raises ValueError, with a name that would do, where MLflow does not take it."""
    text = str(name)
    allowed = isinstance(name, str) and re.fullmatch(r"[/\w.\- :]+", text) and posixpath.normpath(text) == text
    if allowed and len(text) <= METRIC_NAME_LENGTH and not text.startswith(("/", "..")) and text != ".":
        return text
    better = re.sub(r"[^\w.\-]+", "_", text).strip("_.")[:METRIC_NAME_LENGTH] or "metric"
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    raise ValueError(
        f"MLflow takes no metric called {shown!r}: allowed are at most {METRIC_NAME_LENGTH} letters, digits, spaces "
        f"and _ - . : /, and no path that could be written otherwise; {better[:60]!r} would do"
    )


def suggestion(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def find_in(folder: str | Path) -> None:
    """Let the user's modules be found in `folder`, ahead of what is installed."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _load(name: str, kind: str, row_types: set[type]) -> Any:
    """The user's function, or a row of the table's own type."""
    module_name, _, attribute = name.partition(":")
    find_in(Path.cwd())
    try:
        with contained(module_name):
            module = importlib.import_module(module_name)
    except ProcessEndError as error:
        raise InputError(f"{kind} {name!r}: {error}") from error
    except Exception as error:  # the user's module may raise anything while it loads
        raise InputError(
            f"{kind} {name!r}: the module {module_name!r} does not load "
            f"({type(error).__name__}: {error}); it is looked for in {Path.cwd()} and among what is installed"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found) and type(found) not in row_types:
        near = suggestion(attribute, [n for n, v in vars(module).items() if callable(v)])
        raise InputError(f"{kind} {name!r}: {module_name} has no function {attribute!r}{near}")
    return found
