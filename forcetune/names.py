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

METRIC_NAME_CHARACTERS = 246  # MLflow takes 250, and metrics of the validation images begin with val_
RUN_ID_PATTERN = re.compile("[0-9a-f]{32}")
RUN_PATTERN = re.compile(rf"{RUN_ID_PATTERN.pattern}|[\w.-]+/[\w.-]+")  # the id of a run, or STUDY/TRIAL
COMPANION = ".companion"  # follows a study's name in the name of its companion study
NIGHTLY_EXPERIMENT = "forcetune-nightly"  # of all nights
DEPLOYED_PREFIX = "deployed_"  # of the metrics of exports, each of which logs them anew
VERDICTS_FILE = "verdicts.json"  # the artifact of a comparison, or of a night, with its verdicts
NETWORK_FILE = "network.safetensors"  # the artifact of a run with the trained weights of its trial


def resolve(name: str, table: Mapping[str, Any], kind: str) -> Any:
    """Return a row of a table, or an object of the user's code.

    The user's modules are searched in the current folder and among the installed ones.

    Args:
        name: The name of a row, or `package.module:object`.
        table: The rows, by name.
        kind: What the name names, for the error.

    Raises:
        InputError: There is no such row or object; the message has the nearest and the allowed names.
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
    """Return the name of a metric as text.

    Raises:
        ValueError: MLflow does not take the name; the message has a name that it takes.
    """
    text = str(name)
    allowed = isinstance(name, str) and re.fullmatch(r"[/\w.\- :]+", text) and posixpath.normpath(text) == text
    if allowed and len(text) <= METRIC_NAME_CHARACTERS and not text.startswith(("/", "..")) and text != ".":
        return text
    better = re.sub(r"[^\w.\-]+", "_", text).strip("_.")[:METRIC_NAME_CHARACTERS] or "metric"
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    raise ValueError(
        f"MLflow does not accept the metric name {shown!r}; allowed: at most {METRIC_NAME_CHARACTERS} letters, digits, "
        f"spaces and _ - . : /, and no path with a shorter spelling; {better[:60]!r} is allowed"
    )


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` with the nearest name, or nothing.

    Args:
        name: The name that is wrong.
        candidates: The names that exist.
    """
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def add_import_folder(folder: str | Path) -> None:
    """Let the user's modules be imported from a folder, before the installed ones."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _load(name: str, kind: str, row_types: set[type]) -> Any:
    """Return the user's function, or an object of the same type as the table's rows."""
    module_name, _, attribute = name.partition(":")
    add_import_folder(Path.cwd())
    try:
        with contained(module_name):
            # pkgutil.resolve_name raises AttributeError both for a broken module and for a missing function
            module = importlib.import_module(module_name)
    except ProcessEndError as error:
        raise InputError(f"{kind} {name!r}: {error}") from error
    except Exception as error:  # the user's module may raise anything while it loads
        raise InputError(
            f"{kind} {name!r}: the module {module_name!r} does not load "
            f"({type(error).__name__}: {error}); it is looked for in {Path.cwd()} and among the installed packages"
        ) from error
    member = getattr(module, attribute, None)
    if not callable(member) and type(member) not in row_types:
        near = suggestion(attribute, [n for n, v in vars(module).items() if callable(v)])
        raise InputError(f"{kind} {name!r}: {module_name} has no function {attribute!r}{near}")
    return member
