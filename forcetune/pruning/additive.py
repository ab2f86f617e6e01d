"""A pass through a network in which outputs are sums over paths of positive terms."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from forcetune.pruning.network import untouched

Seen = Callable[[Tensor, int], None]  # a weight that a function uses, and for how many vectors


def additive_pass(
    model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, mixing: bool = False, seen: Seen | None = None
) -> Tensor:
    """The outputs in float64 with these prunable weights, no biases, norms taken away, pooling by averages.

    mixing: let a norm or a softmax over several channels hand on what comes in, and to each channel a part of all
    others, as its statistics do; else each channel alone. seen: is told of the weights of attention's projections.
    """
    state = {n: _neutral(n, p) for n, p in model.named_parameters() if n not in weights}
    buffers = {n: b.clone().double() if b.is_floating_point() else b.clone() for n, b in model.named_buffers()}
    with untouched(model), _Additive(mixing, seen):
        model.eval()
        outputs: Tensor = functional_call(model, {**state, **buffers, **weights}, (inputs,))
        return outputs


@contextmanager
def hooked(
    model: nn.Module, names: Iterable[str], hook: Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """While it lasts, `hook(name, module, inputs, outputs)` sees each pass of the modules with these weights.

    What it returns, unless None, takes the place of the outputs.
    """
    parameters = dict(model.named_parameters())
    found = {id(parameters[name]): name for name in names}

    def register(module: nn.Module, name: str) -> Any:
        return module.register_forward_hook(lambda module, inputs, outputs: hook(name, module, inputs[0], outputs))

    modules = [module for module in model.modules() if id(getattr(module, "weight", None)) in found]
    handles = [register(module, found[id(module.weight)]) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _neutral(name: str, parameter: Tensor) -> Tensor:
    fill = torch.zeros_like if name.endswith("bias") else torch.ones_like
    return fill(parameter, dtype=torch.float64)


# What rescales each channel by itself, and what rescales its inputs by all of them together
_PASS_ON = {"batch_norm", "instance_norm"}
_MIXING = {"layer_norm", "group_norm", "rms_norm", "softmax", "log_softmax"}

# Zero for zero and growing, but with flat pieces, where a path would seem to end
_LIKE_RELU = {"relu6", "hardtanh", "silu", "gelu", "hardswish", "elu", "celu", "selu", "mish", "tanh"}

_GATES = {"sigmoid", "hardsigmoid"}


class _Additive(TorchFunctionMode):
    """Norms and softmax pass their input on, maxima become means, gates and bounded activations never saturate."""

    def __init__(self, mixing: bool, seen: Seen | None) -> None:
        super().__init__()
        self._mixing = mixing
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _PASS_ON or (name in _MIXING and not self._mixing):
            return args[0]
        if name in _MIXING:
            return _mix(name, *args, **kwargs)
        if name == "scaled_dot_product_attention":
            return _attend(*args, **kwargs)
        if name == "multi_head_attention_forward":
            return _attend_in_heads(self._seen, *args, **kwargs)
        if name in _LIKE_RELU:
            return functional.relu(args[0]).clone()  # which the next step may overwrite
        if name in _GATES:
            return 1 + torch.log1p(args[0])  # open at zero, as a gate is, and slow enough not to overflow
        if name == "max_pool2d":
            return _mean_pool(*args, **kwargs)
        if name == "adaptive_max_pool2d":
            return functional.adaptive_avg_pool2d(*args[:2])
        if name == "amax":
            return args[0].mean(*args[1:], **kwargs)
        return func(*args, **kwargs)


def _mix(name: str, values: Tensor, *how: Any, **named: Any) -> Tensor:
    """Each channel and the mean of those that it is normalized with."""
    if name == "group_norm":
        groups = values.reshape(len(values), named.get("num_groups", how[0] if how else 1), -1)
        return (groups + groups.mean(2, keepdim=True)).view_as(values)
    if name in ("softmax", "log_softmax"):
        dim = named.get("dim", how[0] if how else None)
        return values + values.mean(-1 if dim is None else dim, keepdim=True)
    last = tuple(range(-len(named.get("normalized_shape", how[0] if how else (0,))), 0))
    mean = values.mean(last, keepdim=True)
    # without a mean that is taken away, a channel that is 0 stays so
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
    """Attention whose weights grow with the scores, slowly enough not to overflow, and are open at zero."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.size(-3) // part.size(-3), -3) for part in (key, value))
    scores = torch.log1p(query @ key.transpose(-2, -1))
    seen = torch.ones_like(scores)
    if is_causal:
        seen = seen.tril()
    if attn_mask is not None:
        seen = seen * (attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf)
    each = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    return ((1 + scores + (scores * each).sum(-1, keepdim=True)) * each) @ value


def _attend_in_heads(
    told: Seen | None,
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
    **others: Any,
) -> tuple[Tensor, None]:
    """`nn.MultiheadAttention`, whose projections are no layers: (length, batch, channels) in and out."""
    apart = [part for part in (q_proj_weight, k_proj_weight, v_proj_weight) if part is not None]
    parts = apart if in_proj_weight is None else in_proj_weight.chunk(3)
    sources = [part if part.dim() == 3 else part[:, None] for part in (query, key, value)]
    projected = [functional.linear(source, part) for source, part in zip(sources, parts, strict=True)]
    queries, keys, values = (
        part.reshape(len(part), -1, num_heads, part.shape[2] // num_heads).permute(1, 2, 0, 3) for part in projected
    )
    mask = attn_mask
    if mask is not None and mask.dim() == 3:
        mask = mask.view(-1, num_heads, *mask.shape[1:])
    mixed = _attend(queries, keys, values, mask).permute(2, 0, 1, 3).flatten(2)
    outputs = functional.linear(mixed, out_proj_weight)
    if told:
        for weight, source in [*zip(parts, sources, strict=True), (out_proj_weight, mixed)]:
            told(weight, source.shape[0] * source.shape[1])
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
    """The mean over all that a maximum would look at; of a dilated window, over what lies between as well."""
    kernel, spread = torch.tensor(kernel_size).expand(2), torch.tensor(dilation).expand(2)
    window = (spread * (kernel - 1) + 1).tolist()
    return functional.avg_pool2d(inputs, window, stride or kernel_size, padding, ceil_mode, count_include_pad=False)
