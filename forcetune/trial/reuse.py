"""Pruning steps that a worker has taken, kept for its next trials: those of a grid share most of them."""

import hashlib
from collections import OrderedDict

import torch
from torch import nn

from forcetune import pruning
from forcetune.spec import Trial

BYTES = 2**28  # of all that is kept
# What the scores of a pruning step do not hang on, but for the masks that the step begins with
WITHOUT_PART = {
    "density", "schedule", "shuffle", "reinit", "small_dense", "screen", "epochs", "batch_size", "lr", "lr_schedule",
    "optimizer", "momentum", "weight_decay", "clip_norm", "precision",
}  # fmt: skip

_trails: OrderedDict[str, pruning.PruningCache] = OrderedDict()


def find_pruning_cache(trial: Trial, model: nn.Module) -> pruning.PruningCache | None:
    """The trail of trials that score as this one does; None where there is nothing to spare, or it is not known.

    A method of the user's own may do anything, and a file of layer densities may be another one by now.
    """
    row = pruning.METHODS.get(trial.method)
    if row is None or trial.layers_from or not (row.data or row.iterative):
        return None
    setting = _setting(trial, model)
    trail = _trails.pop(setting, None)
    while _trails and sum(kept.size for kept in _trails.values()) > BYTES:
        _trails.popitem(last=False)
    if trail is None or trail.size > BYTES:
        trail = pruning.PruningCache()
    _trails[setting] = trail
    return trail


def forget() -> None:
    """As if no trial had run in this process: for who measures what one takes."""
    _trails.clear()


def _setting(trial: Trial, model: nn.Module) -> str:
    """A hash of the fields that play a part and of the weights, since a model of the user's own may draw them anew."""
    without = WITHOUT_PART | ({"iterations"} if pruning.METHODS[trial.method].iterative else set())
    fields = {name: value for name, value in trial.fields().items() if name not in without}
    told = hashlib.sha256(repr(sorted(fields.items())).encode())
    for tensor in model.state_dict().values():
        told.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
