"""Compacted networks, without dead channels: they compute what the masked networks compute."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from forcetune.models import MODELS, build
from forcetune.pruning import dense_macs, find_masks, prunable
from forcetune.training import Masked, Training, compact, find_compaction

IMAGE_SIDES = dict.fromkeys(("lenet5", "vgg16_bn", "vgg19_bn"), 16)  # pixels; one is left of them at the end
TORCHVISION_NETWORKS = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121"]


def compute_outputs(model, masks, shape):
    """Return the float64 outputs of the masked and the compacted network on the same samples, and that network."""
    samples = torch.randn((3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = model.double()
    small = compact(model, masks, shape)
    Masked(model, masks)
    with torch.no_grad():
        return model.eval()(samples), small(samples), small


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def empty_channels(model, share=0.5):
    """Return masks that empty a share of the rows of each layer but the last, as synflow's do."""
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    for mask in list(masks.values())[:-1]:
        mask[: int(len(mask) * share)] = False
    return masks


@pytest.mark.parametrize("name", [*MODELS, *(f"torchvision:{name}" for name in TORCHVISION_NETWORKS)])
def test_every_network_computes_the_same_with_fewer_weights(name):
    shape = (3, 64, 64) if ":" in name else (1, IMAGE_SIDES.get(name, 8), IMAGE_SIDES.get(name, 8))
    model = build(name, shape, 10, None if ":" in name or name == "lenet5" else 8)
    parameter_count = count_parameters(model)
    sample = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [sample], "synflow", 0.1 if name == "mlp" else 0.02, iterations=10)
    dense, compacted, small = compute_outputs(model, masks, shape)
    assert torch.allclose(dense, compacted, rtol=1e-9, atol=1e-12)
    assert dense.abs().sum() > 0
    assert count_parameters(small) < 0.8 * parameter_count


def test_channels_without_a_reader_or_a_writer_are_cut():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 2),
    )  # fmt: skip
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["0.weight"][0] = False  # it has no input
    masks["3.weight"][:, 1] = False  # it has no output
    masks["6.weight"][:, 16:32] = False  # no layer reads the sixteen positions of channel 1
    dense, compacted, small = compute_outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small[0].weight.shape == (2, 1, 3, 3)
    assert small[1].num_features == 2
    assert small[3].weight.shape == (5, 2, 3, 3)
    assert small[6].weight.shape == (2, 5 * 16)


def test_a_channel_that_a_shift_makes_count_stays():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    nn.init.constant_(model[1].bias, 0.5)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["0.weight"][0] = False
    dense, compacted, small = compute_outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small[0].out_channels == 4, "its beta is not 0: the channel is 0.5 everywhere"


