"""The static metrics of a mask: its effect on a network, computed before any training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forcetune.pruning.additive import AdditiveMode, ProjectionObserver, additive_pass, forward_hooks
from forcetune.pruning.masks import Masks, density, emptied_channels, prunable

PROJECTIONS_ROW = "attention's projections"  # their name in a table of layers, though they are no layer
REPLACED_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def diagnose(model: nn.Module, masks: Masks, input_shape: tuple[int, ...]) -> dict[str, float]:
    """Return the static metrics of a mask.

    Args:
        model: The network.
        masks: Parameter name to bool tensor, for every prunable weight.
        input_shape: The shape of one sample, without the batch.

    Returns:
        Metric name to value:

        - `density`: The fraction of the prunable weights that the masks keep.
        - `sparsity`: 1 - density.
        - `effective_density`: The fraction of the prunable weights that are kept and lie on a path from input to
          output.
        - `macs`: The multiply-adds of one sample, with every layer cut down to the input and output channels that still
          carry such a path.
        - `macs_fraction`: The multiply-adds as a fraction of the dense network's.
        - `layers_emptied`: The number of layers without a weight.
        - `channels_emptied`: The number of output channels without a weight.
        - `collapsed`: 1 where no path is left, else 0.
    """
    effective, usage = effective_masks(model, masks, input_shape)
    mask_density = density(masks)
    path_density = density(effective)
    macs_dense = usage.projections + usage.macs({name: mask.numel() for name, mask in masks.items()})
    macs_left = usage.macs({name: _live_size(mask, usage.groups[name]) for name, mask in effective.items()})
    macs_left += usage.projections if path_density else 0
    return {
        "density": mask_density,
        "sparsity": 1 - mask_density,
        "effective_density": path_density,
        "macs": macs_left,
        # Only modules are counted: a network that uses its weights in functions alone has macs of 0
        "macs_fraction": macs_left / macs_dense if macs_dense else 1.0,
        "layers_emptied": sum(not mask.any() for mask in masks.values()),
        "channels_emptied": sum(map(emptied_channels, masks.values())),
        "collapsed": float(path_density == 0),
    }


def dense_macs(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return the multiply-adds of one sample in each layer of the dense network.

    Args:
        model: The network.
        input_shape: The shape of one sample, without the batch.

    Returns:
        Name of the layer's weight to multiply-adds. Attention's projections that belong to no layer have one entry
        together.
    """
    weights = {name: weight.detach().double() for name, weight in prunable(model).items()}
    usage = WeightUsage(dict.fromkeys(weights, 0), dict.fromkeys(weights, 1))
    sample = torch.zeros((1, *input_shape), dtype=torch.float64, device=next(iter(weights.values())).device)
    with torch.no_grad(), usage.counting(model, weights) as observe_projection:
        additive_pass(model, weights, sample, AdditiveMode(observe_projection=observe_projection))
    projections = {PROJECTIONS_ROW: usage.projections} if usage.projections else {}
    return {name: weight.numel() * usage.positions[name] for name, weight in weights.items()} | projections


