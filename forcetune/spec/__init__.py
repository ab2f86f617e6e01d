"""All that a user may write: a study file, validated whole before anything starts."""

from forcetune.spec.companion import Companion, Errand, load_errand
from forcetune.spec.domains import Choice, Domain, Fixed, Range, within
from forcetune.spec.nightly import BANDS, Nightly, check_bands, load_nightly
from forcetune.spec.study import AUTO, Budget, Code, Placed, Priority, Resources, Search, Study, load
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
    "Domain",
    "Errand",
    "Fixed",
    "Nightly",
    "Placed",
    "Priority",
    "Range",
    "Resources",
    "Search",
    "Study",
    "Task",
    "Trial",
    "check_bands",
    "check_reported",
    "load",
    "load_errand",
    "load_nightly",
    "method_label",
    "within",
]
