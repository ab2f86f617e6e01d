"""Which weights of an untrained network to keep."""

from forcetune.pruning.diagnosis import diagnose
from forcetune.pruning.masks import layer_table, load_masks, prunable, save_masks
from forcetune.pruning.methods import LOSSES, METHODS, Method, find_masks, mask_steps, method_row
from forcetune.pruning.network import Network
from forcetune.pruning.schedules import SCHEDULES

__all__ = [
    "LOSSES",
    "METHODS",
    "SCHEDULES",
    "Method",
    "Network",
    "diagnose",
    "find_masks",
    "layer_table",
    "load_masks",
    "mask_steps",
    "method_row",
    "prunable",
    "save_masks",
]
