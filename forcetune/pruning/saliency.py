"""Saliencies: functions from a network in its current state to a score for each weight; a high score keeps the weight.

In the formulas, theta0 is the dense initial weights, m the mask so far, and g the gradient of the batch-mean loss.
"""

import torch
from torch.func import functional_call

from forcetune.models.preserving import list_tensors
from forcetune.pruning.masks import permuted
from forcetune.pruning.network import Batch, Network, Weights, gradient, mean


def random(net: Network) -> Weights:
    """Return iid uniform scores over all weights: a global random mask."""
    return {
        n: torch.rand(w.shape, generator=net.generator, dtype=torch.float64).to(w.device)
        for n, w in net.weights.items()
    }


def magnitude(net: Network) -> Weights:
    """Return |theta0|."""
    return {name: weight.abs() for name, weight in net.weights.items()}


def connection_sensitivity(net: Network) -> Weights:
    """Return |theta0 * g(theta0 * m)|: SNIP [1810.02340]; iterated, Iterative SNIP and FORCE [2006.09081]."""
    return {name: (net.weights[name] * g).abs() for name, g in net.gradients().items()}


def squared_gradient(net: Network) -> Weights:
    """Return g(theta0 * m)^2, the proxy that the FORCE program calls GraSP-It."""
    return {name: g**2 for name, g in net.gradients().items()}


def gradient_flow(net: Network, temperature: float = 200) -> Weights:
    """Return theta0 * (H g), signed: GraSP [2002.07376].

    Over several batches it is theta0 * ((sum H)(sum g)). The logits are divided by `temperature`.
    """
    weights = net.sparse_weights()
    g = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in net.batches:
        for name, term in gradient(net.batch_loss(weights, batch, temperature), weights).items():
            g[name] += term
    hessian_g = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in net.batches:
        flow = gradient(net.batch_loss(weights, batch, temperature), weights, create_graph=True)
        product = torch.stack([(g[name] * flow[name]).sum() for name in weights]).sum()
        for name, term in gradient(product, weights).items():
            hessian_g[name] += term
    return {name: net.weights[name] * h for name, h in hessian_g.items()}


def fisher(net: Network) -> Weights:
    """Return theta0^2 * h, with h the diagonal of the empirical Fisher matrix [2502.11450].

    h is the mean over samples of the squared gradient, one backward pass for each sample. The model is in eval mode,
    with batch norm's statistics from the same batches.
    """
    weights = net.sparse_weights()
    net.estimate_norm_statistics(weights, (inputs for inputs, _ in net.batches))
    samples = (
        (x, y) for inputs, targets in net.batches for x, y in zip(inputs.split(1), targets.split(1), strict=True)
    )
    h = mean({n: g**2 for n, g in gradient(net.batch_loss(weights, sample), weights).items()} for sample in samples)
    return {name: net.weights[name] ** 2 * h[name] for name in weights}


def gate_sensitivity(net: Network) -> Weights:
    """Return dL/dc, signed, for gates c = 1 on the outputs of each layer, after its bias: SNAP [2006.00896].

    A gate scales a row of the layer's weights and its bias, so dL/dc is the sum of theta * g over both. Pruning ranks
    its absolute value.

    Returns:
        Parameter name of a layer's weight to the derivatives, the mean over the batches, (outputs,).
    """
    sparse_weights = net.sparse_weights()
    biases = net.find_biases()
    parameters = dict(net.model.named_parameters())
    tensors = {**sparse_weights, **{bias: parameters[bias].detach().requires_grad_() for bias in biases.values()}}
    g = mean(gradient(net.batch_loss(tensors, batch), tensors) for batch in net.batches)
    gates = {name: (weight.detach() * g[name]).flatten(1).sum(1) for name, weight in sparse_weights.items()}
    for name, bias in biases.items():
        gates[name] += parameters[bias].detach() * g[bias]
    return gates


