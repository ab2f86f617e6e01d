"""The effects of a trial's fields: each field is marked once, and every list of fields is derived from the marks."""

from enum import Flag, auto


class Effect(Flag):
    """An effect of a field of a trial.

    Attributes:
        SCORES: The scores of the pruning steps, given the masks that each step begins with.
        MASK: The mask, or the weights that it is put on, without the scores.
        TRAINING: What follows after pruning; no mask depends on it.
        PRUNING_MEMORY: The memory that pruning needs.
        TRAINING_MEMORY: The memory that a training step needs.
        LOOP: The training, as the argument of `training.Training` that has the field's name.
        MEMORY: The memory of pruning and of training.
    """

    SCORES = auto()
    MASK = auto()
    TRAINING = auto()
    PRUNING_MEMORY = auto()
    TRAINING_MEMORY = auto()
    _LOOP_ARGUMENT = auto()
    LOOP = TRAINING | _LOOP_ARGUMENT
    MEMORY = PRUNING_MEMORY | TRAINING_MEMORY
