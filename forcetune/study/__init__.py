"""The files that a user writes, a study and its like, validated whole before anything starts."""

from forcetune.study.companion import Companion, CompanionRuns, load_companion_runs
from forcetune.study.domains import Choice, Domain, Fixed, Range, is_in_domain
from forcetune.study.effect import Effect
from forcetune.study.nightly import SPARSITY_BAND_EDGES, Nightly, check_bands, load_nightly
from forcetune.study.schema import make_schema
from forcetune.study.sections import (
    AUTO,
    OPTUNA_PREFIX,
    Budget,
    Code,
    Priority,
    ResolvedResources,
    Resources,
    Search,
    count_whole,
)
from forcetune.study.shipped import SCHEMA_FILE, list_search_spaces, read_search_space, read_shipped_schema
from forcetune.study.study import Study, load_study
from forcetune.study.task import (
    COST_METRICS,
    METRICS,
    PLANNED_METRICS,
    RULE_METRICS,
    STATIC_METRICS,
    Task,
    check_reported,
)
from forcetune.study.trial import CONTROLS, RULE_OPTIONS, Trial, is_applicable, method_label, select_fields

__all__ = [
    "AUTO",
    "CONTROLS",
    "COST_METRICS",
    "METRICS",
    "OPTUNA_PREFIX",
    "PLANNED_METRICS",
    "RULE_METRICS",
    "RULE_OPTIONS",
    "SCHEMA_FILE",
    "SPARSITY_BAND_EDGES",
    "STATIC_METRICS",
    "Budget",
    "Choice",
    "Code",
    "Companion",
    "CompanionRuns",
    "Domain",
    "Effect",
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
    "count_whole",
    "is_applicable",
    "is_in_domain",
    "list_search_spaces",
    "load_companion_runs",
    "load_nightly",
    "load_study",
    "make_schema",
    "method_label",
    "read_search_space",
    "read_shipped_schema",
    "select_fields",
]