@dataclass
class WeightUsage:
    """The use of the prunable weights by one sample.

    Attributes:
        positions: The number of uses of each weight, by layer.
        groups: The number of groups of each convolution; 1 for other layers.
        projections: The multiply-adds of attention's weights that belong to no layer and are not pruned.
    """

    positions: dict[str, int]
    groups: dict[str, int]
    projections: int = 0

    def macs(self, weights: Mapping[str, int]) -> int:
        """Return the multiply-adds of this number of weights in each layer."""
        return sum(self.positions[name] * count for name, count in weights.items())

    @contextmanager
    def counting(self, model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[ProjectionObserver]:
        """Count each use of these weights, by their names, in the additive passes of the block.

        Yields:
            The `observe_projection` of those passes.
        """
        names = {id(weight): name for name, weight in weights.items()}

        def count_use(name: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
            if not isinstance(module, nn.Conv2d | nn.Linear):  # an embedding with the same weight multiplies nothing
                return
            self.positions[name] += count_positions(module, outputs.shape)
            self.groups[name] = getattr(module, "groups", 1)

        def count_projection(weight: Tensor, vectors: int) -> None:
            if id(weight) in names:
                self.positions[names[id(weight)]] += vectors
            else:
                self.projections += vectors * weight.numel()

        with forward_hooks(model, weights, count_use):
            yield count_projection


def count_positions(layer: nn.Module, output_shape: Sequence[int]) -> int:
    """Return how often a Conv2d or Linear multiplies each of its weights: once at each position of its outputs.

    Args:
        layer: The layer.
        output_shape: The shape of its outputs; channels are the second dimension of a Conv2d, and the last of a Linear.

    Returns:
        The number of positions, over all samples of the batch.
    """
    return math.prod(output_shape) // output_shape[1 if isinstance(layer, nn.Conv2d) else -1]


def effective_masks(model: nn.Module, masks: Masks, input_shape: tuple[int, ...]) -> tuple[Masks, WeightUsage]:
    """Return the masks without the weights on no path from input to output, and the use of the weights by a sample.

    One additive pass with weights of mask / (number kept in the row) decides: a weight is on a path where its gradient
    is not zero. This is exact for networks whose other layers pass values on as ReLU does (zero at zero, growing for
    positive inputs). Where the network adds a constant that it has learned (a class token, a positional embedding), the
    flow without any input is subtracted, because a constant is no path from the input.
    """
    weights = {n: _row_mean(mask).requires_grad_() for n, mask in masks.items()}
    usage = WeightUsage(dict.fromkeys(masks, 0), dict.fromkeys(masks, 1))

    def flow(inputs: Tensor, observe_projection: ProjectionObserver | None) -> list[Tensor]:
        """Return the gradients of the weights."""
        with torch.enable_grad():
            outputs = additive_pass(model, weights, inputs, AdditiveMode(True, observe_projection)).sum()
            leaves = list(weights.values())
            if not outputs.requires_grad:  # the network detaches its outputs: no gradient reaches the weights
                return [torch.zeros_like(leaf) for leaf in leaves]
            return list(torch.autograd.grad(outputs, leaves, materialize_grads=True))

    ones = torch.ones((1, *input_shape), dtype=torch.float64, device=next(iter(weights.values())).device)
    with usage.counting(model, weights) as observe_projection:
        flows = flow(ones, observe_projection)
    if _has_added_constants(model, masks):
        flows = [total - constant for total, constant in zip(flows, flow(torch.zeros_like(ones), None), strict=True)]
    on_path = {n: masks[n] & (gradient != 0) for n, gradient in zip(weights, flows, strict=True)}
    return on_path, usage


def _has_added_constants(model: nn.Module, masks: Masks) -> bool:
    """Return whether a network has parameters or buffers that it may add to its activations."""
    masked = {id(parameter) for name, parameter in model.named_parameters() if name in masks}
    for module in model.modules():
        if isinstance(module, REPLACED_NORMS):
            continue
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            # the rows of an embedding are added whole, also where a layer shares its weight
            is_masked = id(tensor) in masked and not isinstance(module, nn.Embedding)
            if tensor.is_floating_point() and not is_masked and not name.endswith(("bias", "in_proj_weight")):
                return True
    return False


def _row_mean(mask: Tensor) -> Tensor:
    """Return the mask as weights that sum to 1 for each output.

    Without this, the values of a deep network would over- or underflow.
    """
    rows = mask.flatten(1).double()
    return (rows / rows.sum(1, keepdim=True).clamp(min=1)).view(mask.shape)


def _live_size(effective_mask: Tensor, groups: int) -> int:
    """Return the number of weights of the layer, each group cut down to its live rows and columns."""
    size = 0
    for group in effective_mask.flatten(2).chunk(groups) if effective_mask.dim() > 2 else (effective_mask[..., None],):
        size += int(group.any(2).any(1).sum() * group.any(2).any(0).sum()) * group.shape[2]
    return size
