"""Questions to a study's table."""

from forcetune.analysis.fronts import best, dominates, front, hypervolume, non_dominated, pareto_ranks
from forcetune.analysis.seeds import Belief, believe, with_seeds

__all__ = [
    "Belief",
    "believe",
    "best",
    "dominates",
    "front",
    "hypervolume",
    "non_dominated",
    "pareto_ranks",
    "with_seeds",
]
