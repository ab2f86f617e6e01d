"""All that a user may write: a study file, validated whole before anything starts."""

from forcetune.spec.companion import Companion, CompanionRuns, load_companion_runs
from forcetune.spec.domains import Choice, Domain, Fixed, Range, within
from forcetune.spec.nightly import BANDS, Nightly, check_bands, load_nightly
from forcetune.spec.study import AUTO, Budget, Code, Priority, ResolvedResources, Resources, Search, Study, load
from forcetune.spec.task import BEFORE, METRICS, Task, check_reported
from forcetune.spec.trial import CONTROLS, Trial, method_label

__all__ = [
    "AUTO",
    "BANDS",
    "BEFORE",
    "CONTROLS",
    "METRICS",
    "Budget",
    "Choice",
    "Code",
    "Companion",
    "CompanionRuns",
    "Domain",
    "Fixed",
    "Nightly",
    "Priority",
    "Range",
    "ResolvedResources",
    "Resources",
    "Search",
    "Study",
    "Task",
    "Trial",
    "check_bands",
    "check_reported",
    "load",
    "load_companion_runs",
    "load_nightly",
    "method_label",
    "within",
]
