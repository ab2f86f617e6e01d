"""The inspection of a network: its prunable layers and the obstacles to pruning it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from forcetune.errors import InputError
from forcetune.pruning.diagnosis import dense_macs, diagnose
from forcetune.pruning.masks import dense_masks, prunable
from forcetune.pruning.methods import find_masks

# One method for each way to compute scores: gradients, their gradients, the network of absolute values
PROBE_METHODS = ("snip", "grasp", "synflow")


@dataclass(frozen=True)
class Inspection:
    """The prunable layers of a network, its other parameters and the obstacles to pruning it.

    Attributes:
        layers: The name, shape, number of weights and multiply-adds of one sample of each prunable layer.
        unprunable: The number of parameters that are never pruned, by kind.
        obstacles: A sentence for each obstacle.
    """

    layers: list[tuple[str, tuple[int, ...], int, int]]
    unprunable: dict[str, int]
    obstacles: list[str]

    @property
    def weights(self) -> int:
        """The number of prunable weights."""
        return sum(weights for _, _, weights, _ in self.layers)

    @property
    def macs(self) -> int:
        """The multiply-adds of one sample in the prunable layers."""
        return sum(macs for *_, macs in self.layers)


def inspect(model: nn.Module, input_shape: tuple[int, ...], classes: int) -> Inspection:
    """Inspect a network before it is pruned.

    Args:
        model: The network.
        input_shape: The shape of one sample, without the batch.
        classes: The number of classes.

    Returns:
        The prunable layers, the other parameters and the obstacles.

    Raises:
        InputError: The network has no prunable layer, or a layer computes its weight from other parameters.
    """
    weights = prunable(model)
    macs = dense_macs(model, input_shape)
    layers = [(name, tuple(weight.shape), weight.numel(), macs[name]) for name, weight in weights.items()]
    return Inspection(
        layers, _count_unprunable(model, set(weights)), list(_find_obstacles(model, input_shape, classes, macs))
    )


def _count_unprunable(model: nn.Module, prunable_names: set[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if name not in prunable_names:
            module = model.get_submodule(name.rpartition(".")[0])
            kind = "biases" if name.endswith("bias") else f"{name.rpartition('.')[2]} of {type(module).__name__}"
            counts[kind] += parameter.numel()
    return counts


def _find_obstacles(
    model: nn.Module, input_shape: tuple[int, ...], classes: int, macs: dict[str, int]
) -> Iterator[str]:
    weights = prunable(model)
    counted = sum(weight.numel() for weight in weights.values())
    total = sum(parameter.numel() for parameter in model.parameters())
    if counted < total / 2:
        yield f"{total - counted} of {total} parameters belong to no Conv2d or Linear layer and are never pruned"
    ids = {id(weight) for weight in weights.values()}
    uses = sum(id(parameter) in ids for module in model.modules() for parameter in module.parameters(recurse=False))
    if uses > len(weights):
        further_uses = f"{uses - len(weights)} further uses in other modules"
        yield f"weights are shared ({further_uses}): a shared weight is pruned once, for all of them"
    if frozen := [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and _is_frozen(m)]:
        yield f"frozen layers (requires_grad is False) stay dense: {', '.join(frozen)}"
    if unused := [name for name, count in macs.items() if count == 0]:
        yield f"no sample passes through the layers of {', '.join(unused)}: their multiply-adds are not counted"
    metrics = diagnose(model, dense_masks(model), input_shape)
    if metrics["effective_density"] < 1:
        yield (
            f"without pruning, the diagnosis finds no path from input to output for "
            f"{1 - metrics['effective_density']:.2%} of the weights "
            "(a kernel larger than its image, or operations that the diagnosis does not follow): read "
            "effective_density and macs as lower bounds"
        )
    yield from _probe_methods(model, input_shape, classes)


def _is_frozen(module: nn.Conv2d | nn.Linear) -> bool:
    return not module.weight.requires_grad


def _probe_methods(model: nn.Module, input_shape: tuple[int, ...], classes: int) -> Iterator[str]:
    """Yield a sentence for each of PROBE_METHODS that cannot score a random batch."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn((4, *input_shape), generator=generator), torch.arange(4) % classes
    for method in PROBE_METHODS:
        try:
            find_masks(model, [batch], method, 0.5, iterations=1)
        except InputError as error:
            yield f"{method} cannot score this network: {error}"
        except Exception as error:  # the user's network may raise anything
            yield f"{method} cannot score this network: {type(error).__name__}: {error}"
