"""The rival of an exported network: the widest dense network that is as quick, trained by the same recipe."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import nn

from forcetune import models
from forcetune.errors import InputError
from forcetune.study import Task, Trial
from forcetune.trial import TrialRun, prepare

MAX_EQUAL_LATENCY_RATIO = 1.05  # up to which a network counts as being as quick as another one
WIDTH_STEP = 4  # channels
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
    """Return the largest width whose dense network is as quick as the exported network.

    Above three, widths are multiples of WIDTH_STEP or the width of the trial. A network of a width between them may be
    slower than the next wider one, since runtimes have quick kernels only for multiples.

    Args:
        trial: The trial of the exported network.
        measure_ratio: A function of a width that returns the latency of the dense network of this width divided by that
            of the exported network.

    Returns:
        The width, at most that of the trial, and its ratio: at most MAX_EQUAL_LATENCY_RATIO unless the width is 1.

    Raises:
        InputError: The width of the model cannot be changed.
    """
    measured = cache(measure_ratio)
    full_width = trial.width or models.default_width(trial.model)
    narrow_widths = range(1, min(WIDTH_STEP, full_width))
    widths = sorted({*narrow_widths, *range(WIDTH_STEP, full_width, WIDTH_STEP), full_width})
    quick_count = bisect_right(widths, MAX_EQUAL_LATENCY_RATIO, key=measured)
    width = widths[max(quick_count - 1, 0)]
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
