"""The static metrics of masks, counted by hand."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from forcetune.models import build
from forcetune.pruning import dense_macs, diagnose, prunable


def dense(model):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}


def empty(model):
    return {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}


def make_perceptron(*masks):
    """Return a perceptron and its masks, given as a matrix of 0 and 1 for each layer, outputs x inputs."""
    layers = [layer for mask in masks for layer in (nn.Linear(len(mask[0]), len(mask)), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), {
        f"{2 * i}.weight": torch.tensor(matrix).bool() for i, matrix in enumerate(masks)
    }


def test_weights_on_no_path_do_not_count():
    # x0 -> h0 -> o0 is the only path. h1 has no input, so h1 -> o0 and h1 -> o1 are dead; h2 has no output,
    # so x0 -> h2 and x1 -> h2 are.
    model, masks = make_perceptron([[1, 0], [0, 0], [1, 1]], [[1, 1, 0], [0, 1, 0]])
    metrics = diagnose(model, masks, (2,))
    assert metrics == {
        "density": 6 / 12,
        "sparsity": 6 / 12,
        "effective_density": pytest.approx(2 / 12),
        "macs": 2,  # one input to one hidden, one hidden to one output
        "macs_fraction": 2 / 12,
        "layers_emptied": 0,
        "channels_emptied": 1,  # h1
        "collapsed": 0,
    }


def test_no_path_is_a_collapse_though_every_layer_has_weights():
    model, masks = make_perceptron([[1, 1], [0, 0]], [[0, 1], [0, 1]])
    metrics = diagnose(model, masks, (2,))
    assert (metrics["effective_density"], metrics["macs"], metrics["collapsed"]) == (0, 0, 1)
    assert (metrics["density"], metrics["layers_emptied"]) == (0.5, 0)


def test_the_values_of_weights_and_biases_do_not_matter():
    model, masks = make_perceptron([[1, 1], [1, 1]], [[1, 1]])
    with torch.no_grad():
        model[0].weight.fill_(-1.0)  # every hidden unit is closed
        model[0].bias.fill_(-9.0)
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))  # and their outputs cancel
    assert diagnose(model, masks, (2,))["effective_density"] == 1


def test_biases_are_no_paths():
    model, masks = make_perceptron([[0, 0], [0, 0]], [[1, 1]])
    assert model[0].bias is not None
    assert diagnose(model, masks, (2,))["collapsed"] == 1


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)])
def test_all_that_a_pool_sees_contributes(pool):
    # On 2x2 pixels the kernel's first corner reads a pixel at the last position only, its last corner at the first:
    # one maximum over both would make one of them look dead.
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), pool, nn.Flatten(), nn.Linear(1, 1))
    masks = dense(model)
    masks["0.weight"] = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    masks["0.weight"][0, 0, 0, 0] = masks["0.weight"][0, 0, 2, 2] = True
    assert diagnose(model, masks, (1, 2, 2))["effective_density"] == pytest.approx(3 / 10)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2, ceil_mode=True)])
def test_a_pool_keeps_its_size(pool):
    # The linear layer expects 5x5 -> 3x3: without stride, padding or rounding up the sizes would not fit
    model = nn.Sequential(pool, nn.Flatten(), nn.Linear(9, 1))
    assert diagnose(model, dense(model), (1, 5, 5))["macs"] == 9


def test_weights_that_only_see_padding_are_on_no_path():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(1, 1))
    assert diagnose(model, dense(model), (1, 1, 1))["effective_density"] == pytest.approx(2 / 10)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2), nn.LayerNorm([2, 4, 4])])
def test_norms_close_no_path(norm):
    # The statistics of a norm would map the input of ones to zero or below, where the ReLU is closed
    if isinstance(norm, nn.BatchNorm2d):
        norm.running_mean.fill_(100.0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    assert diagnose(model, dense(model), (1, 4, 4))["effective_density"] == 1


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Softmax(1)])
def test_a_last_softmax_closes_no_path(last):
    # Its outputs sum to a constant, whatever the inputs are
    model = nn.Sequential(nn.Linear(3, 2), last)
    assert diagnose(model, dense(model), (3,))["effective_density"] == 1


def test_a_root_mean_square_norm_closes_no_path():
    model = nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2))
    assert diagnose(model, dense(model), (3,))["effective_density"] == 1


def test_a_shortcut_leads_around_an_emptied_block():
    # The first block has no projection. Its second convolution is emptied, so its first one is a dead end.
    model = build("resnet8", (1, 8, 8), 10, width=2)
    masks = dense(model)
    masks["3.conv2.weight"][:] = False
    metrics = diagnose(model, masks, (1, 8, 8))
    total = sum(mask.numel() for mask in masks.values())
    assert metrics["effective_density"] == pytest.approx((total - 2 * 2 * 2 * 9) / total)
    assert (metrics["layers_emptied"], metrics["collapsed"]) == (1, 0)


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_one_emptied_layer_ends_a_vgg(layer):
    model = build("vgg_small", (1, 8, 8), 10, width=2)
    masks = dense(model)
    [*masks.values()][layer][:] = False
    metrics = diagnose(model, masks, (1, 8, 8))
    assert (metrics["collapsed"], metrics["effective_density"], metrics["macs"]) == (1, 0, 0)
    assert metrics["layers_emptied"] == 1
    assert metrics["density"] > 0


def test_an_empty_mask():
    model, masks = make_perceptron([[0, 0]], [[0]])
    metrics = diagnose(model, masks, (2,))
    assert (metrics["density"], metrics["sparsity"], metrics["layers_emptied"], metrics["collapsed"]) == (0, 1, 2, 1)


def test_depth_neither_over_nor_underflows():
    # Inputs of 1 would grow to 40 ** 200, and a dead unit would become infinity times zero
    model = nn.Sequential(*[layer for _ in range(200) for layer in (nn.Linear(40, 40), nn.ReLU())])
    masks = dense(model)
    masks["2.weight"][:, 0] = False  # the first unit leads nowhere, so its 40 weights are dead
    assert diagnose(model, masks, (40,))["effective_density"] == pytest.approx(1 - 80 / (200 * 1600), abs=1e-12)


def test_dropout_closes_no_path():
    model = nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.9), nn.Linear(20, 2)).train()
    assert diagnose(model, dense(model), (20,))["effective_density"] == 1


def test_macs_of_a_convolution_with_a_stride():
    # 8x8 -> 4x4: 16 positions. Filter 0 reads channel 1 through one weight; position 5 of it leads to output 2.
    model = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(64, 3))
    masks = empty(model)
    masks["0.weight"][0, 1, 1, 1] = True
    masks["2.weight"][2, 5] = True
    metrics = diagnose(model, masks, (2, 8, 8))
    # Live channels alone count: 1 filter x 1 channel x 9 weights of a kernel at 16 positions, and 1 x 1
    assert metrics["macs"] == 16 * 9 + 1
    assert metrics["macs_fraction"] == (16 * 9 + 1) / (16 * 4 * 2 * 9 + 64 * 3)
    assert metrics["effective_density"] == pytest.approx(2 / (72 + 192))


def test_macs_of_a_grouped_convolution():
    # Two groups of 2 inputs and 2 filters; filters 0 and 2, one of each group, read the first input of their group.
    grouped = nn.Conv2d(4, 4, 3, groups=2, padding=1)
    model = nn.Sequential(grouped, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    masks = dense(model)
    masks["0.weight"][:] = False
    masks["0.weight"][[0, 2], 0] = True
    metrics = diagnose(model, masks, (4, 4, 4))
    assert metrics["macs"] == 16 * (2 * 1 * 9) + 2 * 2
    assert metrics["macs_fraction"] == metrics["macs"] / (16 * 4 * 2 * 9 + 4 * 2)


class Twice(nn.Module):
    """A layer that is used twice, or two layers with one weight."""

    def __init__(self, layers):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first if layers == 1 else nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize("layers", [1, 2])
def test_macs_of_a_weight_used_twice(layers):
    model = Twice(layers)
    assert diagnose(model, dense(model), (3,))["macs"] == 2 * 9


class Counting(nn.Module):
    """A network that writes to its buffers whenever it is called, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        self.seen += x.detach().sum(0)
        return self.layer(x)


