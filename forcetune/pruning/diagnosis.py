"""What a mask does to a network, known before any training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from forcetune.pruning.masks import Masks, density
from forcetune.pruning.network import untouched


def diagnose(model: nn.Module, masks: Masks, input_shape: tuple[int, ...]) -> dict[str, float]:
    """The metrics of a mask; `input_shape` is one sample's, without the batch.

    density, sparsity: of the masks; effective_density: weights on a path from input to output;
    macs: multiply-adds of one sample with every layer cut down to the input and output channels that
    still carry such a path; macs_fraction: of the dense network's; layers_emptied: layers without a
    weight; collapsed: 1 where no path is left.
    """
    effective, positions = effective_masks(model, masks, input_shape)
    kept = density(masks)
    on_path = density(effective)
    dense = sum(positions[name] * mask.numel() for name, mask in masks.items())
    left = sum(positions[name] * _live_size(mask) for name, mask in effective.items())
    return {
        "density": kept,
        "sparsity": 1 - kept,
        "effective_density": on_path,
        "macs": left,
        "macs_fraction": left / dense if dense else 1.0,  # 0: used by functions alone, which are not counted
        "layers_emptied": sum(not mask.any() for mask in masks.values()),
        "collapsed": float(on_path == 0),
    }


def effective_masks(model: nn.Module, masks: Masks, input_shape: tuple[int, ...]) -> tuple[Masks, dict[str, int]]:
    """The masks less the weights on no path from input to output, and each layer's output positions.

    One pass through the network with weights of mask / (kept in the row), no biases, norms taken away and
    pooling by averages: outputs are then sums over paths of positive terms, so a weight is on a path
    where its gradient is not zero. Exact for networks of such layers with ReLU-like activations (zero
    for zero, growing for positive inputs).
    """
    weights = {n: _row_mean(mask).requires_grad_() for n, mask in masks.items()}
    state = {n: _neutral(n, p) for n, p in model.named_parameters() if n not in weights}
    ones = torch.ones((1, *input_shape), dtype=torch.float64, device=next(iter(weights.values())).device)
    with untouched(model), _output_positions(model, masks) as positions, _Additive(), torch.enable_grad():
        model.eval()
        buffers = {n: b.clone().double() if b.is_floating_point() else b.clone() for n, b in model.named_buffers()}
        outputs = functional_call(model, {**state, **buffers, **weights}, (ones,)).sum()
        flow = torch.autograd.grad(outputs, list(weights.values()), materialize_grads=True)
    found = {n: masks[n] & (g != 0) for n, g in zip(weights, flow, strict=True)}
    return found, positions


def _row_mean(mask: Tensor) -> Tensor:
    """The mask with every output's weights summing to 1, so that depth neither over- nor underflows."""
    rows = mask.flatten(1).double()
    return (rows / rows.sum(1, keepdim=True).clamp(min=1)).view(mask.shape)


def _neutral(name: str, parameter: Tensor) -> Tensor:
    fill = torch.zeros_like if name.endswith("bias") else torch.ones_like
    return fill(parameter, dtype=torch.float64)


def _live_size(effective: Tensor) -> int:
    """Weights of the layer cut down to its live channels; a convolution's columns are (in / groups) channels."""
    rows = effective.flatten(1).any(1).sum()
    columns = effective.any(0).flatten(1).any(1).sum() if effective.dim() > 2 else effective.any(0).sum()
    kernel = effective[0, 0].numel()
    return int(rows * columns * kernel)


@contextmanager
def _output_positions(model: nn.Module, masks: Masks) -> Iterator[dict[str, int]]:
    """How many output positions of one sample each prunable layer computes, counted while a pass runs."""
    positions = dict.fromkeys(masks, 0)

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            channels = 1 if isinstance(module, nn.Conv2d) else -1
            positions[name] += output.numel() // output.shape[channels]

        return hook

    parameters = dict(model.named_parameters())
    names = {id(parameters[name]): name for name in masks}
    hooks = [
        module.register_forward_hook(count(names[id(module.weight)]))
        for module in model.modules()
        if id(getattr(module, "weight", None)) in names
    ]
    try:
        yield positions
    finally:
        for hook in hooks:
            hook.remove()


# What rescales its inputs by all of them together: a path through it is a path past it
_PASS_ON = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "softmax", "log_softmax"}


class _Additive(TorchFunctionMode):
    """Norms and softmax pass their input on, and maxima become means, which every input contributes to."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _PASS_ON:
            return args[0]
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        if name == "adaptive_max_pool2d":
            return functional.adaptive_avg_pool2d(*args[:2])
        if name == "amax":
            return args[0].mean(*args[1:], **kwargs)
        return func(*args, **kwargs)


def _mean_pool(
    inputs: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """The mean over all that a maximum would look at; of a dilated window, over what lies between as well."""
    kernel, spread = torch.tensor(kernel_size).expand(2), torch.tensor(dilation).expand(2)
    window = (spread * (kernel - 1) + 1).tolist()
    return functional.avg_pool2d(inputs, window, stride or kernel_size, padding, ceil_mode)