def test_compaction_leaves_its_network_as_it_was():
    model = build("resnet8", (1, 8, 8), 10, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = compact(model, empty_channels(model), (1, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not small.training


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


def test_a_network_that_cannot_be_traced_is_only_masked(caplog):
    model = Untraceable()
    with caplog.at_level(logging.WARNING):
        dense, compacted, small = compute_outputs(model, find_masks(model, [], "random", 0.1), (1, 8, 8))
    assert torch.equal(dense, compacted)
    assert count_parameters(small) == count_parameters(model)
    assert "Untraceable cannot be traced" in caplog.text


class Shifted(nn.Module):
    """A network whose own arithmetic moves the channels of a layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(functional.relu(self.one(x.flatten(1))).roll(1, 1))


def test_channels_that_unknown_arithmetic_moves_stay():
    model = Shifted()
    masks = find_masks(model, [], "random", 0.5)
    masks["two.weight"][:, 3] = False
    dense, compacted, small = compute_outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small.one.out_features == 8


class FixedBatches:
    """A few batches of random float64 samples, the same in each pass."""

    def __init__(self, shape, count=3):
        generator = torch.Generator().manual_seed(2)
        self.batches = [
            (
                torch.randn((16, *shape), generator=generator, dtype=torch.float64),
                torch.randint(10, (16,), generator=generator),
            )
            for _ in range(count)
        ]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def state(self):
        return None

    def restore(self, state):
        pass


def make_training(name, input_shape, shape, **options):
    """Return a sparse network, its masks and its training, which cuts dead channels out if it has an input shape."""
    torch.manual_seed(0)
    model = build(name, shape, 10, None if ":" in name or name == "lenet5" else 16).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    sample = torch.zeros(1, *shape, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [sample], *PRUNINGS_BY_NETWORK.get(name, ("synflow", 0.02)), iterations=10)
    settings = {"epochs": 4, "lr": 0.05, "weight_decay": 1e-3, "clip_norm": 1.0, "input_shape": input_shape, **options}
    return model, masks, Training(model, masks, FixedBatches(shape), FixedBatches(shape, 1), **settings)


PRUNINGS_BY_NETWORK = {"torchvision:mobilenet_v2": ("random_uniform", 0.2)}  # synflow leaves no path in it
TRAINED_NETWORKS = [
    "vgg_small",
    "vgg16_bn",
    "resnet20",
    "resnet50",
    "torchvision:mobilenet_v2",
    "torchvision:shufflenet_v2_x0_5",
]


@pytest.mark.parametrize("name", TRAINED_NETWORKS)
def test_training_the_small_network_is_training_the_masked_one(name):
    shape = (3, 32, 32) if ":" in name else (3, 16, 16)
    # An epoch has three steps; after more of them rounding errors grow into the compared digits
    epochs = 1 if ":" in name else 2
    dense_model, masks, dense = make_training(name, None, shape, epochs=epochs)
    model, _, small = make_training(name, shape, shape, epochs=epochs)
    assert small.macs_fraction < 0.9 < dense.macs_fraction == 1
    for dense_metrics, small_metrics in zip(dense, small, strict=True):
        assert small_metrics.pop("training_flops") > 0, "of the network that was trained; see test_rules.py"
        small_metrics.pop("training_flops_sparse")
        assert dense_metrics.keys() == small_metrics.keys()
        assert all(small_metrics[metric] == pytest.approx(value, rel=1e-9) for metric, value in dense_metrics.items())
    weights = dict(model.named_parameters())
    assert all((weights[layer][~mask] == 0).all() for layer, mask in masks.items())
    samples = torch.randn((4, *shape), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model.eval()(samples), dense_model.eval()(samples), rtol=1e-9, atol=1e-12)
    assert model.state_dict().keys() == dense_model.state_dict().keys()


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_holds_the_whole_network(before, after, optimizer):
    shape = (3, 16, 16)
    *_, unbroken = make_training("resnet20", None, shape, optimizer=optimizer)
    expected = list(unbroken)
    *_, first = make_training("resnet20", shape if before else None, shape, optimizer=optimizer)
    epochs = iter(first)
    next(epochs)
    state = first.state_dict()
    assert state["model"].keys() == unbroken.state_dict()["model"].keys()
    *_, resumed = make_training("resnet20", shape if after else None, shape, optimizer=optimizer)
    resumed.load_state_dict(state)
    for unbroken_metrics, resumed_metrics in zip(expected[1:], resumed, strict=True):
        assert all(
            resumed_metrics[metric] == pytest.approx(value, rel=1e-9) for metric, value in unbroken_metrics.items()
        )


class Tokens(nn.Module):
    """A network whose last layer is applied at each position of an image."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, bias=False), nn.Conv2d(6, 4, 3, bias=False)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        positions = self.second(functional.relu(self.first(x))).flatten(2).transpose(1, 2)
        return self.last(positions).mean(1)


@pytest.mark.parametrize("name", ["tokens", "vgg_small", "resnet8"])
def test_multiply_adds_are_counted_as_those_of_the_static_metrics(name):
    torch.manual_seed(0)
    model, shape = Tokens() if name == "tokens" else build(name, (1, 8, 8), 3, 6), (1, 8, 8)
    compaction = find_compaction(model, empty_channels(model), shape)
    dense, small = (sum(dense_macs(network, shape).values()) for network in (model, compaction.network))
    assert compaction.macs_fraction == small / dense < 1


def test_a_network_that_hardly_gets_smaller_is_trained_whole():
    model = build("resnet8", (1, 8, 8), 10, 8)
    masks = find_masks(model, [], "random", 0.5)
    training = Training(
        model, masks, FixedBatches((1, 8, 8)), FixedBatches((1, 8, 8)), epochs=1, lr=0.1, input_shape=(1, 8, 8)
    )
    assert training.macs_fraction == 1


class Tied(nn.Module):
    """A network of which two layers have one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.third(functional.relu(self.second(functional.relu(self.first(x.flatten(1))))))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.second(functional.dropout(functional.relu(self.first(x.flatten(1))), 0.5, self.training))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 8, 3), nn.Linear(8 * 64, 10)

    def forward(self, x):
        return self.third(functional.relu(self.second(functional.relu(self.first(x)))).flatten(1))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Linear(8 * 16, 10)

    def forward(self, x):
        return self.third(functional.relu(self.second(functional.relu(self.first(x)))).flatten(1))


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        (Untraceable, "Untraceable cannot be traced"),
        (Tied, "layers of Tied share their weights"),
        (Dropping, "Dropping has dropout"),
        (Transposed, None),
        (Grouped, None),
    ],
)
def test_networks_that_are_hard_to_compact_train_the_same(kind, warning, caplog):
    torch.manual_seed(0)
    models = [kind(), kind()]
    models[1].load_state_dict(models[0].state_dict())
    masks = empty_channels(models[0])
    for name in list(masks)[1:]:
        masks[name][:, : masks[name].shape[1] // 4] = False
    histories = []
    with caplog.at_level(logging.WARNING):
        for model, shape in zip(models, [None, (1, 8, 8)], strict=True):
            torch.manual_seed(1)
            batches = FixedBatches((1, 8, 8))
            settings = {"epochs": 2, "lr": 0.1, "input_shape": shape}
            histories.append(list(Training(model.double(), masks, batches, batches, **settings)))
    assert (warning in caplog.text) if warning else not caplog.text
    for masked_metrics, compacted_metrics in zip(*histories, strict=True):
        assert all(
            compacted_metrics[metric] == pytest.approx(value, rel=1e-9) for metric, value in masked_metrics.items()
        )


@pytest.mark.parametrize("name", ["resnet8", "vgg_small", "convnet", "mlp", "torchvision:mobilenet_v3_small"])
@pytest.mark.parametrize("multiple", [4, 16])
def test_layers_keep_dead_channels_up_to_a_multiple_and_compute_the_same(name, multiple):
    shape = (3, 32, 32)
    model = build(name, shape, 10, None if ":" in name else 32)
    masks = find_masks(model, [(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long))], "synflow", 0.01)
    small, rounded = (find_compaction(model, masks, shape, number).network for number in (1, multiple))
    sizes, rounded_sizes, dense_sizes = (
        [len(weight) for weight in prunable(network).values()] for network in (small, rounded, model)
    )
    for size, rounded_size, dense_size in zip(sizes, rounded_sizes, dense_sizes, strict=True):
        assert rounded_size == min(-(-size // multiple) * multiple, dense_size)
    Masked(model, masks)
    samples = torch.randn((5, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected, outputs = (network.double().eval()(samples) for network in (model, rounded))
    assert torch.allclose(expected, outputs, rtol=1e-9, atol=1e-12)
