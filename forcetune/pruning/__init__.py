"""Pruning at initialization: which weights of an untrained network to keep."""

from forcetune.pruning.cache import PruningCache
from forcetune.pruning.diagnosis import dense_macs, diagnose
from forcetune.pruning.inspection import Inspection, inspect
from forcetune.pruning.masks import layer_densities, layer_table, load_masks, pack_masks, prunable, save_masks, shuffled
from forcetune.pruning.methods import METHODS, SALIENCY_LOSSES, Method, find_masks, mask_steps, method_row
from forcetune.pruning.network import Batch, Network
from forcetune.pruning.schedules import SCHEDULES

__all__ = [
    "METHODS",
    "SALIENCY_LOSSES",
    "SCHEDULES",
    "Batch",
    "Inspection",
    "Method",
    "Network",
    "PruningCache",
    "dense_macs",
    "diagnose",
    "find_masks",
    "inspect",
    "layer_densities",
    "layer_table",
    "load_masks",
    "mask_steps",
    "method_row",
    "pack_masks",
    "prunable",
    "save_masks",
    "shuffled",
]
