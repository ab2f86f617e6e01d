"""The masked training loop."""

from forcetune.training.average import Average, find_rungs
from forcetune.training.changes import ChangingMasks
from forcetune.training.compaction import Compaction, CompactionError, compact, find_compaction
from forcetune.training.cost import stretch_epochs
from forcetune.training.evaluation import Metric, evaluate
from forcetune.training.exercise import exercise_rule
from forcetune.training.loop import LR_SCHEDULES, TRAINING_LOSSES, Diverged, Training, find_loss
from forcetune.training.masked import Masked, hold
from forcetune.training.own import TrainingLoop, UserTrainingLoop
from forcetune.training.parallel import ParallelTraining
from forcetune.training.processes import LostProcessError, ProcessGroup, TorchGroup
from forcetune.training.ruled import RuledTraining
from forcetune.training.step import OPTIMIZERS, Loss, Precision

__all__ = [
    "LR_SCHEDULES",
    "OPTIMIZERS",
    "TRAINING_LOSSES",
    "Average",
    "ChangingMasks",
    "Compaction",
    "CompactionError",
    "Diverged",
    "Loss",
    "LostProcessError",
    "Masked",
    "Metric",
    "ParallelTraining",
    "Precision",
    "ProcessGroup",
    "RuledTraining",
    "TorchGroup",
    "Training",
    "TrainingLoop",
    "UserTrainingLoop",
    "compact",
    "evaluate",
    "exercise_rule",
    "find_compaction",
    "find_loss",
    "find_rungs",
    "hold",
    "stretch_epochs",
]
