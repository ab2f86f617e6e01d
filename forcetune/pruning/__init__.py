"""The choice of the weights that a network keeps: at initialization, and by rules that go on while it trains."""

from forcetune.pruning.cache import PruningCache
from forcetune.pruning.channels import NetworkChannels, shuffle_channels
from forcetune.pruning.diagnosis import dense_macs, diagnose
from forcetune.pruning.inspection import Inspection, inspect
from forcetune.pruning.masks import (
    Masks,
    dense_masks,
    layer_densities,
    layer_table,
    load_masks,
    pack_masks,
    prunable,
    save_masks,
    shuffled,
)
from forcetune.pruning.methods import METHODS, SALIENCY_LOSSES, Method, find_masks, mask_steps, method_row
from forcetune.pruning.network import Batch, Network, Weights
from forcetune.pruning.rules import Change, RulePlan, RuleState, Saliency, TrainingRule, keep_by_count, score_network
from forcetune.pruning.schedules import SCHEDULES
from forcetune.pruning.shrinking import ShrinkingRule
from forcetune.pruning.weights import Architecture, pack_network, read_architecture, unpack_masks, unpack_network

__all__ = [
    "METHODS",
    "SALIENCY_LOSSES",
    "SCHEDULES",
    "Architecture",
    "Batch",
    "Change",
    "Inspection",
    "Masks",
    "Method",
    "Network",
    "NetworkChannels",
    "PruningCache",
    "RulePlan",
    "RuleState",
    "Saliency",
    "ShrinkingRule",
    "TrainingRule",
    "Weights",
    "dense_macs",
    "dense_masks",
    "diagnose",
    "find_masks",
    "inspect",
    "keep_by_count",
    "layer_densities",
    "layer_table",
    "load_masks",
    "mask_steps",
    "method_row",
    "pack_masks",
    "pack_network",
    "prunable",
    "read_architecture",
    "save_masks",
    "score_network",
    "shuffle_channels",
    "shuffled",
    "unpack_masks",
    "unpack_network",
]
