"""What of a network can be pruned, and what would stand in the way."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from forcetune.errors import InputError
from forcetune.pruning.diagnosis import dense_macs, diagnose
from forcetune.pruning.masks import prunable
from forcetune.pruning.methods import find_masks

# One method for each way in which scores are found: gradients, their gradients, the network of absolute values
PROBES = ("snip", "grasp", "synflow")


@dataclass(frozen=True)
class Inspection:
    """Prunable layers as (name, shape, weights, multiply-adds of one sample), other parameters, and obstacles."""

    layers: list[tuple[str, tuple[int, ...], int, int]]
    others: dict[str, int]  # parameters that are never pruned, by what they are
    obstacles: list[str]

    @property
    def weights(self) -> int:
        return sum(weights for _, _, weights, _ in self.layers)

    @property
    def macs(self) -> int:
        return sum(macs for *_, macs in self.layers)


def inspect(model: nn.Module, input_shape: tuple[int, ...], classes: int) -> Inspection:
    """Look at a network; `input_shape` is one sample's, without the batch. Raises InputError: nothing is prunable."""
    weights = prunable(model)
    macs = dense_macs(model, input_shape)
    layers = [(name, tuple(weight.shape), weight.numel(), macs[name]) for name, weight in weights.items()]
    return Inspection(layers, _others(model, set(weights)), list(_obstacles(model, input_shape, classes, macs)))


def _others(model: nn.Module, pruned: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if name not in pruned:
            module = model.get_submodule(name.rpartition(".")[0])
            kind = "biases" if name.endswith("bias") else f"{name.rpartition('.')[2]} of {type(module).__name__}"
            found[kind] = found.get(kind, 0) + parameter.numel()
    return found


def _obstacles(model: nn.Module, input_shape: tuple[int, ...], classes: int, macs: dict[str, int]) -> Iterator[str]:
    weights = prunable(model)
    counted = sum(weight.numel() for weight in weights.values())
    total = sum(parameter.numel() for parameter in model.parameters())
    if counted < total / 2:
        yield f"{total - counted} of {total} parameters are in no Conv2d or Linear and stay as they are"
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and not _is_frozen(m)]
    if len(modules) > len(weights):
        yield f"{len(modules) - len(weights)} layers share a weight with another: it is pruned once, for all of them"
    if frozen := [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and _is_frozen(m)]:
        yield f"frozen layers (requires_grad is False) stay dense: {', '.join(frozen)}"
    if unused := [name for name, count in macs.items() if count == 0]:
        yield f"one sample does not pass through {', '.join(unused)} as layers: their multiply-adds are not counted"
    on_path = diagnose(model, {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}, input_shape)
    if on_path["effective_density"] < 1:
        yield (
            f"unpruned, {1 - on_path['effective_density']:.2%} of the weights count as on no path from input to output "
            "(a kernel larger than its image, or operations that the diagnosis does not follow): read "
            "effective_density and macs as lower bounds"
        )
    yield from _failing(model, input_shape, classes)


def _is_frozen(module: nn.Conv2d | nn.Linear) -> bool:
    return not module.weight.requires_grad


def _failing(model: nn.Module, input_shape: tuple[int, ...], classes: int) -> Iterator[str]:
    """What a training pass and one method of each kind say to a random batch."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn((4, *input_shape), generator=generator), torch.arange(4) % classes
    for method in PROBES:
        try:
            find_masks(model, [batch], method, 0.5, iterations=1)
        except InputError as error:
            yield f"{method} cannot score it: {error}"
        except Exception as error:  # whatever the user's network raises
            yield f"{method} cannot score it: {type(error).__name__}: {error}"
