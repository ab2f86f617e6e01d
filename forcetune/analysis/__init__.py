"""Questions to a study's table."""

from forcetune.analysis.fronts import believed, best, dominates, front, hypervolume, non_dominated, pareto_ranks
from forcetune.analysis.paired import Verdict, interval, judge, pooled
from forcetune.analysis.seeds import Belief, believe, with_seeds
from forcetune.analysis.sequential import Drift, Standing, drift, follow, look_cost

__all__ = [
    "Belief",
    "Drift",
    "Standing",
    "Verdict",
    "believe",
    "believed",
    "best",
    "dominates",
    "drift",
    "follow",
    "front",
    "hypervolume",
    "interval",
    "judge",
    "look_cost",
    "non_dominated",
    "pareto_ranks",
    "pooled",
    "with_seeds",
]
