"""Questions to a study's table."""

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
from forcetune.analysis.paired import Verdict, interval, judge, pooled
from forcetune.analysis.questions import CONDITION, NETWORK, each, knee, near_dense, quality, top, unpruned, where
from forcetune.analysis.seeds import Belief, believe, with_seeds
from forcetune.analysis.sequential import Drift, Standing, drift, follow, look_cost

__all__ = [
    "CONDITION",
    "COUNTED",
    "NETWORK",
    "Belief",
    "Drift",
    "Standing",
    "Verdict",
    "at_equal_density",
    "believe",
    "believed",
    "best",
    "dominates",
    "drift",
    "each",
    "effects",
    "follow",
    "front",
    "hypervolume",
    "interval",
    "judge",
    "knee",
    "look_cost",
    "losses",
    "near_dense",
    "non_dominated",
    "pareto_ranks",
    "pooled",
    "quality",
    "top",
    "unpruned",
    "where",
    "with_seeds",
]
