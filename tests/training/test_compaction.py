"""A pruned network cut down to what is left of it computes the same."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from forcetune.models import MODELS, build
from forcetune.pruning import find_masks, prunable
from forcetune.training import Masked, Training, compact

SIZES = dict.fromkeys(("lenet5", "vgg16_bn", "vgg19_bn"), 16)  # one pixel is left of it at the end
VISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121"]


def outputs(model, masks, shape):
    """Of the masked network and of the compacted one, on the same samples, in float64."""
    samples = torch.randn((3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = model.double()
    small = compact(model, masks, shape)
    Masked(model, masks)
    with torch.no_grad():
        return model.eval()(samples), small(samples), small


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def without_channels(model, share=0.5):
    """Masks that empty a share of the rows of each layer but the last, as synflow's do."""
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    for mask in list(masks.values())[:-1]:
        mask[: int(len(mask) * share)] = False
    return masks


@pytest.mark.parametrize("name", [*MODELS, *(f"torchvision:{name}" for name in VISION)])
def test_every_network_computes_the_same_with_fewer_weights(name):
    shape = (3, 64, 64) if ":" in name else (1, SIZES.get(name, 8), SIZES.get(name, 8))
    model = build(name, shape, 10, None if ":" in name or name == "lenet5" else 8)
    whole = size(model)
    sample = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [sample], "synflow", 0.1 if name == "mlp" else 0.02, 10)
    dense, compacted, small = outputs(model, masks, shape)
    assert torch.allclose(dense, compacted, rtol=1e-9, atol=1e-12)
    assert dense.abs().sum() > 0
    assert size(small) < 0.8 * whole


def test_channels_without_a_reader_or_a_writer_go():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 2),
    )  # fmt: skip
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["0.weight"][0] = False  # nothing comes in
    masks["3.weight"][:, 1] = False  # nothing goes out
    masks["6.weight"][:, 16:32] = False  # nobody reads the sixteen positions of channel 1
    dense, compacted, small = outputs(model, masks, (1, 8, 8))
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
    dense, compacted, small = outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small[0].out_channels == 4, "its beta is not 0: the channel says 0.5 everywhere"


