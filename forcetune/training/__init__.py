"""The masked training loop."""

from forcetune.training.average import Average, rungs
from forcetune.training.compaction import Compaction, Obstacle, compact, find_compaction
from forcetune.training.evaluation import Metric, evaluate
from forcetune.training.loop import LOSSES, LR_SCHEDULES, Diverged, Training, find_loss
from forcetune.training.masked import Masked, hold
from forcetune.training.own import Loop, UserTrainingLoop
from forcetune.training.step import OPTIMIZERS, Loss, Precision

__all__ = [
    "LOSSES",
    "LR_SCHEDULES",
    "OPTIMIZERS",
    "Average",
    "Compaction",
    "Diverged",
    "Loop",
    "Loss",
    "Masked",
    "Metric",
    "Obstacle",
    "Precision",
    "Training",
    "UserTrainingLoop",
    "compact",
    "evaluate",
    "find_compaction",
    "find_loss",
    "hold",
    "rungs",
]
