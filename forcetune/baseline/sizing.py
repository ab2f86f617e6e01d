"""How large a comparison is made where nobody says so, and what differences so many pairs can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forcetune import analysis, tracking
from forcetune.baseline.bench import Bench
from forcetune.baseline.champions import Champion
from forcetune.baseline.evidence import POINTS
from forcetune.baseline.twins import FIXED, tuning

DEVICE_HOURS = 1.0  # that a comparison takes at most where neither champions nor seeds are asked for
MOST_SEEDS = 12
RIVAL_COUNT = len(FIXED) + 1  # of a champion: the twins, and the tuned one


@dataclass(frozen=True)
class Size:
    """Champions to compare, and pairs of each comparison; device_hours: that takes in all, what was run before too."""

    champions: list[Champion]
    seeds: int
    device_hours: float


def size(bench: Bench) -> Size:
    """Return as many champions, with as many seeds, as an hour on a device has room for; one champion at least.

    Each comparison gets as many pairs as a verdict takes, and then more, up to 12. The knee of the front comes first,
    then champions far from those before them in sparsity. It follows from the study alone, so that the same command
    goes on with the same champions and seeds.
    """
    ordered = _in_order(bench)
    costs = {champion.key: _Cost(bench, champion) for champion in ordered}

    def hours(champions: Sequence[Champion], seeds: int) -> float:
        return sum(costs[champion.key].device_hours(seeds) for champion in champions)

    for count in range(len(ordered), 0, -1):
        seeds = analysis.fewest_pairs(count * RIVAL_COUNT)
        chosen = ordered[:count]
        if count > 1 and hours(chosen, seeds) > DEVICE_HOURS:
            continue
        while seeds < MOST_SEEDS and hours(chosen, seeds + 1) <= DEVICE_HOURS:
            seeds += 1
        return Size(sorted(chosen, key=lambda champion: champion.sparsity), seeds, hours(chosen, seeds))
    return Size([], MOST_SEEDS, 0.0)


def spread_of_differences(bench: Bench) -> float | None:
    """Return the standard deviation of a comparison's differences, in points; None where nothing tells it yet.

    It is that of the pairs that are there, or else of two runs with fresh seeds, the noise of which is known from the
    study's re-runs.
    """
    samples = [np.array([pair.difference for pair in pairs]) for _, pairs in bench.evidence()]
    if (pooled := _pooled(samples)) is not None:
        return pooled
    reruns = tracking.without_arms(bench.beside)
    if reruns is None or not len(reruns) or "val_accuracy" not in reruns:
        return None
    known = reruns.dropna(subset=["val_accuracy"])
    noise = _pooled([group.to_numpy(float) * POINTS for _, group in known.groupby("of")["val_accuracy"]])
    return None if noise is None else noise * 2**0.5


def _pooled(samples: Sequence[np.ndarray]) -> float | None:
    """The standard deviation within samples, over all of them."""
    several = [sample for sample in samples if len(sample) > 1]
    if not several:
        return None
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in several)
    return float((squares / sum(len(sample) - 1 for sample in several)) ** 0.5)


def _in_order(bench: Bench) -> list[Champion]:
    """Champions that something can be said of: the knee, then each time the one farthest from those before it."""
    left = [champion for champion in bench.champions if not champion.by_chance]
    if not left:
        return []
    knee = analysis.knee(analysis.best(bench.table))
    names = set(knee["name"]) if len(knee) else set()
    ordered = [next((champion for champion in left if champion.name in names), left[len(left) // 2])]
    left.remove(ordered[0])
    while left:
        farthest = max(left, key=lambda champion: min(_distance(champion, other) for other in ordered))
        ordered.append(farthest)
        left.remove(farthest)
    return ordered


def _distance(one: Champion, other: Champion) -> float:
    return abs(float(np.log(one.trial.density / other.trial.density)))


class _Cost:
    """What the comparisons of a champion take: both sides of each pair, and the runs that tune random pruning."""

    def __init__(self, bench: Bench, champion: Champion) -> None:
        took = bench.table.set_index("trial")["device_seconds"]
        self._seconds = float(took.get(champion.key, took.mean()))
        self._tuning_runs = len(tuning(bench.study, champion, bench.table))

    def device_hours(self, seeds: int) -> float:
        """With so many pairs of each comparison."""
        return (seeds * (1 + RIVAL_COUNT) + self._tuning_runs) * self._seconds / 3600
