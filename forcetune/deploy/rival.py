"""The rival of an exported network: the small dense network of equal measured latency, trained by the same recipe."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import nn

from forcetune import models
from forcetune.errors import InputError
from forcetune.study import Task, Trial
from forcetune.trial import TrialRun, prepare

UNPRUNED = {"method": "random", "density": 1.0}
CONTROLS_OFF = {"layers_from": None, "invert": False, "shuffle": False, "reinit": False, "small_dense": None}


@dataclass(frozen=True)
class Rival:
    """A small dense network beside an exported network.

    Attributes:
        trial: Its configuration.
        network: The trained network, on the CPU.
        accuracy: Its accuracy on the validation split of the same seed, 0 to 1.
        latency_ratio: Its latency divided by that of the exported network, as measured when its width was chosen.
    """

    trial: Trial
    network: nn.Module
    accuracy: float
    latency_ratio: float


def choose_width(trial: Trial, measure_ratio: Callable[[int], float]) -> tuple[int, float]:
    """Return the width whose dense network is nearest in latency to the exported network.

    Args:
        trial: The trial of the exported network.
        measure_ratio: A function of a width that returns the latency of the dense network of this width divided by that
            of the exported network.

    Returns:
        The width, and its ratio.

    Raises:
        InputError: The width of the model cannot be changed.
    """
    measured = cache(measure_ratio)
    full_width = trial.width or models.default_width(trial.model)
    first_above = 1 + bisect_left(range(1, full_width), 1.0, key=measured)
    candidates = {max(first_above - 1, 1), first_above}
    width = min(candidates, key=lambda width: abs(measured(width) - 1))
    return width, measured(width)


def make_rival_trial(trial: Trial, width: int) -> Trial:
    """Return a trial with the same recipe, of a dense network of another width."""
    changed = {**UNPRUNED, **CONTROLS_OFF, "width": width}
    return Trial(**trial.model_copy(update=changed).fields())


def train_rival(trial: Trial, task: Task, width: int, latency_ratio: float) -> Rival:
    """Train a small dense network by the recipe of a trial, from the same seed.

    Args:
        trial: The trial of the exported network.
        task: The part of the study that its trials share, with its loss and its training loop.
        width: The width of the small network.
        latency_ratio: Its latency divided by that of the exported network.

    Raises:
        InputError: The recipe reports no validation accuracy.
    """
    rival_trial = make_rival_trial(trial, width)
    run = TrialRun(prepare(rival_trial, Task(loss=task.loss, train=task.train)))
    *_, metrics = run
    if "val_accuracy" not in metrics:
        raise InputError(f"the training loop {task.train} reports no val_accuracy to compare with")
    return Rival(rival_trial, run.prepared.model.eval().cpu(), metrics["val_accuracy"], latency_ratio)
