"""Trials on the synthetic data set, each of less than a second, and the values that tests compare of them."""

import torch

from forcetune import trial
from forcetune.pruning import prunable
from forcetune.study import Trial

# These metrics depend on the speed of the machine and on the trials that ran before.
RUN_DEPENDENT_METRICS = {"prune_seconds", "train_seconds", "steps_reused"}
RULE_METRICS = {"mask_density", "settled"}  # where a rule changes the masks


def make_trial(**fields):
    return Trial(**{"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": 0.2, **fields})


def run_trial(**fields):
    return list(trial.run(make_trial(epochs=2, **fields)))


def drop_run_dependent(epochs):
    return [{name: value for name, value in metrics.items() if name not in RUN_DEPENDENT_METRICS} for metrics in epochs]


def flatten_weights(model):
    return torch.cat([weight.detach().flatten() for weight in prunable(model).values()])


USER_MODEL_CODE = """
from torch import nn

def with_dropout(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, classes))
"""


def prepare_trial(**fields):
    return trial.prepare(make_trial(**fields))


def flatten_masks(prepared):
    return torch.cat([mask.flatten() for mask in prepared.masks.values()])
