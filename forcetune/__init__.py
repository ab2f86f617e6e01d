"""Distributed hyperparameter search for networks that are pruned before they are trained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forcetune import jobs
    from forcetune.deploy import export_network, load_masks, load_network
    from forcetune.pruning import find_masks
    from forcetune.report.results import load_results, load_trial
    from forcetune.run import run_study
    from forcetune.study import Study, load_study

__version__ = "0.1.0"
__all__ = [
    "Study",
    "export_network",
    "find_masks",
    "jobs",
    "load_masks",
    "load_network",
    "load_results",
    "load_study",
    "load_trial",
    "run_study",
]

# No public function has the name of a room: `import forcetune.search` would replace it by the room.
_MODULES = {
    "Study": "forcetune.study",
    "export_network": "forcetune.deploy",
    "find_masks": "forcetune.pruning",
    "load_masks": "forcetune.deploy",
    "load_network": "forcetune.deploy",
    "load_results": "forcetune.report.results",
    "load_study": "forcetune.study",
    "load_trial": "forcetune.report.results",
    "run_study": "forcetune.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and MLflow take seconds to import."""
    if name == "jobs":
        return import_module("forcetune.jobs")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
