"""The networks of MODELS, and builders that users write themselves."""

import pytest
import torch
from torch import nn

from forcetune.errors import InputError
from forcetune.models import MODELS, build, default_width
from forcetune.pruning import prunable

SMALLEST_SHAPES = dict.fromkeys(("lenet5", "vgg16_bn", "vgg19_bn"), (1, 16, 16))  # one pixel is left at the end


def small_shape(name):
    """Return the shape of a small image that the network takes."""
    return SMALLEST_SHAPES.get(name, (1, 8, 8))


def count_weights(model):
    return sum(weight.numel() for weight in prunable(model).values())


def equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_runs_forward_and_back(name, large):
    shape = (3, 32, 32) if large else small_shape(name)
    model = build(name, shape, 7, width=12)
    assert model.training
    outputs = model(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert outputs.shape == (3, 7)
    outputs.square().sum().backward()
    assert all(weight.grad.any() for weight in prunable(model).values()), "every layer takes part"


@pytest.mark.parametrize("name", MODELS)
def test_a_larger_width_has_more_weights(name):
    narrow, wide = (count_weights(build(name, small_shape(name), 10, width)) for width in (4, 6))
    assert narrow < wide


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *[(f"resnet{depth}", depth) for depth in (8, 14, 20, 32, 56, 18, 50)],
        ("vgg16_bn", 13 + 1),  # one linear layer in place of the three
        ("vgg19_bn", 16 + 1),
        ("lenet5", 4),
    ],
)
def test_depth_is_that_of_the_longest_path(name, layers):
    weights = prunable(build(name, small_shape(name), 10, width=4))
    assert len([layer for layer in weights if "shortcut" not in layer]) == layers


def test_weights_of_the_mlp():
    assert count_weights(build("mlp", (1, 28, 28), 10)) == 784 * 300 + 300 * 100 + 100 * 10  # LeNet-300-100


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_draws_the_weights(name):
    random_state = torch.get_rng_state()
    first, repeated, reseeded = (build(name, small_shape(name), 10, 4, seed) for seed in (3, 3, 4))
    assert equal(first, repeated)
    assert not equal(first, reseeded)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_weights_are_kaiming_normal_and_biases_zero():
    model = build("vgg_small", (3, 32, 32), 10)
    for parameter in prunable(model).values():
        weight = parameter.detach()
        fan_in = weight[0].numel()
        assert float(weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        assert float(weight.abs().max()) > (6 / fan_in) ** 0.5, "beyond the bound of a uniform draw of that variance"
    assert not model[-1].bias.any()


def test_statistics_of_batch_norm_are_as_new():
    model = build("convnet", (1, 8, 8), 10)
    assert not model[1].running_mean.any()
    assert (model[1].running_var == 1).all()
    assert int(model[1].num_batches_tracked) == 0


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="unknown model 'resnet15' .did you mean"):
        build("resnet15", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("name", "shape"), [("vgg_small", (1, 2, 2)), ("lenet5", (1, 8, 8)), ("convnet", (64,)), ("resnet8", (8, 8))]
)
def test_samples_that_do_not_fit_are_refused(name, shape):
    with pytest.raises(InputError, match=f"the model '{name}' does not fit samples of shape .* in 10 classes: "):
        build(name, shape, 10)


OWN_MODELS_SOURCE = """
import torch
from torch import nn

def small(input_shape, classes):
    torch.rand(3)  # whatever it draws comes from the seed
    layer = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], classes)
    nn.init.uniform_(layer.weight, 5, 6)
    nn.init.ones_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)

def wide(input_shape, classes, width=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))

def one_output_too_many(input_shape, classes):
    return small(input_shape, classes + 1)

def maps(input_shape, classes):
    return nn.Conv2d(1, classes, 3)

def nothing(input_shape, classes):
    return None

def fails(input_shape, classes):
    return 1 / 0
"""