def test_the_network_it_is_given_stays_as_it_is():
    model = build("resnet8", (1, 8, 8), 10, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = compact(model, without_channels(model), (1, 8, 8))
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


def test_what_cannot_be_traced_is_only_masked(caplog):
    model = Untraceable()
    with caplog.at_level(logging.WARNING):
        dense, compacted, small = outputs(model, find_masks(model, [], "random", 0.1), (1, 8, 8))
    assert torch.equal(dense, compacted)
    assert size(small) == size(model)
    assert "Untraceable cannot be traced" in caplog.text


class Shifted(nn.Module):
    """A layer whose channels are moved about by the user's own arithmetic."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(functional.relu(self.one(x.flatten(1))).roll(1, 1))


def test_what_is_not_understood_is_left_whole():
    model = Shifted()
    masks = find_masks(model, [], "random", 0.5)
    masks["two.weight"][:, 3] = False
    dense, compacted, small = outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small.one.out_features == 8


class Doubles:
    """The same few batches of random samples, in float64, in each pass."""

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


def training(name, input_shape, shape, **how):
    """Of a sparse network, its dead channels cut out where an input shape is given."""
    torch.manual_seed(0)
    model = build(name, shape, 10, None if ":" in name or name == "lenet5" else 16).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    sample = torch.zeros(1, *shape, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [sample], *PRUNED.get(name, ("synflow", 0.02)), 10)
    settings = {"epochs": 4, "lr": 0.05, "weight_decay": 1e-3, "clip_norm": 1.0, "input_shape": input_shape, **how}
    return model, masks, Training(model, masks, Doubles(shape), Doubles(shape, 1), **settings)


PRUNED = {"torchvision:mobilenet_v2": ("random_uniform", 0.2)}  # synflow leaves no path in it
TRAINED = [
    "vgg_small",
    "vgg16_bn",
    "resnet20",
    "resnet50",
    "torchvision:mobilenet_v2",
    "torchvision:shufflenet_v2_x0_5",
]


@pytest.mark.parametrize("name", TRAINED)
def test_training_the_small_network_is_training_the_masked_one(name):
    shape = (3, 32, 32) if ":" in name else (3, 16, 16)
    epochs = 1 if ":" in name else 2  # of three steps; later rounding grows into the digits
    whole, masks, dense = training(name, None, shape, epochs=epochs)
    model, _, small = training(name, shape, shape, epochs=epochs)
    assert small.macs_fraction < 0.9 < dense.macs_fraction == 1
    for one, other in zip(dense, small, strict=True):
        assert one.keys() == other.keys()
        assert all(other[metric] == pytest.approx(value, rel=1e-9) for metric, value in one.items())
    weights = dict(model.named_parameters())
    assert all((weights[layer][~mask] == 0).all() for layer, mask in masks.items())
    samples = torch.randn((4, *shape), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model.eval()(samples), whole.eval()(samples), rtol=1e-9, atol=1e-12)
    assert model.state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_speaks_of_the_whole_network(before, after, optimizer):
    shape = (3, 16, 16)
    *_, unbroken = training("resnet20", None, shape, optimizer=optimizer)
    expected = list(unbroken)
    *_, first = training("resnet20", shape if before else None, shape, optimizer=optimizer)
    told = iter(first)
    next(told)
    state = first.state_dict()
    assert state["model"].keys() == unbroken.state_dict()["model"].keys()
    *_, rest = training("resnet20", shape if after else None, shape, optimizer=optimizer)
    rest.load_state_dict(state)
    for one, other in zip(expected[1:], rest, strict=True):
        assert all(other[metric] == pytest.approx(value, rel=1e-9) for metric, value in one.items())


def test_a_network_that_hardly_gets_smaller_is_trained_whole():
    model = build("resnet8", (1, 8, 8), 10, 8)
    masks = find_masks(model, [], "random", 0.5)
    found = Training(model, masks, Doubles((1, 8, 8)), Doubles((1, 8, 8)), epochs=1, lr=0.1, input_shape=(1, 8, 8))
    assert found.macs_fraction == 1


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.three(functional.relu(self.two(functional.relu(self.one(x.flatten(1))))))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.two(functional.dropout(functional.relu(self.one(x.flatten(1))), 0.5, self.training))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 8, 3), nn.Linear(8 * 64, 10)

    def forward(self, x):
        return self.three(functional.relu(self.two(functional.relu(self.one(x)))).flatten(1))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Linear(8 * 16, 10)

    def forward(self, x):
        return self.three(functional.relu(self.two(functional.relu(self.one(x)))).flatten(1))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Untraceable, "Untraceable cannot be traced"),
        (Tied, "layers of Tied share their weights"),
        (Dropping, "Dropping has dropout"),
        (Transposed, None),
        (Grouped, None),
    ],
)
def test_where_it_cannot_be_exact_it_steps_aside(kind, said, caplog):
    torch.manual_seed(0)
    models = [kind(), kind()]
    models[1].load_state_dict(models[0].state_dict())
    masks = without_channels(models[0])
    for name in list(masks)[1:]:
        masks[name][:, : masks[name].shape[1] // 4] = False
    told = []
    with caplog.at_level(logging.WARNING):
        for model, shape in zip(models, [None, (1, 8, 8)], strict=True):
            torch.manual_seed(1)
            batches = Doubles((1, 8, 8))
            how = {"epochs": 2, "lr": 0.1, "input_shape": shape}
            told.append(list(Training(model.double(), masks, batches, batches, **how)))
    assert (said or "") in caplog.text
    for one, other in zip(*told, strict=True):
        assert all(other[metric] == pytest.approx(value, rel=1e-9) for metric, value in one.items())