def used_resnet():
    model = build("resnet8", (1, 8, 8), 10, width=2)
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    return model


@pytest.mark.parametrize(("make", "shape"), [(used_resnet, (1, 8, 8)), (Counting, (3,))])
def test_the_model_is_left_as_it_was(make, shape, snapshot):
    model = make()
    masks, before = dense(model), snapshot(model)
    diagnose(model, masks, shape)
    assert snapshot(model) == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(mask.dtype == torch.bool and mask.all() for mask in masks.values())


class GlobalMaximum(nn.Module):
    def forward(self, x):
        return x.amax((2, 3))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(3, stride=1, padding=1), nn.Identity()])
def test_maxima_of_every_kind_close_no_path(pool):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), pool, GlobalMaximum(), nn.Linear(2, 2))
    assert diagnose(model, dense(model), (1, 6, 6))["effective_density"] == 1


class ByFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight)


def test_a_layer_used_by_a_function_is_on_a_path_but_not_counted():
    model = ByFunction()
    metrics = diagnose(model, dense(model), (3,))
    assert (metrics["effective_density"], metrics["macs"], metrics["macs_fraction"]) == (1, 0, 1)


class Gated(nn.Module):
    """Squeeze and excitation: a gate from the mean of the channels, which a sigmoid keeps open at zero."""

    def __init__(self, gate):
        super().__init__()
        self.stem, self.gate, self.out = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.activation = gate

    def forward(self, x):
        x = nn.functional.relu6(self.stem(x * 1000))
        x = x * self.activation(self.gate(x.mean((2, 3), keepdim=True)))
        return self.out(x.mean((2, 3)))


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()])
def test_gates_and_bounded_activations_do_not_cut_paths(gate):
    model = Gated(gate)
    assert diagnose(model, dense(model), (1, 2, 2))["effective_density"] == 1
    masks = dense(model)
    masks["gate.weight"][:] = False
    assert diagnose(model, masks, (1, 2, 2))["effective_density"] == pytest.approx(9 / 18), "stem and out are left"


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh, nn.ELU, nn.Mish])
def test_activations_that_saturate_or_are_flat(activation):
    model = nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(8, 8), activation())), nn.Linear(8, 2))
    assert diagnose(model, dense(model), (8,))["effective_density"] == 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_v2_s", "regnet_y_400mf", "densenet121"])
