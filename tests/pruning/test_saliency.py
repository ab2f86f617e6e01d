"""Every saliency of a few weights, worked out by hand."""

import pytest
import torch
from torch import nn

from forcetune.pruning import Network
from forcetune.pruning.saliency import (
    connection_sensitivity,
    fisher,
    gradient_flow,
    hutchinson,
    magnitude,
    prospective,
    random,
    squared_gradient,
    synaptic_flow,
    training_dynamics,
)

# A chain h = a.x, y = b h of four weights a = (3, -1), b = (2, -1). For x = (1, 2): h = 1, y = (2, -1).
# The loss is half the squared error; with e = y - t its gradients are dL/db = e h and dL/da = (e.b) x.
A, B = [[3.0, -1.0]], [[2.0], [-1.0]]
INPUTS = [[1.0, 2.0]]  # x
TARGETS = [[1.0, 0.0]]  # t; e = (1, -1), e.b = 3, so dL/da = (3, 6) and dL/db = (1, -1)


def half_squares(outputs, targets):
    return ((outputs - targets) ** 2).sum() / 2


def linear(*weights):
    layers = [nn.Linear(len(w[0]), len(w), bias=False) for w in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight.data = torch.tensor(w)
    return nn.Sequential(*layers)


def network(*weights, batches=((INPUTS, TARGETS),)):
    net = Network(linear(*weights), half_squares, seed=0)
    net.batches = [(torch.tensor(x), torch.tensor(t)) for x, t in batches]
    return net


def values(scores):
    return [score.flatten().tolist() for score in scores.values()]


def test_magnitude():
    assert values(magnitude(network(A, B))) == [[3, 1], [2, 1]]


def test_random_is_the_next_draw_for_each_layer():
    stream = torch.Generator().manual_seed(0)
    drawn = [torch.rand(2, generator=stream, dtype=torch.float64).tolist() for _ in range(2)]
    assert values(random(network(A, B))) == drawn
    assert drawn[0] != drawn[1]


def test_connection_sensitivity():
    # |theta g|: |3 * 3|, |-1 * 6|, |2 * 1|, |-1 * -1|
    assert values(connection_sensitivity(network(A, B))) == [[9, 6], [2, 1]]


def test_connection_sensitivity_of_a_pruned_weight():
    # Without a1: h = -2, y = (-4, 2), e = (-5, 2), e.b = -12, dL/da = (-12, -24), dL/db = (10, -4).
    # The gradient is the sparse network's, the weight the dense one's: the pruned 3 scores 3 * 12.
    net = network(A, B)
    net.masks["0.weight"] = torch.tensor([[False, True]])
    assert values(connection_sensitivity(net)) == [[36, 24], [20, 4]]


def test_gradients_are_averaged_before_the_absolute_value():
    # For t = (5, -4) the error is e = (-3, 3) and every gradient -3 times the one above, so the mean is -1 times it.
    net = network(A, B, batches=[(INPUTS, TARGETS), (INPUTS, [[5.0, -4.0]])])
    assert values(connection_sensitivity(net)) == [[9, 6], [2, 1]]


def test_squared_gradient():
    assert values(squared_gradient(network(A, B))) == [[9, 36], [1, 1]]


def test_squared_gradient_of_the_sparse_network():
    net = network(A, B)
    net.masks["0.weight"] = torch.tensor([[False, True]])  # the gradients of the pruned chain above
    assert values(squared_gradient(net)) == [[144, 576], [100, 16]]


# One layer W, y = W x = (5, -1) for x = (1, 2): row i has the gradient e_i x and the Hessian x x^T.
W = [[1.0, 2.0], [3.0, -2.0]]


def test_gradient_flow_is_signed():
    # t = (4, 1): e = (1, -2), g = ((1, 2), (-2, -4)), H g = |x|^2 g = 5 g, theta * H g:
    net = network(W, batches=[(INPUTS, [[4.0, 1.0]])])
    assert values(gradient_flow(net, temperature=1)) == [[5, 20, -30, 40]]


def test_gradient_flow_divides_the_logits():
    # Logits y / 2 = (2.5, -0.5), t = (1.5, 1.5): e = (1, -2) again; g halves and H quarters.
    net = network(W, batches=[(INPUTS, [[1.5, 1.5]])])
    assert values(gradient_flow(net, temperature=2)) == [[5 / 8, 20 / 8, -30 / 8, 40 / 8]]


def test_gradient_flow_over_batches_sums_both_factors():
    # x' = (1, 0), t' = (0, 3): y' = (1, 3), e' = (1, 0), g' = ((1, 0), (0, 0)), each row's H' = ((1, 0), (0, 0)).
    # Sums: g = ((2, 2), (-2, -4)), H = ((2, 2), (2, 4)); H g = ((8, 12), (-12, -20)).
    net = network(W, batches=[(INPUTS, [[4.0, 1.0]]), ([[1.0, 0.0]], [[0.0, 3.0]])])
    assert values(gradient_flow(net, temperature=1)) == [[8, 24, -36, 40]]


def test_fisher():
    # Two samples in one batch, those of the two tests above: g = ((1, 2), (-2, -4)) and ((1, 0), (0, 0)).
    # The mean of the squares is ((1, 2), (2, 8)), to be multiplied by theta^2 = ((1, 4), (9, 4)):
    net = network(W, batches=[([*INPUTS, [1.0, 0.0]], [[4.0, 1.0], [0.0, 3.0]])])
    assert values(fisher(net)) == [[1, 8, 18, 32]]


def test_hutchinson_of_a_diagonal_hessian():
    # x = (1, 0): each row's Hessian is ((1, 0), (0, 0)), and v * (H v) its diagonal whatever v is.
    net = network(W, batches=[([[1.0, 0.0]], [[0.0, 3.0]])])
    assert values(hutchinson(net, draws=3)) == [[1, 0, 9, 0]]


def test_hutchinson_of_one_draw_and_of_many():
    # x = (1, 2): each row's Hessian is ((1, 2), (2, 4)), v * (H v) = (1 + 2s, 4 + 2s) with s = v1 v2 = +-1.
    ((a, b, c, d),) = values(hutchinson(network(W), draws=1))  # theta^2 = ((1, 4), (9, 4))
    assert (a, b / 4) in [(3, 6), (-1, 2)]
    assert (c / 9, d / 4) in [(3, 6), (-1, 2)]
    ((a, b, c, d),) = values(hutchinson(network(W), draws=4000))
    assert [a, b / 4, c / 9, d / 4] == pytest.approx([1, 4, 1, 4], abs=0.15)


def make_normed_network(x):
    """Return a network of a batch norm and one weight of 1, to be scored on the inputs x."""
    norm = nn.BatchNorm1d(1, eps=1e-12)
    net = Network(nn.Sequential(norm, *linear([[1.0]])), half_squares, seed=0)
    net.batches = [(torch.tensor(x), torch.zeros(len(x), 1))]
    return net


@pytest.mark.parametrize(("score", "expected"), [(fisher, 0.5), (hutchinson, 1.0)])
def test_batch_norm_is_warmed_up_first(score, expected):
    # Inputs 1 and 5: mean 3, unbiased variance 8, so the norm maps them to -+2/sqrt(8) = -+0.7071.
    # For w = 1 and t = 0 each sample has g = y x = 1/2, and the mean of the squares is 1/4; the Hessian, sum x^2, is 1.
    net = make_normed_network([[1.0], [5.0]])
    value = values(score(net))[0][0]
    assert value == pytest.approx(expected**2 if score is fisher else expected)
    assert net.model[0].running_mean.item() == 0
    assert net.model[0].momentum == 0.1


# For one weight w = 2, x = 1 and t = 0 the loss is w^2 / 2, and a step of SGD with the rate 1/2 halves w.
SINGLE_WEIGHT = [[2.0]]


def test_prospective_without_a_step_is_snip():
    assert values(prospective(network(SINGLE_WEIGHT, batches=[([[1.0]], [[0.0]])]), 0, 0.5)) == [[4]]  # |2 * 2|


def test_prospective_looks_through_the_steps():
    # w1 = w0 / 2: the loss w1^2 / 2 has the gradient w1 / 2 = 1/2 in w0, times theta = 2; two steps leave a quarter.
    batch = ([[1.0]], [[0.0]])
    assert values(prospective(network(SINGLE_WEIGHT, batches=[batch] * 2), 1, 0.5)) == [[1]]
    assert values(prospective(network(SINGLE_WEIGHT, batches=[batch] * 3), 2, 0.5)) == [[1 / 4]]


def test_prospective_gives_each_step_batches_of_its_own():
    # After a step on x = 1 the loss for x = 3 is (3 w1)^2 / 2. Its gradient in w0 is 9 w1 / 2 = 9/2, times theta = 2.
    net = network(SINGLE_WEIGHT, batches=[([[1.0]], [[0.0]]), ([[3.0]], [[0.0]])])
    assert values(prospective(net, 1, 0.5)) == [[9]]


def test_prospective_trains_what_is_not_pruned_too():
    # With a bias b = 0 both have the gradient y = 2, so w1 = 1 and b1 = -1: the output is 0, and the gradient too.
    net = network(SINGLE_WEIGHT, batches=[([[1.0]], [[0.0]])] * 2)
    net.model[0].bias = nn.Parameter(torch.zeros(1))
    assert values(prospective(net, 1, 0.5)) == [[0]]
    assert net.model[0].bias.item() == 0


def test_training_dynamics():
    # From f = w m x to (w + e n) m x the squared change is (e n m x)^2. Its derivative in m is 2 m (e n x)^2, which is
    # summed over x and draws.
    net = network(SINGLE_WEIGHT)
    net.input_shape = (1,)
    scores = values(training_dynamics(net, draws=2, samples=3, epsilon=0.1))
    stream = torch.Generator().manual_seed(0)
    expected = 0
    for _ in range(2):
        x = torch.randn((3, 1), generator=stream)
        torch.randperm(1, generator=stream)  # draws the weights anew
        noise = torch.randn((1, 1), generator=stream)
        expected += 2 * ((0.1 * noise * x) ** 2).sum()
    assert scores == [[pytest.approx(float(expected))]]


def test_training_dynamics_of_a_chain():
    # f = a m1 b m2 x: the change has the factor m1 m2, so both weights score alike, and 0 where one is pruned.
    net = network([[2.0]], [[3.0]])
    net.input_shape = (1,)
    (first,), (second,) = values(training_dynamics(net))
    assert first == pytest.approx(second, rel=1e-3)
    assert first > 0
    net.masks["1.weight"] = torch.tensor([[False]])
    assert values(training_dynamics(net)) == [[0], [0]]


def synflow_net(a=A, b=B):
    model = linear(a, b)
    norm = nn.BatchNorm1d(1, eps=1e-30)
    norm.weight.data.fill_(-2)
    norm.bias.data.fill_(-1)
    norm.running_mean.fill_(-2)
    norm.running_var.fill_(4)
    net = Network(nn.Sequential(model[0], norm, model[1]).eval(), half_squares, seed=0)
    net.input_shape = (2,)
    return net


def test_synaptic_flow():
    # With absolute values h = 3 + 1 = 4, normed (4 - 2) / 2 * 2 + 1 = 3, R = 3 * (2 + 1).
    # b: |b| * 3. a: dR/da = 3 * slope of the norm (2 / 2), times |a|.
    assert values(synaptic_flow(synflow_net())) == [[9, 3], [6, 3]]


def test_synaptic_flow_of_a_sparse_network():
    # Without a1: h = 1, normed (1 - 2) / 2 * 2 + 1 = 0, so nothing flows through b. Pruned weights score 0.
    net = synflow_net()
    net.masks["0.weight"] = torch.tensor([[False, True]])
    assert values(synaptic_flow(net)) == [[0, 3], [0, 0]]


def test_synaptic_flow_does_not_underflow():
    # Four weights of 1e-20 in a row: the product 1e-80 is zero in float32.
    model = linear(*[[[1e-20]]] * 4)
    net = Network(model, half_squares, seed=0)
    net.input_shape = (1,)
    assert values(synaptic_flow(net)) == [[pytest.approx(1e-80, rel=1e-5, abs=0)]] * 4
