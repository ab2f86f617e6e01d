"""The size of a comparison where nobody requests one, and the differences that so many pairs can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forcetune import analysis, tracking
from forcetune.analysis.effects import ACCURACY_POINTS
from forcetune.baseline.champion_study import ChampionStudy
from forcetune.baseline.champions import Champion
from forcetune.baseline.evidence import collect_pairs
from forcetune.baseline.twins import FIXED_TWIN_FIELDS, plan_tuning

MAX_DEVICE_HOURS = 1.0  # of a comparison for which neither champions nor seeds are requested
MAX_SEEDS = 12
RIVALS_PER_CHAMPION = len(FIXED_TWIN_FIELDS) + 1  # the fixed twins and the tuned one


@dataclass(frozen=True)
class Noise:
    """The noise of the differences of pairs, as a study's own seeds show it.

    Attributes:
        deviation: The standard deviation of a difference, in points.
        source: The runs that show it, such as "48 pairs that have run".
    """

    deviation: float
    source: str


def choose_size(champion_study: ChampionStudy) -> tuple[list[Champion], int]:
    """Choose as many champions and seeds as an hour on a device has room for.

    At least one champion is chosen, where there is one to compare. Each comparison gets as many pairs as a verdict
    needs, and then more, up to 12. The knee of the front comes first, then champions whose sparsity is far from that of
    the champions before them. The choice depends on the study alone, so that the same command continues with the same
    champions and seeds.

    Returns:
        The champions, sorted by sparsity, and the pairs of each comparison.
    """
    ordered = _order_champions(champion_study)
    tuning_runs = [plan_tuning(champion_study.study, champion, champion_study.results.trials) for champion in ordered]
    durations_s = [champion_study.estimate_device_seconds(champion.key) for champion in ordered]

    def sum_device_hours(count: int, seeds: int) -> float:
        """Return the device hours of the first champions: both runs of each pair, and the tuning runs."""
        run_counts = [seeds * (1 + RIVALS_PER_CHAMPION) + len(runs) for runs in tuning_runs[:count]]
        return float(np.dot(run_counts, durations_s[:count])) / 3600

    for count in range(len(ordered), 0, -1):
        seeds = analysis.fewest_pairs(count * RIVALS_PER_CHAMPION)
        if count > 1 and sum_device_hours(count, seeds) > MAX_DEVICE_HOURS:
            continue
        while seeds < MAX_SEEDS and sum_device_hours(count, seeds + 1) <= MAX_DEVICE_HOURS:
            seeds += 1
        return sorted(ordered[:count], key=lambda champion: champion.sparsity), seeds
    return [], MAX_SEEDS


def estimate_noise(champion_study: ChampionStudy) -> Noise | None:
    """Estimate the noise of a comparison's differences, from pairs in which both runs live, or else from re-runs.

    The deviation of the difference of two runs with fresh seeds is sqrt(2) times that of one run. The runs of a pair
    share a seed, so their difference may vary less.

    Returns:
        The noise; None where neither two live pairs of a comparison nor two trained re-runs of a trial exist.
    """
    pairs = _select_repeated([collect_pairs(pairs).differences for _, pairs in champion_study.list_evidence()])
    if pairs:
        return Noise(_pool_deviation(pairs), f"{sum(map(len, pairs))} pairs that have run")
    reruns = tracking.select_reruns(champion_study.companion_table)
    if reruns is None or not len(reruns) or "val_accuracy" not in reruns:
        return None
    trained = reruns[reruns["outcome"] == "trained"].dropna(subset=["val_accuracy"])
    runs = _select_repeated([group.to_numpy(float) for _, group in trained.groupby("of")["val_accuracy"]])
    if not runs:
        return None
    return Noise(_pool_deviation(runs) * ACCURACY_POINTS * 2**0.5, f"{sum(map(len, runs))} runs with fresh seeds")


def _select_repeated(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [sample for sample in samples if len(sample) > 1]


def _pool_deviation(samples: Sequence[np.ndarray]) -> float:
    """Return the standard deviation within samples of at least two values, pooled over all of them."""
    square_sum = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples)
    return float((square_sum / sum(len(sample) - 1 for sample in samples)) ** 0.5)


def _order_champions(champion_study: ChampionStudy) -> list[Champion]:
    """Order the comparable champions: the knee, then always the champion farthest from those before it."""
    remaining = champion_study.comparable
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