@pytest.fixture(autouse=True)
def own_models(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN_MODELS_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_builder_of_the_users_own_keeps_its_initialization():
    model = build("own_models:small", (1, 8, 8), 10, seed=1)
    assert ((model[1].weight >= 5) & (model[1].weight <= 6)).all()
    assert (model[1].bias == 1).all()
    assert equal(model, build("own_models:small", (1, 8, 8), 10, seed=1))
    assert not equal(model, build("own_models:small", (1, 8, 8), 10, seed=2))


def test_a_width_that_the_builder_does_not_take_is_refused():
    with pytest.raises(InputError, match="'own_models:small' has no argument `width`"):
        build("own_models:small", (1, 8, 8), 10, width=4)


def test_width_is_passed_on_where_it_is_set():
    assert build("own_models:wide", (1, 8, 8), 10)[1].out_features == 2
    assert build("own_models:wide", (1, 8, 8), 10, width=5)[1].out_features == 5


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one_output_too_many", r"two samples give outputs of shape \(2, 11\), not \(2, 10\)"),
        ("maps", r"outputs of shape \(2, 10, 6, 6\)"),
        ("nothing", "returned NoneType, not a torch.nn.Module"),
        ("fails", "division by zero"),
    ],
)
def test_a_builder_that_is_refused(function, message):
    random_state = torch.get_rng_state()
    with pytest.raises(InputError, match=f"'own_models:{function}' does not fit .*{message}"):
        build(f"own_models:{function}", (1, 8, 8), 10)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_model_is_checked_in_eval_mode_and_comes_back_in_its_own(monkeypatch):
    modes = []

    class Watched(nn.Linear):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    monkeypatch.setitem(MODELS, "watched", lambda input_shape, classes: Watched(*input_shape, classes).eval())
    assert not build("watched", (5,), 2).training
    assert modes == [False]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mobilenet_v2", (3, 32, 32)),
        ("resnet18", (1, 32, 32)),  # grey images
        ("densenet121", (4, 32, 32)),
        ("squeezenet1_1", (1, 64, 64)),
        ("googlenet", (1, 64, 64)),  # in train mode it would return its auxiliary outputs too
    ],
)
def test_torchvisions_networks(name, shape):
    first, repeated, reseeded = (build(f"torchvision:{name}", shape, 7, seed=seed) for seed in (0, 0, 1))
    assert equal(first, repeated), "drawn from the seed"
    assert not equal(first, reseeded)
    assert first.train()(torch.randn(2, *shape)).shape == (2, 7)


def test_torchvisions_networks_keep_their_own_initialization():
    # MobileNetV2 draws its classifier with a standard deviation of 0.01, where kaiming fan-in gives 0.04
    model = build("torchvision:mobilenet_v2", (3, 32, 32), 100)
    assert float(model.classifier[1].weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_an_unknown_network_of_torchvision_is_refused():
    with pytest.raises(InputError, match="'torchvision:resnet19' .did you mean 'resnet1?[58].*has: alexnet"):
        build("torchvision:resnet19", (3, 32, 32), 10)


def test_a_network_of_torchvision_has_no_width():
    with pytest.raises(InputError, match="'torchvision:resnet18' has no argument `width`"):
        build("torchvision:resnet18", (3, 32, 32), 10, width=8)


@pytest.mark.parametrize(("name", "width"), [("resnet20", 16), ("resnet50", 64), ("vgg16_bn", 64), ("lenet5", 20)])
def test_default_width(name, width):
    assert default_width(name) == width
    assert count_weights(build(name, small_shape(name), 10)) == count_weights(build(name, small_shape(name), 10, width))


def test_a_network_without_a_default_width_is_refused(tmp_path, monkeypatch):
    (tmp_path / "narrow.py").write_text("def build(input_shape, classes): ...\ndef wide(shape, classes, width): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("narrow:build", "narrow:wide", "torchvision:resnet18"):
        with pytest.raises(InputError, match=f"the width of model '{name}' cannot be changed"):
            default_width(name)
