"""The exactness of compaction: compacted networks train as the masked ones, for networks and masks drawn at random."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from forcetune.models import build
from forcetune.pruning import find_masks, prunable
from forcetune.training import CompactionError, Masked, find_compaction
from forcetune.training.compaction import _find_difference

DRAWN_SHAPE = (3, 6, 6)
DRAWN_CLASSES = 4
TRAINING_STEPS = 5
ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky": nn.LeakyReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
}  # fmt: skip
KINKED_MODULES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)  # at 0
ROUNDING_ERROR = 1e-9  # behind two norms, each of which may multiply it by 1 / sqrt(eps) = 316


class Chain(nn.Module):
    """Layers in sequence, as a plan lists them, with `channels` inputs and `self.channels` outputs."""

    def __init__(self, plan, channels):
        super().__init__()
        self.layers = nn.ModuleList()
        self.channels = channels
        for kind, *arguments in plan:
            self.layers.append(getattr(self, f"make_{kind}")(*arguments))

    def make_conv(self, channels, kernel, bias):
        before, self.channels = self.channels, channels
        return nn.Conv2d(before, channels, kernel, padding=kernel // 2, bias=bias)

    def make_depthwise(self, bias):
        return nn.Conv2d(self.channels, self.channels, 3, padding=1, groups=self.channels, bias=bias)

    def make_norm(self):
        return nn.BatchNorm2d(self.channels)

    def make_act(self, name):
        return ACTIVATIONS[name]()

    def make_pool(self):
        return nn.MaxPool2d(3, stride=1, padding=1)

    def make_residual(self, plan):
        return Joined(plan, self.channels, torch.add)

    def make_gate(self, plan):
        return Joined(plan, self.channels, torch.mul)

    def make_concat(self, first_plan, second_plan):
        layer = Concatenated(first_plan, second_plan, self.channels)
        self.channels = layer.channels
        return layer

    def make_branch(self, plan):
        layer = Branched(plan, self.channels)
        self.channels = layer.channels
        return layer

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Joined(nn.Module):
    """A branch with as many outputs as inputs, added to its inputs or multiplied with them."""

    def __init__(self, plan, channels, join):
        super().__init__()
        branch = Chain(plan, channels)
        self.branch = nn.Sequential(
            branch, nn.Conv2d(branch.channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.join = join

    def forward(self, x):
        return self.join(x, self.branch(x))


class Concatenated(nn.Module):
    def __init__(self, first_plan, second_plan, channels):
        super().__init__()
        self.first, self.second = Chain(first_plan, channels), Chain(second_plan, channels)
        self.channels = self.first.channels + self.second.channels

    def forward(self, x):
        return torch.cat([self.first(x), self.second(x)], 1)


class Branched(nn.Module):
    """Two layers that read the same channels, one directly and one behind further layers."""

    def __init__(self, plan, channels):
        super().__init__()
        self.branch = Chain(plan, channels)
        self.direct, self.behind = nn.Conv2d(channels, 3, 1), nn.Conv2d(self.branch.channels, 3, 1)
        self.channels = 3

    def forward(self, x):
        return self.direct(x) + self.behind(self.branch(x))


class Network(nn.Module):
    def __init__(self, plan):
        super().__init__()
        self.chain = Chain(plan, DRAWN_SHAPE[0])
        self.last = nn.Linear(self.chain.channels, DRAWN_CLASSES)

    def forward(self, x):
        return self.last(functional.adaptive_avg_pool2d(self.chain(x), 1).flatten(1))


SIMPLE = st.one_of(
    st.tuples(st.just("conv"), st.integers(2, 6), st.sampled_from([1, 3]), st.booleans()),
    st.tuples(st.just("depthwise"), st.booleans()),
    st.tuples(st.just("norm")),
    st.tuples(st.just("act"), st.sampled_from(["relu", "relu", "relu", *ACTIVATIONS])),
    st.tuples(st.just("pool")),
)
BRANCH = st.lists(SIMPLE, min_size=1, max_size=4)
LAYER = st.one_of(
    SIMPLE,
    SIMPLE,
    st.tuples(st.just("residual"), BRANCH),
    st.tuples(st.just("gate"), BRANCH),
    st.tuples(st.just("concat"), BRANCH, BRANCH),
    st.tuples(st.just("branch"), BRANCH),
)
PLAN = st.lists(LAYER, min_size=3, max_size=8).map(lambda layers: [("conv", 6, 3, False), *layers])


def draw_masks(model, generator):
    """Return masks with empty rows and columns, which leave channels without a writer or a reader, and with gaps."""
    masks = {}
    for name, weight in prunable(model).items():
        mask = torch.rand(weight.shape, generator=generator) < 0.8
        mask &= (torch.rand(len(mask), generator=generator) < 0.6).reshape(-1, *[1] * (weight.dim() - 1))
        mask &= (torch.rand(mask.shape[1], generator=generator) < 0.9).reshape(1, -1, *[1] * (weight.dim() - 2))
        mask.view(-1)[0] = True
        masks[name] = mask
    return masks


def make(plan, seed):
    """Return a float64 network of the plan, with some of its shifts 0, and masks of it."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Network(plan).double()
    for module in model.modules():
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias.data *= (torch.rand(bias.shape, generator=generator) < 0.3) & (module is not model.last)
    return model, draw_masks(model, generator)


