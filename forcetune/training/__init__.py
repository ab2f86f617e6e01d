"""The masked training loop."""

from forcetune.training.loop import LR_SCHEDULES, Diverged, Training, evaluate
from forcetune.training.masked import Masked

__all__ = ["LR_SCHEDULES", "Diverged", "Masked", "Training", "evaluate"]
