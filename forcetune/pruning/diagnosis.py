"""What a mask does to a network, known before any training."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forcetune.pruning.additive import Seen, additive_pass, hooked
from forcetune.pruning.masks import Masks, density, emptied_channels, prunable

PROJECTIONS = "attention's projections"  # in a table by layer, though they are none
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def diagnose(model: nn.Module, masks: Masks, input_shape: tuple[int, ...]) -> dict[str, float]:
    """The metrics of a mask; `input_shape` is one sample's, without the batch.

    density, sparsity: of the masks; effective_density: weights on a path from input to output;
    macs: multiply-adds of one sample with every layer cut down to the input and output channels that
    still carry such a path; macs_fraction: of the dense network's; layers_emptied: layers without a
    weight; channels_emptied: output channels without one; collapsed: 1 where no path is left.
    """
    effective, uses = effective_masks(model, masks, input_shape)
    kept = density(masks)
    on_path = density(effective)
    dense = uses.projections + uses.macs({name: mask.numel() for name, mask in masks.items()})
    left = uses.macs({name: _live_size(mask, uses.groups[name]) for name, mask in effective.items()})
    left += uses.projections if on_path else 0
    return {
        "density": kept,
        "sparsity": 1 - kept,
        "effective_density": on_path,
        "macs": left,
        "macs_fraction": left / dense if dense else 1.0,  # 0: used by functions alone, which are not counted
        "layers_emptied": sum(not mask.any() for mask in masks.values()),
        "channels_emptied": sum(map(emptied_channels, masks.values())),
        "collapsed": float(on_path == 0),
    }


def dense_macs(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-adds of one sample by layer, nothing pruned."""
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    uses = effective_masks(model, masks, input_shape)[1]
    projections = {PROJECTIONS: uses.projections} if uses.projections else {}
    return {name: mask.numel() * uses.positions[name] for name, mask in masks.items()} | projections


@dataclass
class Uses:
    """How one sample uses the prunable weights.

    positions: how often each weight is used, by layer; groups: of each convolution; projections: the multiply-adds of
    attention's weights that belong to no layer and are not pruned.
    """

    positions: dict[str, int]
    groups: dict[str, int]
    projections: int = 0

    def macs(self, weights: Mapping[str, int]) -> int:
        """The multiply-adds of so many weights a layer."""
        return sum(self.positions[name] * count for name, count in weights.items())


def effective_masks(model: nn.Module, masks: Masks, input_shape: tuple[int, ...]) -> tuple[Masks, Uses]:
    """The masks less the weights on no path from input to output, and how a sample uses the weights.

    One additive pass with weights of mask / (kept in the row): a weight is on a path where its gradient is not zero.
    Exact for networks whose other layers pass values on as ReLU does (zero for zero, growing for positive inputs).
    Where the network adds a constant that it has learned (a class token, a position's embedding), what flows without
    any input is taken away: a constant is no path from the input.
    """
    weights = {n: _row_mean(mask).requires_grad_() for n, mask in masks.items()}
    names = {id(weight): name for name, weight in weights.items()}
    uses = Uses(dict.fromkeys(masks, 0), dict.fromkeys(masks, 1))

    def count(name: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        channels = 1 if isinstance(module, nn.Conv2d) else -1
        uses.positions[name] += outputs.numel() // outputs.shape[channels]
        uses.groups[name] = getattr(module, "groups", 1)

    def count_projection(weight: Tensor, vectors: int) -> None:
        if id(weight) in names:
            uses.positions[names[id(weight)]] += vectors
        else:
            uses.projections += vectors * weight.numel()

    def flow(inputs: Tensor, seen: Seen | None) -> list[Tensor]:
        """The gradients of the weights."""
        with torch.enable_grad():
            outputs = additive_pass(model, weights, inputs, mixing=True, seen=seen).sum()
            parts = list(weights.values())
            if not outputs.requires_grad:  # the network detaches its outputs: nothing flows
                return [torch.zeros_like(part) for part in parts]
            return list(torch.autograd.grad(outputs, parts, materialize_grads=True))

    ones = torch.ones((1, *input_shape), dtype=torch.float64, device=next(iter(weights.values())).device)
    with hooked(model, masks, count):
        flows = flow(ones, count_projection)
    if _adds_constants(model, masks):
        flows = [one - other for one, other in zip(flows, flow(torch.zeros_like(ones), None), strict=True)]
    found = {n: masks[n] & (gradient != 0) for n, gradient in zip(weights, flows, strict=True)}
    return found, uses


def _adds_constants(model: nn.Module, masks: Masks) -> bool:
    """Whether a network has parameters or buffers of its own that may be added to what comes in."""
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS):
            continue
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            whole = f"{prefix}.{name}" if prefix else name
            if tensor.is_floating_point() and whole not in masks and not name.endswith(("bias", "in_proj_weight")):
                return True
    return False


def _row_mean(mask: Tensor) -> Tensor:
    """The mask with every output's weights summing to 1, so that depth neither over- nor underflows."""
    rows = mask.flatten(1).double()
    return (rows / rows.sum(1, keepdim=True).clamp(min=1)).view(mask.shape)


def _live_size(effective: Tensor, groups: int) -> int:
    """Weights of the layer with the live rows and columns of each of its groups alone."""
    size = 0
    for group in effective.flatten(2).chunk(groups) if effective.dim() > 2 else (effective[..., None],):
        size += int(group.any(2).any(1).sum() * group.any(2).any(0).sum()) * group.shape[2]
    return size
