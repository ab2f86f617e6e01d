"""Saliencies: one small function each, from the network as it stands to a score a weight; high = keep.

theta0: dense initial weights; m: the mask so far; g: gradient of the batch-mean loss.
"""

import torch
from torch.func import functional_call

from forcetune.errors import InputError
from forcetune.pruning.network import Network, Weights, gradient


def random(net: Network) -> Weights:
    """iid uniform over all weights: the global random mask."""
    return {
        n: torch.rand(w.shape, generator=net.generator, dtype=torch.float64).to(w.device)
        for n, w in net.weights.items()
    }


def magnitude(net: Network) -> Weights:
    """|theta0|"""
    return {name: weight.abs() for name, weight in net.weights.items()}


def connection_sensitivity(net: Network) -> Weights:
    """|theta0 * g(theta0 * m)|: SNIP [1810.02340]; iterated, Iterative SNIP and FORCE [2006.09081]."""
    return {name: (net.weights[name] * g).abs() for name, g in net.gradients().items()}


def squared_gradient(net: Network) -> Weights:
    """g(theta0 * m)^2, the proxy that the FORCE program calls GraSP-It."""
    return {name: g**2 for name, g in net.gradients().items()}


def gradient_flow(net: Network, temperature: float = 200) -> Weights:
    """theta0 * (H g), signed: GraSP [2002.07376]; over several batches theta0 * ((sum H)(sum g))."""
    weights = net.sparse_weights()
    g = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in net.batches:
        for name, part in gradient(net.batch_loss(weights, batch, temperature), weights).items():
            g[name] += part
    hessian_g = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in net.batches:
        flow = gradient(net.batch_loss(weights, batch, temperature), weights, create_graph=True)
        product = torch.stack([(g[name] * flow[name]).sum() for name in weights]).sum()
        for name, part in gradient(product, weights).items():
            hessian_g[name] += part
    return {name: net.weights[name] * h for name, h in hessian_g.items()}


def synaptic_flow(net: Network) -> Weights:
    """|theta * dR/dtheta|, R the summed outputs of the network of absolute values for an input of ones [2006.05467].

    In float64: R is a product over the layers, which leaves float32's range in deep networks.
    """
    state = {**dict(net.model.named_parameters()), **dict(net.model.named_buffers())}
    absolute = {n: t.detach().abs().double() if t.is_floating_point() else t.clone() for n, t in state.items()}
    weights = {n: (absolute[n] * net.masks[n]).requires_grad_() for n in net.weights}
    ones = torch.ones((1, *_input_shape(net)), dtype=torch.float64, device=next(iter(weights.values())).device)
    flow = functional_call(net.model, {**absolute, **weights}, (ones,)).sum()
    return {name: (weights[name].detach() * g).abs() for name, g in gradient(flow, weights).items()}


def _input_shape(net: Network) -> tuple[int, ...]:
    if net.input_shape is not None:
        return net.input_shape
    first = next(iter(net.weights.values()))
    if first.dim() == 2:
        return (first.shape[1],)
    raise InputError(
        "synflow asks for the shape of an input and the first layer is a convolution, which fits any height "
        "and width: give one batch (its values are not used)"
    )