def hutchinson(net: Network, draws: int = 8) -> Weights:
    """Return theta0^2 * h, with h Hutchinson's estimate of the Hessian's diagonal [2502.11450].

    h is the mean of v * (H v) over `draws` vectors v of +-1 for each batch. The model is in eval mode, with batch
    norm's statistics from the same batches.
    """
    weights = net.sparse_weights()
    net.estimate_norm_statistics(weights, (inputs for inputs, _ in net.batches))
    h = mean(_curvature(net, weights, batch) for batch in net.batches for _ in range(draws))
    return {name: net.weights[name] ** 2 * h[name] for name in weights}


def _curvature(net: Network, weights: Weights, batch: Batch) -> Weights:
    """Return v * (H v) for a random vector v of +-1."""
    v = {name: net.draw(weight.shape).sign() for name, weight in weights.items()}
    flow = gradient(net.batch_loss(weights, batch), weights, create_graph=True)
    product = torch.stack([(v[name] * flow[name]).sum() for name in weights]).sum()
    return {name: v[name] * hv for name, hv in gradient(product, weights).items()}


def prospective(net: Network, inner_steps: int, inner_lr: float) -> Weights:
    """Return |d L_M / d mask| after M steps of SGD on all parameters from theta0 * m: ProsPr [2202.08132].

    M is `inner_steps`; M = 0 is SNIP. Each inner step, and the loss at the end, takes an equal share of the batches.
    """
    weights = net.sparse_weights()
    other_parameters = {n: p.detach().requires_grad_() for n, p in net.model.named_parameters() if n not in weights}
    batches_per_loss = len(net.batches) // (inner_steps + 1)
    state = {**weights, **other_parameters}
    for step in range(inner_steps):
        batches = net.batches[step * batches_per_loss : (step + 1) * batches_per_loss]
        g = mean(gradient(net.batch_loss(state, batch), state, create_graph=True) for batch in batches)
        state = {name: value - inner_lr * g[name] for name, value in state.items()}
    g = mean(
        gradient(net.batch_loss(state, batch), weights, retain_graph=True)
        for batch in net.batches[inner_steps * batches_per_loss :]
    )
    return {name: (net.weights[name] * g[name]).abs() for name in weights}


def training_dynamics(net: Network, draws: int = 5, samples: int = 128, epsilon: float = 0.01) -> Weights:
    """Return |d/dm of |f(theta * m) - f((theta + epsilon * noise) * m)|^2|: NTK-SAP [2304.02840].

    The score is summed over `draws` draws of the weights, each with `samples` inputs of its own. Inputs and noise are
    standard normal. The weights are permuted within each layer, which keeps the distribution that they were drawn from.
    Batch norm's statistics are those of the unperturbed network.
    """
    masks = {n: m.to(net.weights[n].dtype).requires_grad_() for n, m in net.masks.items()}
    total = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for _ in range(draws):
        inputs = net.draw((samples, *net.sample_shape()))
        weights = {n: permuted(w, net.generator) for n, w in net.weights.items()}
        perturbed_weights = {n: w + epsilon * net.draw(w.shape) for n, w in weights.items()}
        net.estimate_norm_statistics({n: w * masks[n] for n, w in weights.items()}, [inputs])
        outputs, perturbed = (
            net.forward({n: w[n] * masks[n] for n in masks}, inputs) for w in (weights, perturbed_weights)
        )
        for name, g in gradient(((outputs - perturbed) ** 2).sum(), masks).items():
            total[name] += g
    return {name: score.abs() for name, score in total.items()}


def synaptic_flow(net: Network) -> Weights:
    """Return |theta * dR/dtheta|: SynFlow [2006.05467].

    R is the sum of the outputs of the network of absolute values for an input of ones. The pass runs in float64,
    because R is a product over the layers, which leaves float32's range in deep networks.
    """
    absolute = {
        name: tensor.abs().double() if tensor.is_floating_point() else tensor.clone()
        for name, tensor in list_tensors(net.model).items()
    }
    weights = {n: (absolute[n] * net.masks[n]).requires_grad_() for n in net.weights}
    ones = torch.ones((1, *net.sample_shape()), dtype=torch.float64, device=next(iter(weights.values())).device)
    flow = functional_call(net.model, {**absolute, **weights}, (ones,)).sum()
    return {name: (weights[name].detach() * g).abs() for name, g in gradient(flow, weights).items()}
