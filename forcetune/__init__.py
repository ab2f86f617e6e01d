"""Distributed hyperparameter search for networks that are pruned before they are trained."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {"find_masks": "forcetune.pruning", "load_masks": "forcetune.pruning", "load_trial": "forcetune.results"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and MLflow take seconds to import."""
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
