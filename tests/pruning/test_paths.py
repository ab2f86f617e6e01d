"""Path eXclusion: its scores of a few weights, worked out by hand, and what it keeps of larger networks."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from forcetune.models import build
from forcetune.pruning import Network, find_masks, mask_steps
from forcetune.pruning.paths import path_exclusion

# Units u = relu(A x) and outputs B u; the second weight of B's first row is pruned: B = ((2, 0), (1, 3)).
# x = (1, 2): A x = (3, -4), so the first unit is open. x' = (2, 1): A x' = (3, 1), so both are.
A, B = [[1.0, 1.0], [2.0, -3.0]], [[2.0, 1.0], [1.0, 3.0]]
B_MASK = torch.tensor([[True, False], [True, True]])
SAMPLES = [[1.0, 2.0], [2.0, 1.0]]


def linear(weight):
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def network(model, *batches):
    net = Network(model.eval(), None, seed=0)
    net.batches = [(torch.tensor(inputs), None) for inputs in batches]
    return net


def chain_scores(model, *batches):
    """Return the scores of a model with layers A and B, whose mask is B_MASK, as numbers."""
    net = network(model, *batches)
    first, last = net.weights
    net.masks[last] = B_MASK
    scores = path_exclusion(net)
    return scores[first].flatten().tolist(), scores[last].flatten().tolist()


# P: the squares are ((1, 1), (4, 9)) and ((4, 0), (1, 9)); for inputs of 1 the units are 2 and 13, P = (8, 2 + 117).
# J: x^2 = (1, 4) and x'^2 = (4, 1) sum to 5, so the units are 5 and 0 for x, 5 and 5 for x'.
#    B's mask adds them up: J = (5, 5) for x and (5, 10) for x', (10, 15) for both.
# R = 8 * 10 + 119 * 15 = 1865.
# theta^2 dR/d(theta^2) in A: the first unit leads to 4 * 10 + 1 * 15 = 55, the second to 9 * 15 = 135;
#    each times its squares: (55, 55), (540, 1215). In B: (4 * 2 * 10, 0), (1 * 2 * 15, 9 * 13 * 15).
SCORES = (
    pytest.approx([55 / 1865, 55 / 1865, 540 / 1865, 1215 / 1865]),
    pytest.approx([80 / 1865, 0, 30 / 1865, 1755 / 1865]),
)


@pytest.mark.parametrize("batches", [[SAMPLES], [SAMPLES[:1], SAMPLES[1:]]], ids=["one batch", "two batches"])
def test_a_chain_with_one_relu(batches):
    assert chain_scores(nn.Sequential(linear(A), nn.ReLU(), linear(B)), *batches) == SCORES


class InPlace(nn.Module):
    """A chain whose ReLU writes into the outputs of a norm, and whose result is not used."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = linear(A), nn.BatchNorm1d(2), linear(B)

    def forward(self, x):
        units = self.norm(self.first(x))
        units.relu_()
        return self.last(units)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(linear(A), nn.BatchNorm1d(2), nn.ReLU(inplace=True), linear(B)),  # A x / sqrt(1 + eps) is as open
        nn.Sequential(linear(A), nn.LeakyReLU(), linear(B)),
        nn.Sequential(linear(A), nn.GELU(), linear(B)),
        nn.Sequential(linear(A), nn.Tanh(), nn.Dropout(), linear(B)),
        InPlace(),
    ],
    ids=["batch norm", "leaky ReLU", "GELU", "tanh", "in place"],
)
def test_other_activations_are_open_where_they_are_positive_and_norms_hand_on(model):
    assert chain_scores(model, SAMPLES) == SCORES


def test_biases_open_units_but_are_on_no_path():
    # A bias of 5 opens the second unit for x too: J = (5, 10) for both samples, (10, 20) together.
    # R = 8 * 10 + 119 * 20 = 2460; A: the first unit leads to 4 * 10 + 1 * 20 = 60, the second to 9 * 20 = 180.
    first = linear(A)
    first.bias = nn.Parameter(torch.tensor([0.0, 5.0]))
    scores, _ = chain_scores(nn.Sequential(first, nn.ReLU(), linear(B)), SAMPLES)
    assert scores == pytest.approx([60 / 2460, 60 / 2460, 720 / 2460, 1620 / 2460])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = linear(A), nn.BatchNorm1d(2), linear(B)

    def forward(self, x):
        return self.last(x + self.norm(self.first(x)).relu())


def test_a_residual_sum():
    # P: the units are 1 + 2 = 3 and 1 + 13 = 14, P = (4 * 3, 1 * 3 + 9 * 14) = (12, 129).
    # J for x alone: the units are 1 + 5 = 6 and 4 + 0 = 4, J = (6, 10). R = 12 * 6 + 129 * 10 = 1362.
    # A: the first unit leads to 4 * 6 + 1 * 10 = 34, the second to 9 * 10 = 90: (34, 34), (360, 810).
    # B: (4 * 3 * 6, 0), (1 * 3 * 10, 9 * 14 * 10). B has all of R, A what is not of the shortcut: 34 * 1 + 90 * 1.
    first, last = chain_scores(Residual(), SAMPLES[:1])
    assert first == pytest.approx([34 / 1362, 34 / 1362, 360 / 1362, 810 / 1362])
    assert last == pytest.approx([72 / 1362, 0, 30 / 1362, 1260 / 1362])
    assert sum(last) == pytest.approx(1)
    assert sum(first) == pytest.approx((1362 - 34 - 90) / 1362)


