"""Questions to a study's table."""

from forcetune.analysis.collapses import (
    DEFAULT_COLLAPSE_MARGIN,
    bound_without_collapse,
    compare_collapses,
    fewest_pairs_without_collapse,
)
from forcetune.analysis.comparison import compare
from forcetune.analysis.controls import COST_NAMES, RANDOM_METHODS, best_controls, find_beating_controls, is_control
from forcetune.analysis.drift import Drift, detect_drift
from forcetune.analysis.effects import accuracy_at_equal_density, effects, objective_losses
from forcetune.analysis.fronts import (
    COUNTED_OUTCOMES,
    collapses_mostly,
    dominates,
    front,
    hypervolume,
    non_dominated,
    objective_column,
    pareto_ranks,
)
from forcetune.analysis.keeping import select_kept
from forcetune.analysis.outcomes import find_least_accuracy, has_collapsed, has_diverged
from forcetune.analysis.paired import (
    Verdict,
    decide,
    detectable_effect,
    fewest_pairs,
    judge,
    pool_by_seed,
    student_interval,
)
from forcetune.analysis.pairs import Pairs, combine_parts
from forcetune.analysis.questions import (
    CONDITION_PATTERN,
    NETWORK_COLUMNS,
    ask_by_value,
    choose_quality,
    find_landmarks,
    knee,
    near_dense,
    summarize_dense,
    top,
    where,
)
from forcetune.analysis.seeds import add_seed_estimates, estimate_from_seeds
from forcetune.analysis.sequential import Standing, describe_standing, follow
from forcetune.analysis.variation import find_varied_fields, rank_varied_fields

__all__ = [
    "CONDITION_PATTERN",
    "COST_NAMES",
    "COUNTED_OUTCOMES",
    "DEFAULT_COLLAPSE_MARGIN",
    "NETWORK_COLUMNS",
    "RANDOM_METHODS",
    "Drift",
    "Pairs",
    "Standing",
    "Verdict",
    "accuracy_at_equal_density",
    "add_seed_estimates",
    "ask_by_value",
    "best_controls",
    "bound_without_collapse",
    "choose_quality",
    "collapses_mostly",
    "combine_parts",
    "compare",
    "compare_collapses",
    "decide",
    "describe_standing",
    "detect_drift",
    "detectable_effect",
    "dominates",
    "effects",
    "estimate_from_seeds",
    "fewest_pairs",
    "fewest_pairs_without_collapse",
    "find_beating_controls",
    "find_landmarks",
    "find_least_accuracy",
    "find_varied_fields",
    "follow",
    "front",
    "has_collapsed",
    "has_diverged",
    "hypervolume",
    "is_control",
    "judge",
    "knee",
    "near_dense",
    "non_dominated",
    "objective_column",
    "objective_losses",
    "pareto_ranks",
    "pool_by_seed",
    "rank_varied_fields",
    "select_kept",
    "student_interval",
    "summarize_dense",
    "top",
    "where",
]
