"""The results of a study as people see them: tables, one page that opens without a network, and objects for notebooks.

The names are imported when they are first used: pandas, Plotly and MLflow take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forcetune.report.study_results import StudyResults
    from forcetune.report.writing import ARTIFACT, write

__all__ = ["ARTIFACT", "StudyResults", "write"]

_REPORT_MODULES = {
    "ARTIFACT": "forcetune.report.writing",
    "StudyResults": "forcetune.report.study_results",
    "write": "forcetune.report.writing",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _REPORT_MODULES:
        return getattr(import_module(_REPORT_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