def test_a_frozen_layer_has_paths_too():
    # J and P are those of the chain, and only B is scored.
    model = nn.Sequential(linear(A), nn.ReLU(), linear(B))
    model[0].weight.requires_grad_(False)
    net = network(model, SAMPLES)
    net.masks["2.weight"] = B_MASK
    assert path_exclusion(net)["2.weight"].flatten().tolist() == SCORES[1]


def test_a_maximum_stays_a_maximum():
    # One row of inputs of 1, 2 and 3 and a weight of 2: P = max(4, 4, 4); the gradient is that of one path.
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d((1, 3)), nn.Flatten())
    model[0].weight.data.fill_(2)
    assert path_exclusion(network(model, [[[[1.0, 2.0, 3.0]]]]))["0.weight"].item() == pytest.approx(1)


def test_a_network_without_an_open_path_has_scores_of_zero():
    scores = path_exclusion(network(nn.Sequential(linear([[-1.0]]), nn.ReLU(), linear([[1.0]])), [[2.0]]))
    assert [score.item() for score in scores.values()] == [0, 0]


# J of the deep chain is 30^250 = 10^369, beyond float64; that of ResNet-56 is 10^119, beyond float32
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_no_score_overflows_in_a_chain_of_250_layers(scale):
    layers = [nn.Linear(30, 30, bias=False) for _ in range(250)]
    net = network(nn.Sequential(*layers), [[scale] * 30, [-3 * scale] * 30])
    for name, score in path_exclusion(net).items():
        assert score.isfinite().all()
        assert score.sum().item() == pytest.approx(1), name


def test_a_batch_that_overflows_and_one_that_does_not_are_added_up():
    # J is 10^369 for inputs v and 10^289 for -v / 10^40, which opens the other units before the last layer.
    torch.manual_seed(0)
    layers = [nn.Linear(30, 30, bias=False) for _ in range(250)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(30, 4, bias=False)).double().eval()
    large = torch.ones(1, 30, dtype=torch.float64)
    last_mask = torch.rand(4, 30) < 0.5

    def last_scores(*batches):
        net = Network(model, None, seed=0)
        net.batches = [(inputs, None) for inputs in batches]
        net.masks["251.weight"] = last_mask
        return path_exclusion(net)["249.weight"]

    both, larger, smaller = last_scores(large, large * -1e-40), last_scores(large), last_scores(large * -1e-40)
    assert torch.allclose(both, larger, rtol=1e-9, atol=0)
    assert not torch.allclose(both, smaller, rtol=1e-2, atol=0)


@pytest.mark.parametrize("model", ["resnet56", "torchvision:resnet50"])
def test_deep_networks_of_default_width(model):
    net = Network(build(model, (3, 32, 32), 10).eval(), None, seed=0)
    net.batches = [(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), None)]
    scores = path_exclusion(net)
    assert all(score.isfinite().all() and score.sum() > 0 for score in scores.values())
    assert all(scores[name].sum().item() == pytest.approx(1) for name in (min(scores), [*scores][-1]))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5))


def draw_batch(seed):
    return torch.randn(20, 16, generator=torch.Generator().manual_seed(seed))


def equal(masks, other_masks):
    return all(torch.equal(mask, other_masks[name]) for name, mask in masks.items())


@pytest.mark.parametrize("targets", [torch.full((20,), 4), torch.full((20,), 99), None])
def test_no_target_is_read(targets):
    masks = find_masks(mlp(), [(draw_batch(0), torch.arange(20) % 5)], "px", 0.1, iterations=5)
    assert equal(find_masks(mlp(), [(draw_batch(0), targets)], "px", 0.1, iterations=5), masks)
    assert equal(find_masks(mlp(), [(draw_batch(0), targets)], "px", 0.1, iterations=5, loss="nll_logits"), masks)


def test_data_change_the_masks_once_the_last_layer_is_sparse():
    steps, other_steps = (
        list(mask_steps(mlp(), [(draw_batch(seed), None)], "px", 0.05, iterations=8)) for seed in (0, 1)
    )
    assert equal(steps[0], other_steps[0])
    assert not equal(steps[-1], other_steps[-1])


def test_attention_is_scored():
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    model = VisionTransformer(**sizes, num_classes=3)
    nn.init.normal_(model.heads.head.weight)  # torchvision sets it to zero
    net = Network(model.eval(), None, seed=0)
    net.batches = [(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), None)]
    assert all(score.isfinite().all() and score.sum() > 0 for score in path_exclusion(net).values())
