"""The size of a comparison where nobody requests one, and the differences that so many pairs can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forcetune import analysis, tracking
from forcetune.analysis.effects import ACCURACY_POINTS
from forcetune.baseline.bench import ChampionStudy
from forcetune.baseline.champions import Champion
from forcetune.baseline.twins import FIXED_TWIN_FIELDS, plan_tuning

MAX_DEVICE_HOURS = 1.0  # of a comparison for which neither champions nor seeds are requested
MAX_SEEDS = 12
RIVALS_PER_CHAMPION = len(FIXED_TWIN_FIELDS) + 1  # the fixed twins and the tuned one


@dataclass(frozen=True)
class ComparisonSize:
    """The champions to compare, and the number of pairs.

    Attributes:
        champions: The champions, sorted by sparsity.
        seeds: The pairs of each comparison.
        device_hours: The estimated device hours of all pairs, including those that have run before.
    """

    champions: list[Champion]
    seeds: int
    device_hours: float


def choose_size(champion_study: ChampionStudy) -> ComparisonSize:
    """Choose as many champions and seeds as an hour on a device has room for.

    At least one champion is chosen, where there is one to compare. Each comparison gets as many pairs as a verdict
    needs, and then more, up to 12. The knee of the front comes first, then champions whose sparsity is far from that of
    the champions before them. The choice depends on the study alone, so that the same command continues with the same
    champions and seeds.
    """
    ordered = _order_champions(champion_study)
    costs = {champion.key: _ComparisonCost(champion_study, champion) for champion in ordered}

    def sum_device_hours(champions: Sequence[Champion], seeds: int) -> float:
        return sum(costs[champion.key].estimate_device_hours(seeds) for champion in champions)

    for count in range(len(ordered), 0, -1):
        seeds = analysis.fewest_pairs(count * RIVALS_PER_CHAMPION)
        chosen = ordered[:count]
        if count > 1 and sum_device_hours(chosen, seeds) > MAX_DEVICE_HOURS:
            continue
        while seeds < MAX_SEEDS and sum_device_hours(chosen, seeds + 1) <= MAX_DEVICE_HOURS:
            seeds += 1
        return ComparisonSize(
            sorted(chosen, key=lambda champion: champion.sparsity), seeds, sum_device_hours(chosen, seeds)
        )
    return ComparisonSize([], MAX_SEEDS, 0.0)


def estimate_deviation(champion_study: ChampionStudy) -> float | None:
    """Estimate the standard deviation of a comparison's differences.

    The estimate comes from the pairs that have run, or else from the study's re-runs: the deviation of the difference
    of two runs with fresh seeds is sqrt(2) times that of one run.

    Returns:
        The deviation in points; None where neither two pairs of a comparison nor two re-runs of a trial exist.
    """
    samples = [np.array([pair.difference for pair in pairs]) for _, pairs in champion_study.list_evidence()]
    if (deviation := _pool_deviation(samples)) is not None:
        return deviation
    reruns = tracking.select_reruns(champion_study.companion_table)
    if reruns is None or not len(reruns) or "val_accuracy" not in reruns:
        return None
    measured_reruns = reruns.dropna(subset=["val_accuracy"])
    noise = _pool_deviation(
        [group.to_numpy(float) * ACCURACY_POINTS for _, group in measured_reruns.groupby("of")["val_accuracy"]]
    )
    return None if noise is None else noise * 2**0.5


def _pool_deviation(samples: Sequence[np.ndarray]) -> float | None:
    """Return the standard deviation within samples, pooled over all of them; None without a sample of two values."""
    repeated = [sample for sample in samples if len(sample) > 1]
    if not repeated:
        return None
    square_sum = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in repeated)
    return float((square_sum / sum(len(sample) - 1 for sample in repeated)) ** 0.5)


def _order_champions(champion_study: ChampionStudy) -> list[Champion]:
    """Order the comparable champions: the knee, then always the champion farthest from those before it."""
    remaining = [champion for champion in champion_study.champions if not champion.exclusion_reason]
    if not remaining:
        return []
    knee = analysis.knee(champion_study.results.front, champion_study.results.objectives)
    names = set(knee["name"]) if len(knee) else set()
    ordered = [next((champion for champion in remaining if champion.name in names), remaining[len(remaining) // 2])]
    remaining.remove(ordered[0])
    while remaining:
        farthest = max(remaining, key=lambda champion: min(_measure_distance(champion, other) for other in ordered))
        ordered.append(farthest)
        remaining.remove(farthest)
    return ordered


def _measure_distance(first: Champion, second: Champion) -> float:
    return abs(float(np.log(first.trial.density / second.trial.density)))


class _ComparisonCost:
    """The cost of a champion's comparisons: both runs of each pair, and the tuning runs."""

    def __init__(self, champion_study: ChampionStudy, champion: Champion) -> None:
        durations_s = champion_study.results.trials.set_index("trial")["device_seconds"]
        self._run_duration_s = float(durations_s.get(champion.key, durations_s.mean()))
        self._tuning_run_count = len(plan_tuning(champion_study.study, champion, champion_study.results.trials))

    def estimate_device_hours(self, seeds: int) -> float:
        """Estimate the device hours of all runs, with so many pairs in each comparison."""
        run_count = seeds * (1 + RIVALS_PER_CHAMPION) + self._tuning_run_count
        return run_count * self._run_duration_s / 3600
