"""The pruning steps that a worker keeps for its next trials; the trials of a grid share most of them."""

import hashlib
from collections import OrderedDict

import torch
from torch import nn

from forcetune import pruning
from forcetune.study import Effect, Trial, select_fields

PRUNING_CACHE_BYTES = 2**28  # of all caches together

_pruning_caches: OrderedDict[str, pruning.PruningCache] = OrderedDict()


def find_pruning_cache(trial: Trial, model: nn.Module) -> pruning.PruningCache | None:
    """Return the cache of the trials whose weights are scored as this trial's are; None where none can be used.

    None can be used in four cases: the method prunes only in training; it reads no data and has one step, so that
    nothing is saved; it is of the user's own and may do anything; a file, whose content may have changed, gives the
    layer densities.
    """
    row = pruning.METHODS.get(trial.method)
    if row is None or row.starts_dense or trial.layers_from or not (row.data or row.iterative):
        return None
    setting = _hash_setting(trial, model)
    cache = _pruning_caches.pop(setting, None)
    while _pruning_caches and sum(kept_cache.size for kept_cache in _pruning_caches.values()) > PRUNING_CACHE_BYTES:
        _pruning_caches.popitem(last=False)
    if cache is None or cache.size > PRUNING_CACHE_BYTES:
        cache = pruning.PruningCache()
    _pruning_caches[setting] = cache
    return cache


def clear_pruning_caches() -> None:
    """Drop the pruning steps that this process keeps, so that the time of a trial can be measured."""
    _pruning_caches.clear()


def _hash_setting(trial: Trial, model: nn.Module) -> str:
    """Hash the fields that change the scores, and the weights, which a model of the user's own may draw anew."""
    score_fields = {*select_fields(Effect.SCORES)}
    if pruning.METHODS[trial.method].iterative:
        score_fields -= {"iterations"}  # it sets the masks that the steps begin with
    fields = {name: value for name, value in trial.fields().items() if name in score_fields}
    setting_hash = hashlib.sha256(repr(sorted(fields.items())).encode())
    for tensor in model.state_dict().values():
        setting_hash.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return setting_hash.hexdigest()
