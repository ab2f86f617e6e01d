"""The score: the hypervolume of a run's front over time, with accuracies measured again with fresh seeds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forcetune.analysis import hypervolume
from forcetune.analysis.fronts import non_dominated
from racing.arms import RaceTrial

RACE_DIRECTIONS = {"val_accuracy": "max", "density": "min"}
RACE_REFERENCES = {"val_accuracy": 0.1, "density": 0.5}  # chance of ten classes, and the highest density of the space
INSTANTS = 30
FIRST_INSTANT_SHARE = 0.08  # of the budget


def instants(budget_s: float) -> list[float]:
    """Return the seconds at which fronts are compared, spaced by their logarithm; the last is the end of the budget."""
    return [float(second) for second in np.geomspace(FIRST_INSTANT_SHARE * budget_s, budget_s, INSTANTS)]


def front_at(trials: Sequence[RaceTrial], second: float) -> list[RaceTrial]:
    """Return the front of the trials that had ended by `second`, as the run itself sees it."""
    chance, highest_density = RACE_REFERENCES["val_accuracy"], RACE_REFERENCES["density"]
    candidates = [t for t in trials if t.ended_s <= second and t.val_accuracy > chance and t.density <= highest_density]
    if not candidates:
        return []
    values = np.array([[trial.val_accuracy, trial.density] for trial in candidates])
    mask = non_dominated(values, list(RACE_DIRECTIONS.values()))
    return [trial for trial, is_on_front in zip(candidates, mask, strict=True) if is_on_front]


def config_key(task: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return a hash of a configuration and of the fixed fields of its task."""
    return hashlib.sha256(json.dumps([dict(task), dict(config)], sort_keys=True).encode()).hexdigest()[:16]


def curve(
    trials: Sequence[RaceTrial],
    seconds: Sequence[float],
    fresh_accuracies: Mapping[str, float],
    task: Mapping[str, Any],
) -> list[float]:
    """Return the hypervolume of the run's front at each of the seconds, with fresh accuracies.

    fresh_accuracies: the mean accuracy over the fresh seeds, by configuration key.
    """
    volumes = []
    for second in seconds:
        front = front_at(trials, second)
        values = np.array([[fresh_accuracies[config_key(task, trial.config)], trial.density] for trial in front])
        volumes.append(hypervolume(values.reshape(-1, 2), RACE_DIRECTIONS, RACE_REFERENCES))
    return volumes


def time_to_level(seconds: Sequence[float], volumes: Sequence[float], level: float) -> float | None:
    """Return the first of the seconds at which the hypervolume reaches the level; None where it never does.

    A level of 0 is that of a reference without a front, and no arm reaches it.
    """
    if level <= 0:
        return None
    return next((second for second, volume in zip(seconds, volumes, strict=True) if volume >= level), None)


def speedup(reference_s: float | None, arm_s: float | None) -> float:
    """Return how many times sooner than the reference an arm reaches a level; 0 where it never does."""
    return reference_s / arm_s if reference_s is not None and arm_s is not None else 0.0
