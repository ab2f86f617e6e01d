"""A second opinion on which channels belong together: the groups of Torch-Pruning, which derives them by itself."""

from collections import defaultdict

import pytest
import torch
from torch import nn

from forcetune.models import build
from forcetune.pruning import prunable
from forcetune.training import find_compaction

torch_pruning = pytest.importorskip("torch_pruning")

SHAPE = (3, 32, 32)
DEAD_CHANNEL = 2
LAYERS_PER_NETWORK = 4  # evenly over the depth, so that a deep network takes no longer


def find_group(graph, layer, names):
    """Return the indices that go with a channel of a layer, by weight and dimension: those written, and those read."""
    written, read, passed = defaultdict(set), defaultdict(set), defaultdict(set)
    for member in graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=[DEAD_CHANNEL]):
        module = member.dep.target.module
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight = f"{names[module]}.weight"
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            passed[weight, 0].update(member.idxs)  # a depthwise convolution
        elif "in_channels" in member.dep.handler.__name__:
            read[weight, 1].update(member.idxs)
        else:
            written[weight, 0].update(member.idxs)
    return written, read, passed


def find_cut_indices(model, masks):
    """Return the indices that compaction cuts out of the prunable weights, by weight and dimension."""
    kept_indices = find_compaction(model, masks, SHAPE).kept_indices
    return {
        (name, dim): {*range(mask.shape[dim])} - {*kept.tolist()}
        for name, mask in masks.items()
        for dim, kept in kept_indices.get(name, {}).items()
    }


@pytest.mark.parametrize("name", ["vgg_small", "resnet20", "torchvision:mobilenet_v2", "torchvision:resnet18"])
def test_a_dead_channel_goes_with_the_whole_group_of_torch_pruning(name):
    torch.manual_seed(0)
    model = build(name, SHAPE, 10, None if ":" in name else 8)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=torch.randn(2, *SHAPE))
    names = {module: module_name for module_name, module in model.named_modules()}
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]
    for layer in layers[:: max(1, len(layers) // LAYERS_PER_NETWORK)]:
        written, read, passed = find_group(graph, layer, names)
        # Channels that a sum joins are cut only where no layer reads them.
        pruned = {**written, **(read if len(written) > 1 else {})}
        masks = {
            weight_name: torch.ones_like(weight, dtype=torch.bool) for weight_name, weight in prunable(model).items()
        }
        for (weight_name, dim), indices in pruned.items():
            masks[weight_name].transpose(0, dim)[sorted(indices)] = False
        assert find_cut_indices(model, masks) == {**written, **read, **passed}, names[layer]
        weight_name, _ = list(pruned)[-1]
        masks[weight_name][:] = True
        assert not find_cut_indices(model, masks), f"{names[layer]}: {weight_name} uses the channel"
