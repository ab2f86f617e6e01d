"""A forward pass in which every output is a sum over paths of positive terms."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from forcetune.models.preserving import preserve_model

ProjectionObserver = Callable[[Tensor, int], None]  # of a projection's weight and the vectors that it multiplies


def additive_pass(
    model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, mode: "AdditiveMode | None" = None
) -> Tensor:
    """Run a forward pass in which every output is a sum over paths of positive terms.

    The model runs in eval mode. Biases are 0 and the other parameters outside `weights` are 1. The modes of the model
    and torch's random state are restored.

    Args:
        model: The network.
        weights: Parameter name to tensor of the inputs' type, for the prunable weights.
        inputs: A batch of inputs; their type is that of the pass.
        mode: What the network's functions compute; None for `AdditiveMode()`.

    Returns:
        The outputs of the network.
    """
    state = {n: _neutral(n, p, inputs.dtype) for n, p in model.named_parameters() if n not in weights}
    buffers = {n: b.clone().to(inputs.dtype) if b.is_floating_point() else b.clone() for n, b in model.named_buffers()}
    with preserve_model(model), mode or AdditiveMode():
        model.eval()
        outputs: Tensor = functional_call(model, {**state, **buffers, **weights}, (inputs,))
        return outputs


@contextmanager
def forward_hooks(
    model: nn.Module, names: Iterable[str], hook: Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `hook(name, module, inputs, outputs)` in each forward pass of the modules with these weights.

    The hooks are removed at the end of the block.

    Args:
        model: The network.
        names: The parameter names of the weights.
        hook: A function of a weight's name, its module, the module's first input and its outputs. Its result replaces
            the outputs, unless it is None.
    """
    parameters = dict(model.named_parameters())
    names_by_id = {id(parameters[name]): name for name in names}

    def register(module: nn.Module, name: str) -> Any:
        return module.register_forward_hook(lambda module, inputs, outputs: hook(name, module, inputs[0], outputs))

    modules = [module for module in model.modules() if id(getattr(module, "weight", None)) in names_by_id]
    handles = [register(module, names_by_id[id(module.weight)]) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _neutral(name: str, parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """Return zeros for a bias and ones for any other parameter."""
    fill = torch.zeros_like if name.endswith("bias") else torch.ones_like
    return fill(parameter, dtype=dtype)


# The first set normalizes each channel by itself, the second each value by several channels together
CHANNEL_NORMS = {"batch_norm", "instance_norm"}
MIXING_FUNCTIONS = {"layer_norm", "group_norm", "rms_norm", "softmax", "log_softmax"}

# These are 0 at 0 and grow, but a path would seem to end in their flat pieces: ReLU replaces them
RELU_LIKE = {"relu6", "hardtanh", "silu", "gelu", "hardswish", "elu", "celu", "selu", "mish", "tanh"}

_GATES = {"sigmoid", "hardsigmoid"}


class AdditiveMode(TorchFunctionMode):
    """A mode in which norms and softmax hand their input on, maxima become means, and no activation saturates.

    Args:
        mixing: Whether a norm or a softmax over several channels adds to each channel a share of the others, as its
            statistics do. Otherwise it hands each channel on alone.
        observe_projection: A function that is called with each weight of attention's projections and with the number of
            vectors that the weight multiplies.
    """

    def __init__(self, mixing: bool = False, observe_projection: ProjectionObserver | None = None) -> None:
        super().__init__()
        self._mixing = mixing
        self._observe_projection = observe_projection

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in CHANNEL_NORMS or (name in MIXING_FUNCTIONS and not self._mixing):
            return args[0]
        if name in MIXING_FUNCTIONS:
            return _mix(name, *args, **kwargs)
        if name == "scaled_dot_product_attention":
            return _attend(*args, **kwargs)
        if name == "multi_head_attention_forward":
            return _attend_in_heads(self._observe_projection, *args, **kwargs)
        if name in RELU_LIKE:
            return functional.relu(args[0]).clone()  # a copy, because the next operation may write in place
        if name in _GATES:
            # Positive at zero, as a gate is, and too slow to overflow; a buffer may bring in values below zero
            return 1 + torch.log1p(args[0].clamp(min=0))
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        if name == "adaptive_max_pool2d":
            return functional.adaptive_avg_pool2d(*args[:2])
        if name == "amax":
            return args[0].mean(*args[1:], **kwargs)
        return func(*args, **kwargs)


def _mix(name: str, values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return each channel with a share of the channels that it is normalized with."""
    if name == "group_norm":
        groups = values.reshape(len(values), kwargs.get("num_groups", args[0] if args else 1), -1)
        return (groups + groups.mean(2, keepdim=True)).view_as(values)
    if name in ("softmax", "log_softmax"):
        dim = kwargs.get("dim", args[0] if args else None)
        return values + values.mean(-1 if dim is None else dim, keepdim=True)
    normalized_axes = tuple(range(-len(kwargs.get("normalized_shape", args[0] if args else (0,))), 0))
    mean = values.mean(normalized_axes, keepdim=True)
    # RMS norm subtracts no mean, so a channel that is 0 stays 0
    return values * (1 + torch.log1p(mean)) if name == "rms_norm" else values + mean


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return attention whose weights grow with the scores, too slowly to overflow, and are positive at zero."""
    if enable_gqa:
        key, value = (heads.repeat_interleave(query.size(-3) // heads.size(-3), -3) for heads in (key, value))
    scores = torch.log1p(query @ key.transpose(-2, -1))
    visible = torch.ones_like(scores)
    if is_causal:
        visible = visible.tril()
    if attn_mask is not None:
        visible = visible * (attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf)
    uniform = visible / visible.sum(-1, keepdim=True).clamp(min=1)
    return ((1 + scores + (scores * uniform).sum(-1, keepdim=True)) * uniform) @ value


def _attend_in_heads(
    observe_projection: ProjectionObserver | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    *_: Any,
    attn_mask: Tensor | None = None,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Return the outputs of `nn.MultiheadAttention`, (length, batch, channels); its projections are no layers."""
    separate_weights = [tensor for tensor in (q_proj_weight, k_proj_weight, v_proj_weight) if tensor is not None]
    projection_weights = separate_weights if in_proj_weight is None else in_proj_weight.chunk(3)
    sources = [tensor if tensor.dim() == 3 else tensor[:, None] for tensor in (query, key, value)]
    projected = [functional.linear(source, tensor) for source, tensor in zip(sources, projection_weights, strict=True)]
    queries, keys, values = (
        tensor.reshape(len(tensor), -1, num_heads, tensor.shape[2] // num_heads).permute(1, 2, 0, 3)
        for tensor in projected
    )
    mask = attn_mask
    if mask is not None and mask.dim() == 3:
        mask = mask.view(-1, num_heads, *mask.shape[1:])
    mixed = _attend(queries, keys, values, mask).permute(2, 0, 1, 3).flatten(2)
    outputs = functional.linear(mixed, out_proj_weight)
    if observe_projection:
        for weight, source in [*zip(projection_weights, sources, strict=True), (out_proj_weight, mixed)]:
            observe_projection(weight, source.shape[0] * source.shape[1])
    return (outputs if query.dim() == 3 else outputs[:, 0]), None


def _mean_pool(
    inputs: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Return the mean over each window of a maximum; a dilated window includes the positions in between."""
    kernel, dilations = torch.tensor(kernel_size).expand(2), torch.tensor(dilation).expand(2)
    window = (dilations * (kernel - 1) + 1).tolist()
    return functional.avg_pool2d(inputs, window, stride or kernel_size, padding, ceil_mode, count_include_pad=False)
