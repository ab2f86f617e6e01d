"""All that a user may write: a study file, validated whole before anything starts."""

from forcetune.spec.domains import Choice, Domain, Fixed, Range, within
from forcetune.spec.study import METRICS, Resources, Search, Study, load
from forcetune.spec.trial import Trial, method_label

__all__ = [
    "METRICS",
    "Choice",
    "Domain",
    "Fixed",
    "Range",
    "Resources",
    "Search",
    "Study",
    "Trial",
    "load",
    "method_label",
    "within",
]
