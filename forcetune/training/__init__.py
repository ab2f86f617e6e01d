"""The masked training loop."""

from forcetune.training.average import Average, rungs
from forcetune.training.compaction import Compaction, Obstacle, compact, find_compaction
from forcetune.training.loop import (
    LOSSES,
    LR_SCHEDULES,
    OPTIMIZERS,
    Diverged,
    Loss,
    Metric,
    Training,
    evaluate,
    find_loss,
)
from forcetune.training.masked import Masked, hold
from forcetune.training.own import Loop, OwnTraining

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
    "OwnTraining",
    "Training",
    "compact",
    "evaluate",
    "find_compaction",
    "find_loss",
    "hold",
    "rungs",
]
