"""Path eXclusion, PX [2406.01820]: the share of each weight in a bound on the trace of the neural tangent kernel."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from forcetune.pruning.additive import CHANNEL_NORMS, MIXING_FUNCTIONS, RELU_LIKE, AdditiveMode, additive_pass
from forcetune.pruning.network import Network, Weights, gradient

ACTIVATIONS = RELU_LIKE | {"relu", "leaky_relu", "prelu", "rrelu", "softplus", "threshold"}
MAXIMA = {"max_pool2d", "adaptive_max_pool2d", "amax"}

# Outputs of a network whose weights are 1 grow up to some thousand times in each layer. Those of ResNet-152 overflow
# float64 at inputs of 1, and not at inputs of this size, which leaves digits to inputs that are small themselves
SMALL_INPUT_SCALE = 2.0**-800


def path_exclusion(net: Network) -> Weights:
    """Return |theta^2 * dR/d(theta^2)| / R: Path eXclusion [2406.01820].

    R is the sum of P(1) * J(x^2) over the outputs and over the samples x of all batches. P is the network of squared
    weights theta^2 * m, in which activations hand their input on. J is the network of weights 1 * m, in which an
    activation hands its input on where that of the network theta * m is open on x, and outputs 0 elsewhere. R is
    differentiated through P alone. No target is read.

    - P is the same for all samples, so the data give R one weight for each output: the sum of J over the samples. These
      weights are equal while the last layer is dense.
    - A ReLU is open where its output is positive. Activations of other kinds follow the same rule (leaky ReLU, GELU,
      tanh and others). An activation that is written as other operations (`clamp`) is always open.
    - In P and J, biases are 0, norms hand their input on, maxima stay maxima, and gates and attention are those of an
      additive pass. Other parameters, which are not pruned, are squared in P and 1 in J.
    - In a layer through which all paths lead, the scores sum to 1. R itself leaves the range of floats in deep
      networks. To divide by it changes no ranking, because it is the same number for all weights.

    The authors' program computes in float32 and keeps the norms, and its published versions differ. One of them runs P
    and J in train mode, so that each layer's squared weights are normalized again, and recognizes layers by name: what
    is called `bn` or `fc` keeps its weights, and all else is squared in P and 1 in J, norms and their statistics too
    where their name is another. A second version runs P in eval mode and squares the gradient of each batch.
    """
    weights = {n: (w.double() ** 2 * net.masks[n]).requires_grad_() for n, w in net.weights.items()}
    unpruned = {
        n: p.detach().double() ** 2
        for n, p in net.model.named_parameters()
        if n not in weights and not n.endswith("bias")
    }
    activity = _activity(net)
    sample = torch.ones((1, *net.batches[0][0].shape[1:]), dtype=torch.float64, device=activity.device)

    def bound(_: torch.dtype, input_scale: float) -> Tensor:
        return (additive_pass(net.model, {**unpruned, **weights}, sample * input_scale, _PathMode()) * activity).sum()

    r, _ = _in_range(bound, torch.float64)
    if r == 0:  # no path is open
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    shares = gradient(r / r.detach(), weights)
    return {name: (weights[name].detach() * share).abs() for name, share in shares.items()}


def _activity(net: Network) -> Tensor:
    """Return J(x^2), summed over the samples of all batches and divided by its maximum, (1, outputs)."""
    with torch.no_grad():
        sums, input_scales = zip(*(_sum_activity(net, inputs) for inputs, _ in net.batches), strict=True)
        smallest = min(input_scales)
        activity: Tensor = sum(total * (smallest / scale) for total, scale in zip(sums, input_scales, strict=True))
        return activity / activity.abs().max().clamp(min=torch.finfo(torch.float64).tiny)


def _sum_activity(net: Network, inputs: Tensor) -> tuple[Tensor, float]:
    """Return J(scale * x^2), summed over the samples of a batch, float64, and the scale."""
    weight = next(iter(net.weights.values()))
    with _PatternRecorder() as recorder:
        net.forward({name: theta * net.masks[name] for name, theta in net.weights.items()}, inputs)

    def total(dtype: torch.dtype, input_scale: float) -> Tensor:
        masks = {name: mask.to(dtype) for name, mask in net.masks.items()}
        squares = inputs.to(weight.device, dtype) ** 2
        outputs = additive_pass(net.model, masks, squares * input_scale, _PathMode(iter(recorder.patterns)))
        return outputs.sum(0, keepdim=True, dtype=torch.float64)

    # Sums of positive numbers lose few digits, so the network's type does where it holds them, and is the faster one
    return _in_range(total, weight.dtype, torch.float64)


def _in_range(outputs: Callable[[torch.dtype, float], Tensor], *dtypes: torch.dtype) -> tuple[Tensor, float]:
    """Return the outputs of a pass, in the first of the types that holds them, and the scale of its inputs.

    The scale is 1 unless the outputs overflow in all types. The outputs of P and J are proportional to their inputs
    (but for gates, attention and constants that the network adds), so a scale is one factor of R, and R is divided out.
    """
    for dtype in dtypes:
        unscaled = outputs(dtype, 1.0)
        if unscaled.isfinite().all():
            return unscaled, 1.0
    return outputs(torch.float64, SMALL_INPUT_SCALE), SMALL_INPUT_SCALE


class _PatternRecorder(TorchFunctionMode):
    """A mode that records where the outputs of an activation are positive.

    Attributes:
        patterns: The pattern of each call of an activation, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patterns: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if _is_activation(func):
            self.patterns.append(outputs > 0)
        return outputs


class _PathMode(AdditiveMode):
    """An additive mode with maxima, in which activations hand their input on where their pattern is open.

    Args:
        patterns: The patterns of the activations, in the order of their calls; without them all activations are open.
    """

    def __init__(self, patterns: Iterator[Tensor] | None = None) -> None:
        super().__init__()
        self._patterns = patterns

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "softmax":
            return _gate_attention(*args, **kwargs)
        # The results are copies, because the next operation may write in place
        if name in CHANNEL_NORMS or name in MIXING_FUNCTIONS:
            return args[0].clone()
        if _is_activation(func):
            in_place = name.endswith("_") or kwargs.get("inplace", False)
            if self._patterns is None:
                return args[0] if in_place else args[0].clone()
            pattern = next(self._patterns)
            return args[0].mul_(pattern) if in_place else args[0] * pattern
        if name in MAXIMA:
            return func(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)


def _gate_attention(scores: Tensor, dim: int | None = None, *_: Any, **unused: Any) -> Tensor:
    """Return attention that grows with scores, too slowly to overflow, and is 0 where a mask makes them negative."""
    visible = scores >= 0
    return (1 + torch.log1p(scores.clamp(min=0))) * visible / visible.sum(-1 if dim is None else dim, True).clamp(min=1)


def _is_activation(func: Any) -> bool:
    return getattr(func, "__name__", "").removesuffix("_") in ACTIVATIONS
