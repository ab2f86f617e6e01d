"""All that a user may write: a study file, validated whole before anything starts."""

from forcetune.spec.domains import Choice, Domain, Fixed, Range, within
from forcetune.spec.study import AUTO, Budget, Code, Placed, Priority, Resources, Search, Study, load
from forcetune.spec.task import BEFORE, METRICS, Task, check_reported
from forcetune.spec.trial import Trial, method_label

__all__ = [
    "AUTO",
    "BEFORE",
    "METRICS",
    "Budget",
    "Choice",
    "Code",
    "Domain",
    "Fixed",
    "Placed",
    "Priority",
    "Range",
    "Resources",
    "Search",
    "Study",
    "Task",
    "Trial",
    "check_reported",
    "load",
    "method_label",
    "within",
]
