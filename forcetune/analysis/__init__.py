"""Questions to a study's table."""

from forcetune.analysis.comparison import compare
from forcetune.analysis.controls import COST_NAMES, RANDOM_METHODS, best_controls, find_beating_controls, is_control
from forcetune.analysis.effects import accuracy_at_equal_density, effects, objective_losses
from forcetune.analysis.fronts import (
    COUNTED_OUTCOMES,
    dominates,
    front,
    hypervolume,
    non_dominated,
    objective_column,
    pareto_ranks,
)
from forcetune.analysis.keeping import select_kept
from forcetune.analysis.paired import (
    Verdict,
    detectable_effect,
    fewest_pairs,
    judge,
    pool_by_seed,
    student_interval,
)
from forcetune.analysis.questions import (
    CONDITION_PATTERN,
    NETWORK_COLUMNS,
    ask_by_value,
    choose_quality,
    knee,
    near_dense,
    summarize_dense,
    top,
    where,
)
from forcetune.analysis.seeds import SeedEstimates, add_seed_estimates, estimate_from_seeds
from forcetune.analysis.sequential import Drift, Standing, detect_drift, follow, look_cost
from forcetune.analysis.variation import find_varied_fields, rank_varied_fields

__all__ = [
    "CONDITION_PATTERN",
    "COST_NAMES",
    "COUNTED_OUTCOMES",
    "NETWORK_COLUMNS",
    "RANDOM_METHODS",
    "Drift",
    "SeedEstimates",
    "Standing",
    "Verdict",
    "accuracy_at_equal_density",
    "add_seed_estimates",
    "ask_by_value",
    "best_controls",
    "choose_quality",
    "compare",
    "detect_drift",
    "detectable_effect",
    "dominates",
    "effects",
    "estimate_from_seeds",
    "fewest_pairs",
    "find_beating_controls",
    "find_varied_fields",
    "follow",
    "front",
    "hypervolume",
    "is_control",
    "judge",
    "knee",
    "look_cost",
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
