"""Questions to a study's table."""

from forcetune.analysis.controls import COSTS, RANDOM_METHODS, beaten, best_controls, is_control
from forcetune.analysis.effects import at_equal_density, effects, losses
from forcetune.analysis.fronts import (
    COUNTED,
    believed,
    best,
    dominates,
    front,
    hypervolume,
    non_dominated,
    pareto_ranks,
)
from forcetune.analysis.paired import Verdict, fewest_pairs, interval, judge, pooled, shown_effect
from forcetune.analysis.questions import CONDITION, NETWORK, each, knee, near_dense, quality, top, unpruned, where
from forcetune.analysis.seeds import Belief, believe, with_seeds
from forcetune.analysis.sequential import Drift, Standing, drift, follow, look_cost
from forcetune.analysis.variation import by_spread, varied

__all__ = [
    "CONDITION",
    "COSTS",
    "COUNTED",
    "NETWORK",
    "RANDOM_METHODS",
    "Belief",
    "Drift",
    "Standing",
    "Verdict",
    "at_equal_density",
    "beaten",
    "believe",
    "believed",
    "best",
    "best_controls",
    "by_spread",
    "dominates",
    "drift",
    "each",
    "effects",
    "fewest_pairs",
    "follow",
    "front",
    "hypervolume",
    "interval",
    "is_control",
    "judge",
    "knee",
    "look_cost",
    "losses",
    "near_dense",
    "non_dominated",
    "pareto_ranks",
    "pooled",
    "quality",
    "shown_effect",
    "top",
    "unpruned",
    "varied",
    "where",
    "with_seeds",
]