def train(model, masks, steps=TRAINING_STEPS):
    """Return the losses of some steps, and the outputs in eval mode after them."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    masked = Masked(model, masks)
    losses = []
    model.train()
    for _ in range(steps):
        samples = torch.randn((16, *DRAWN_SHAPE), generator=generator, dtype=torch.float64)
        classes = torch.randint(DRAWN_CLASSES, (16,), generator=generator)
        loss = functional.cross_entropy(model(samples), classes)
        optimizer.zero_grad()
        loss.backward()
        masked.gradients()
        optimizer.step()
        masked.weights()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, model.eval()(torch.randn((16, *DRAWN_SHAPE), generator=generator, dtype=torch.float64))


def train_perturbed(model, masks):
    """Return the losses and outputs of a training with further rounding, and whether rounding decides a kink in it.

    The weights, the means that the norms subtract, and all gradients of layer outputs get rounding errors. A 0 stays 0
    and equal outputs stay equal, but what is 0 because values cancel is 0 no more. Rounding decides a kink where an
    input is not 0 but as small as a rounding error.
    """
    perturbed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    tiny_inputs = []

    def find_error(tensor):
        return tensor * 1e-15 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    def perturb_gradients(module, inputs, outputs):  # a hook of the module itself warns in torch 2.11
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient + find_error(gradient))

    def perturb_mean(norm, inputs, outputs):
        variances, means = torch.var_mean(inputs[0].detach(), (0, 2, 3), correction=0, keepdim=True)
        return outputs + find_error(means) / (variances + norm.eps).sqrt()

    def note_tiny_inputs(module, inputs):
        sizes = inputs[0].detach().abs()
        tiny_inputs.append(((sizes > 0) & (sizes < ROUNDING_ERROR * sizes.max().clamp(min=1))).any())

    for weight in perturbed.parameters():
        weight.data += find_error(weight.data)
    for module in perturbed.modules():
        if not list(module.children()):
            module.register_forward_hook(perturb_gradients)
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(perturb_mean)
        if isinstance(module, KINKED_MODULES):
            module.register_forward_pre_hook(note_tiny_inputs)
    return *train(perturbed, masks), any(tiny_inputs)


def amplifies_rounding(model, masks):
    """Return whether rounding errors change the training.

    They do where the training diverges, and where a value that is 0 but for rounding stands in front of a kink: its
    sign decides which gradients pass. Norms make such values: the norm of a constant channel is 0 but for rounding, and
    the gradients of a shift that a norm further on takes away cancel, so that the shift becomes 1e-19, -1e-19 or 0. Two
    trainings may have the same sign by chance and a third one not, so that the losses alone do not show it. Such a
    training cannot show whether two networks compute the same.
    """
    losses, outputs = train(copy.deepcopy(model), masks)
    perturbed_losses, perturbed_outputs, rounding_decides = train_perturbed(model, masks)
    spread = (outputs - outputs.mean(0)).abs().max()
    return rounding_decides or not (
        perturbed_losses == pytest.approx(losses, rel=1e-9, abs=1e-11)
        and (outputs - perturbed_outputs).abs().max() <= 1e-8 * spread + 1e-11 * outputs.abs().max()
    )


def check(model, masks):
    """Assert that the masked and the compacted network train alike; return the number of dimensions that were cut."""
    compaction = find_compaction(model, masks, DRAWN_SHAPE)
    small_masks = {name: compaction.shrink(name, mask) for name, mask in masks.items()}
    losses, outputs = train(copy.deepcopy(model), masks)
    small_losses, small_outputs = train(compaction.network, small_masks)
    assert small_losses == pytest.approx(losses, rel=1e-8, abs=1e-10)
    spread = (outputs - outputs.mean(0)).abs().max()
    assert (outputs - small_outputs).abs().max() <= 1e-7 * spread + 1e-10 * outputs.abs().max()
    return sum(len(indices) for indices in compaction.kept_indices.values())


@pytest.fixture(scope="module")
def counts():
    counts = Counter()
    yield counts
    assert counts["cut"] >= counts["networks"] // 4 > 0, f"the networks hardly have a channel to cut: {counts}"


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(plan=PLAN, seed=st.integers(0, 10**6))
def test_random_networks_with_random_masks(counts, plan, seed):
    model, masks = make(plan, seed)
    try:
        assume(not amplifies_rounding(model, masks))
        cut = check(model, masks)
    except CompactionError as obstacle:
        assume("is dead" not in str(obstacle))
        raise
    counts["networks"] += 1
    counts["cut"] += cut > 0


@pytest.mark.parametrize("seed", [9, 17, 20])
def test_gradients_that_cancel_in_front_of_a_kink_amplify_rounding(seed):
    # With these seeds the losses of the compacted network differed by 1e-4, and those of the perturbed one did not
    torch.manual_seed(seed)
    model = Network([("conv", 4, 1, False), ("conv", 3, 1, True), ("gate", [("conv", 2, 1, False)]), ("act", "relu")])
    model.double().chain.layers[1].bias.data.zero_()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["chain.layers.1.weight"][2] = False
    masks["chain.layers.1.weight"][:, 1] = False
    assert amplifies_rounding(model, masks)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_norm_of_a_constant_channel_in_front_of_a_kink_amplifies_rounding(shift):
    torch.manual_seed(0)
    model = Network([("conv", 4, 1, True), ("norm",), ("act", "relu")]).double()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["chain.layers.0.weight"][0] = False
    model.chain.layers[0].bias.data[0] = shift
    assert amplifies_rounding(model, masks) == (shift != 0), "the mean of a channel of zeros is 0 without rounding"


LIVE_SHIFTS = {
    "a norm further on": [
        ("conv", 8, 1, False), ("norm",), ("act", "relu"), ("depthwise", False), ("norm",), ("conv", 4, 1, False),
        ("act", "relu"),
    ],
    "a norm behind the ReLU": [("conv", 8, 1, False), ("act", "relu"), ("norm",), ("conv", 4, 1, False)],
    "a biased depthwise layer": [("conv", 8, 1, False), ("act", "relu"), ("depthwise", True), ("conv", 4, 1, False)],
    "a sigmoid behind the ReLU": [("conv", 8, 1, False), ("act", "relu"), ("act", "sigmoid"), ("conv", 4, 1, False)],
}  # fmt: skip


@pytest.mark.parametrize("plan", LIVE_SHIFTS.values(), ids=LIVE_SHIFTS)
def test_a_channel_with_a_live_shift_stays(plan):
    # The shift is 0 at first, and moves at the first step
    torch.manual_seed(0)
    model = Network(plan).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["chain.layers.0.weight"][:4] = False
    assert check(model, masks) == 0


def test_a_dead_channel_behind_which_all_is_zero_goes():
    torch.manual_seed(0)
    plan = [("conv", 8, 1, False), ("norm",), ("act", "relu"), ("depthwise", False), ("norm",), ("act", "relu")]
    model = Network([*plan, ("conv", 4, 1, False)]).double()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["chain.layers.0.weight"][:4] = False
    assert not amplifies_rounding(model, masks)
    assert check(model, masks) > 0
    assert find_compaction(model, masks, DRAWN_SHAPE).network.chain.layers[0].out_channels == 4


@pytest.mark.parametrize("tensor_name", ["bias", "running_mean"])
def test_a_norm_that_moves_a_zero_keeps_its_channel(tensor_name):
    torch.manual_seed(0)
    model = Network([("conv", 8, 1, False), ("norm",), ("act", "relu"), ("conv", 4, 1, False)]).double()
    getattr(model.chain.layers[1], tensor_name).data[:2] = -0.5
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["chain.layers.0.weight"][:4] = False
    compaction = find_compaction(model, masks, DRAWN_SHAPE)
    assert compaction.network.chain.layers[0].out_channels == 6, (
        "two of four channels without a weight are 0 behind the norm"
    )


class TwoReaders(nn.Module):
    """A network with channels that one layer reads directly, and another one behind a depthwise layer."""

    def __init__(self):
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.direct, self.behind = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.last = nn.Linear(4, DRAWN_CLASSES)

    def forward(self, x):
        x = functional.relu(self.first(x))
        x = self.direct(x) + self.behind(functional.relu(self.depthwise(x)))
        return self.last(x.mean((2, 3)))


def test_a_channel_that_is_zero_for_one_of_two_readers_stays():
    torch.manual_seed(0)
    model = TwoReaders().double()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["depthwise.weight"][:4] = False
    assert check(model, masks) == 0


PRUNED_NETWORKS = pytest.mark.parametrize(
    ("name", "method", "density", "shape"),
    [
        ("resnet20", "synflow", 0.01, (3, 16, 16)),
        ("vgg16_bn", "synflow", 0.1, (3, 32, 32)),
        ("torchvision:mobilenet_v2", "random_uniform", 0.1, (3, 32, 32)),
    ],
)


def prune_network(name, method, density, shape):
    """Return a network just after pruning, its masks, its compaction, and samples."""
    torch.manual_seed(0)
    model = build(name, shape, 10, None if ":" in name else 16)
    sample = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [sample], method, density)
    Masked(model, masks)
    samples = torch.randn((8, *shape), generator=torch.Generator().manual_seed(0))
    return model, masks, find_compaction(model, masks, shape), samples


@PRUNED_NETWORKS
@torch.no_grad()
def test_a_negated_layer_is_seen_just_after_pruning(name, method, density, shape):
    model, _, compaction, samples = prune_network(name, method, density, shape)
    assert _find_difference(model, compaction, samples) is None
    layers = [module for module in compaction.network.modules() if isinstance(module, nn.Conv2d)]
    layers[len(layers) // 2].weight.data.neg_()
    assert "is not a part of the original" in _find_difference(model, compaction, samples)


@PRUNED_NETWORKS
@torch.no_grad()
def test_a_missing_channel_is_seen_just_after_pruning(name, method, density, shape):
    model, masks, compaction, samples = prune_network(name, method, density, shape)
    kept = {layer: indices[0] for layer, indices in compaction.kept_indices.items() if 0 in indices and layer in masks}
    layer, channels = next((layer, channels) for layer, channels in kept.items() if len(channels) > 1)
    fewer = {other: mask.clone() for other, mask in masks.items()}
    fewer[layer][channels[0]] = False
    wrong = find_compaction(model, fewer, shape)
    assert wrong.macs_fraction < compaction.macs_fraction
    for tensor_name, tensor in wrong.network.state_dict().items():
        tensor.copy_(wrong.shrink(tensor_name, model.state_dict()[tensor_name]))
    assert "computes other outputs" in _find_difference(model, wrong, samples)


def test_a_dead_network_is_not_cut():
    model = Network([("conv", 4, 1, False), ("norm",), ("act", "relu")])
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["chain.layers.0.weight"][:] = False
    with pytest.raises(CompactionError, match="is dead"):
        find_compaction(model, masks, DRAWN_SHAPE)