def test_torchvisions_networks_are_alive_unpruned(name):
    model = build(f"torchvision:{name}", (1, 96, 96), 10)
    assert diagnose(model, dense(model), (1, 96, 96))["effective_density"] == 1


def test_dense_macs_by_layer():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    assert dense_macs(model, (2, 4, 4)) == {"0.weight": 2 * 3 * 9 * 16, "3.weight": 48 * 5}


def test_macs_of_groups_that_are_dead_in_part():
    # One filter of the first group reads one input, both filters of the second read both: 1 + 4, not 3 rows x 2 columns
    grouped = nn.Conv2d(4, 4, 1, groups=2)
    model = nn.Sequential(grouped, nn.Flatten(), nn.Linear(4 * 4, 2))
    masks = dense(model)
    masks["0.weight"][1] = False
    masks["0.weight"][0, 1] = False
    assert diagnose(model, masks, (4, 2, 2))["macs"] == 4 * (1 + 4) + 12 * 2


def measure_influence(model, masks, shape):
    """Return the share of the weights whose change changes an output, with the model's values, in eval mode."""
    torch.manual_seed(1)
    model = model.double().eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
        samples = torch.randn(4, *shape, dtype=torch.float64)
        outputs, count = model(samples), 0
        for name, mask in masks.items():
            for index in mask.flatten().nonzero().flatten():
                weight = parameters[name].view(-1)
                weight[index] += 0.5
                count += not torch.allclose(model(samples), outputs, rtol=0, atol=1e-12)
                weight[index] -= 0.5
    return count / sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.Softmax(1)])
def test_a_norm_over_channels_is_a_path_from_each_to_all(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.Linear(6, 3))
    for _ in range(5):
        masks = {name: torch.rand(weight.shape) < 0.4 for name, weight in prunable(model).items()}
        masks["2.weight"][:, 3:] = False  # only the norm reads the second half
        assert diagnose(model, masks, (4,))["effective_density"] == pytest.approx(measure_influence(model, masks, (4,)))


def test_a_root_mean_square_norm_reaches_units_that_are_not_zero():
    # The last layer reads hidden units 0 and 2. Unit 1 changes unit 0 in the norm; unit 2, without weights, stays 0
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.RMSNorm(3), nn.Linear(3, 1))
    masks = {"0.weight": torch.tensor([[1, 0], [1, 1], [0, 0]]).bool(), "2.weight": torch.tensor([[1, 0, 1]]).bool()}
    assert (
        diagnose(model, masks, (2,))["effective_density"]
        == pytest.approx(4 / 9)
        == measure_influence(model, masks, (2,))
    )


class Attending(nn.Module):
    """An embedding of patches, a learned class token and positions, attention, and a head that reads the token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, stride=2)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y, need_weights=False)[0])[:, 0])


def test_a_learned_constant_is_no_path():
    model = Attending()
    assert diagnose(model, dense(model), (1, 4, 4))["effective_density"] == 1
    masks = dense(model)
    masks["patches.weight"][:] = False
    metrics = diagnose(model, masks, (1, 4, 4))
    assert (metrics["collapsed"], metrics["effective_density"], metrics["macs"]) == (1, 0, 0)


def test_macs_of_attention():
    model = Attending()
    assert dense_macs(model, (1, 4, 4)) == {
        "patches.weight": 8 * 4 * 4,
        "attention.out_proj.weight": 5 * 8 * 8,
        "head.weight": 8 * 3,
        "attention's projections": 5 * 3 * 8 * 8,
    }
    masks = dense(model)
    masks["attention.out_proj.weight"][:4] = False
    metrics = diagnose(model, masks, (1, 4, 4))
    # The head's first four inputs do not count: they hold the token alone, which is a constant
    assert metrics["macs"] == 8 * 4 * 4 + 5 * 4 * 8 + 4 * 3 + 5 * 3 * 8 * 8


def test_torchvisions_transformer():
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 3, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    model = VisionTransformer(**sizes, num_classes=3)
    assert diagnose(model, dense(model), (3, 16, 16))["effective_density"] == 1
    masks = dense(model)
    masks["conv_proj.weight"][:] = False
    assert diagnose(model, masks, (3, 16, 16))["collapsed"] == 1
