"""Whole channels: which can be cut, how many fit a density, and what remains of the network."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torch.nn import functional

from forcetune import models
from forcetune.errors import InputError
from forcetune.pruning import (
    METHODS,
    SALIENCY_LOSSES,
    SCHEDULES,
    NetworkChannels,
    RulePlan,
    RuleState,
    find_masks,
    mask_steps,
    prunable,
    score_network,
    shuffle_channels,
)
from forcetune.pruning.layers import uniform
from forcetune.pruning.network import Network
from forcetune.pruning.saliency import gate_sensitivity
from forcetune.pruning.skeletonization import Skeletonization
from forcetune.training import CompactionError, find_compaction

IMAGE = (1, 8, 8)
# A saliency of each kind: of data and weights, signed, of chance, with layer densities, resurrecting, of gates
CHANNEL_METHODS = ["snip", "force", "grasp", "synflow", "random", "random_erk", "magnitude_uniform", "snap", "snap_it"]


def mlp(widths=(6, 5, 4, 3)):
    torch.manual_seed(0)
    layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def small_resnet():
    return models.build("resnet8", IMAGE, 10, 4, seed=0)


def draw_batches(shape=IMAGE, classes=10, count=2, size=16):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, *shape, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(count)
    ]


def count_kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def list_channels(model, shape=IMAGE):
    return NetworkChannels(model, {name: weight.detach() for name, weight in prunable(model).items()}, shape)


def test_a_channel_is_its_row_and_the_columns_that_read_it():
    channels = list_channels(mlp((6, 3, 2)), (6,))
    masks = channels.make_masks(torch.tensor([True, False, True]))
    assert masks["0.weight"].tolist() == [[True] * 6, [False] * 6, [True] * 6]
    assert masks["2.weight"].tolist() == [[True, False, True]] * 2
    assert channels.find_kept(masks).tolist() == [True, False, True]
    assert channels.count_weights([2]) == count_kept(masks) == 16


def test_a_channel_behind_a_flattening_has_all_its_positions():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    masks = list_channels(model, (1, 4, 4)).make_masks(torch.tensor([True, False]))
    assert masks["3.weight"].tolist() == [[True] * 4 + [False] * 4] * 3


def test_channels_that_are_added_are_one_group():
    model = small_resnet()
    channels = list_channels(model)
    sizes = sorted(group.size for group in channels.groups)
    assert sizes == [4, 4, 8, 8, 16, 16], "a stream and the inside of a block in each of three stages"
    stream = max(channels.groups, key=lambda group: len(group.readers))
    index = channels.groups.index(stream)
    keep = torch.ones(len(channels.group_indices), dtype=torch.bool)
    keep[(channels.group_indices == index).nonzero()[0]] = False
    masks = channels.make_masks(keep)
    for name in stream.writers:
        assert not masks[f"{name}.weight"][0].any()
    for name, _ in stream.readers:
        assert not masks[f"{name}.weight"][:, 0].any()


def test_the_score_of_a_channel_is_the_sum_over_its_weights():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.4], [3.0, 0.0]]))
    masks = find_masks(model, [], "magnitude", 8 / 12, granularity="channel")
    assert masks["0.weight"].tolist() == [[True, True], [False, False], [True, True]], "2, .9 and 3"
    assert count_kept(masks) == 8


def test_gates_by_hand():
    """The network o = v1 relu(u1 x + b1) + v2 relu(u2 x + b2), L = o, x = 2: dL/dc is v (u x + b), if positive."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([1.0, 7.0]))
        model[2].weight.copy_(torch.tensor([[2.0, -4.0]]))
        model[2].bias.fill_(5.0)
    net = Network(model, lambda outputs, _: outputs.mean(), 0)
    net.batches = [(torch.tensor([[2.0]]), torch.zeros(1))]
    gates = gate_sensitivity(net)
    assert gates["0.weight"].tolist() == [2 * 7, -4 * 5]
    assert gates["2.weight"].tolist() == [14 - 20 + 5]
    net.masks["0.weight"][1] = False  # the bias of a unit without weights still passes through its gate
    assert gate_sensitivity(net)["0.weight"].tolist() == [14, -28]


def test_relevances_by_hand():
    """Skeletonization, with a linear output o and E = sum |t - o|: the relevance of a unit is sum sign(t - o) v h."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, -1.0]]))
    inputs, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [-9.0]])  # o = 0 and 0: signs of t - o: 1, -1
    batches = [(inputs, targets)]
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}

    def score(saliency):
        return score_network(model, masks, batches, saliency, lambda o, t: (t - o).abs().sum(), 0)

    # h = (1, 2, 3) and (2, 4, 6), so the relevances are 1 * (1, 2, -3) - 1 * (2, 4, -6) = (-1, -2, 3)
    weights = {name: weight.detach() for name, weight in prunable(model).items()}
    rule = Skeletonization(RulePlan(4 / 6, 8, 2, SCHEDULES["linear"], {"settle_at": 1}))
    assert rule.event_steps == [6, 8], "the first half of the training is dense"
    state = RuleState(weights, masks, {}, lambda name: {}, score, None, list_channels(model, (1,)))
    assert rule.after_step(8, state).masks["0.weight"].tolist() == [[True], [False], [True]]


def test_the_linear_error_by_hand():
    """Probabilities of 3/4 and 1/4: |1 - 3/4| + |0 - 1/4| = 1/2, and for the other class 3/2; their mean is 1."""
    logits = torch.tensor([[math.log(3.0), 0.0]] * 2)
    assert SALIENCY_LOSSES["linear_error"](logits, torch.tensor([0, 0])) == pytest.approx(0.5)
    assert SALIENCY_LOSSES["linear_error"](logits, torch.tensor([0, 1])) == pytest.approx(1)


@pytest.mark.parametrize("method", CHANNEL_METHODS)
@pytest.mark.parametrize("density", [0.7, 0.2, 0.05])
def test_the_network_becomes_smaller_and_stays_dense_inside(method, density):
    """Every weight that the masks keep is in the compacted network, and no other; the outputs are the same."""
    model = small_resnet()
    total = sum(weight.numel() for weight in prunable(model).values())
    masks = find_masks(model, draw_batches(), method, density, iterations=3, granularity="channel")
    assert 0.6 * density * total < count_kept(masks) <= density * total
    compaction = find_compaction(model, masks, IMAGE)
    assert sum(weight.numel() for weight in prunable(compaction.network).values()) == count_kept(masks)


@pytest.mark.parametrize("method", CHANNEL_METHODS)
def test_depthwise_convolutions_and_gates_lose_the_same_channels(method):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.expand = nn.Conv2d(1, 6, 1, bias=False)
            self.norm = nn.BatchNorm2d(6)
            self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.gate = nn.Linear(6, 6)
            self.project = nn.Conv2d(6, 4, 1)
            self.head = nn.Linear(4, 10)

        def forward(self, images):
            inside = torch.relu(self.depthwise(torch.relu(self.norm(self.expand(images)))))
            inside = inside * torch.sigmoid(self.gate(inside.mean((2, 3)))).view(-1, 6, 1, 1)
            return self.head(torch.relu(self.project(inside)).mean((2, 3)))

    class Plain(Gated):
        def forward(self, images):
            inside = torch.relu(self.depthwise(torch.relu(self.norm(self.expand(images)))))
            return self.head(torch.relu(self.project(inside)).mean((2, 3)))

    torch.manual_seed(0)
    masks = find_masks(Gated(), draw_batches(), method, 0.8, iterations=2, granularity="channel")
    assert masks["expand.weight"].all(), "a view in the gate may mix channels, so its group is whole"
    model = Plain()
    masks = find_masks(model.requires_grad_(), draw_batches(), method, 0.5, iterations=2, granularity="channel")
    if method != "random_erk":  # it gives the small first layers most of their weights
        assert not masks["expand.weight"].all()
    kept = masks["expand.weight"].flatten(1).any(1)
    assert torch.equal(masks["depthwise.weight"].flatten(1).any(1), kept)
    assert torch.equal(masks["project.weight"].flatten(1).any(0), kept)


@pytest.mark.parametrize("method", CHANNEL_METHODS)
def test_channels_are_the_same_again_and_leave_the_model_alone(method):
    model = small_resnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (
        find_masks(model, draw_batches(), method, 0.2, iterations=3, granularity="channel", seed=1) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(
    ("activation", "has_biases", "force_returns"),
    [(nn.Tanh, True, True), (nn.ReLU, True, True), (nn.ReLU, False, False)],
)
def test_a_channel_returns_only_where_the_method_allows_it(activation, has_biases, force_returns):
    """Behind a ReLU a channel that is cut gets a gradient, and may return, only if it has a positive bias."""
    torch.manual_seed(0)
    widths = (8, 40, 30, 10)
    layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m, bias=has_biases), activation())][:-1]
    returned = {}
    for method in ("iter_snip", "force", "snap_it"):
        batches = draw_batches((8,), count=12)
        steps = list(mask_steps(nn.Sequential(*layers), batches, method, 0.1, iterations=12, granularity="channel"))
        returned[method] = any(
            (after[name] & ~before[name]).any() for before, after in pairwise(steps) for name in after
        )
    assert returned == {"iter_snip": False, "force": force_returns, "snap_it": False}


def test_layers_of_other_masks_keep_as_many_channels():
    model = small_resnet()
    channels = list_channels(model)
    champion = find_masks(model, draw_batches(), "snip", 0.2, granularity="channel")
    twins = [
        find_masks(model, draw_batches(), "random", 0.2, granularity="channel", layer_masks=champion, seed=seed)
        for seed in (0, 1)
    ]
    expected = channels.count_kept(channels.find_kept(champion))
    for twin in twins:
        assert channels.count_kept(channels.find_kept(twin)) == expected
        assert count_kept(twin) == count_kept(champion)
    assert any(not torch.equal(twins[0][name], twins[1][name]) for name in champion)
    wider = find_masks(model, draw_batches(), "random", 0.6, granularity="channel", layer_masks=champion)
    assert count_kept(champion) < count_kept(wider) <= 0.6 * sum(weight.numel() for weight in prunable(model).values())


def test_uniform_layers_lose_the_same_share_of_channels():
    channels = list_channels(small_resnet())
    masks = find_masks(small_resnet(), draw_batches(), "magnitude_uniform", 0.3, granularity="channel")
    shares = [
        kept / group.size
        for kept, group in zip(channels.count_kept(channels.find_kept(masks)), channels.groups, strict=True)
    ]
    assert max(shares) - min(shares) <= 0.25, "a quarter is one channel of four"


widths = some.lists(some.integers(1, 12), min_size=3, max_size=5)


@given(widths, some.floats(0.01, 1), some.sampled_from([*CHANNEL_METHODS]), some.booleans(), some.integers(1, 4))
@settings(max_examples=60)
def test_masks_are_whole_channels_within_the_density(widths, density, method, invert, iterations):
    model, shape = mlp(widths), (widths[0],)
    channels = list_channels(model, shape)
    batches = draw_batches(shape, widths[-1])
    count = int(channels.total * density)
    arguments = {"iterations": iterations, "granularity": "channel", "invert": invert}
    if count < channels.smallest_count:
        with pytest.raises(InputError, match=r"density.*keeps none|less than one channel in a layer.*allowed"):
            find_masks(model, batches, method, density, **arguments)
        return
    masks = find_masks(model, batches, method, density, **arguments)
    keep = channels.find_kept(masks)
    remade = channels.make_masks(keep)
    assert all(torch.equal(remade[name], masks[name]) for name in masks), "rows and columns of whole channels"
    counts = channels.count_kept(keep)
    assert min(counts) >= 1
    assert channels.count_weights(counts) == count_kept(masks) <= count


def test_a_density_below_one_channel_a_layer_is_refused_with_the_lowest():
    with pytest.raises(InputError, match=r"less than one channel in a layer.*10 of the 62.*at least 0\.17") as error:
        find_masks(mlp((6, 5, 4, 3)), [], "magnitude", 0.1, granularity="channel")
    lowest = float(str(error.value).rpartition(" ")[2])
    assert count_kept(find_masks(mlp((6, 5, 4, 3)), [], "magnitude", lowest, granularity="channel")) == 10


def test_networks_whose_channels_cannot_be_cut_are_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, inputs):
            return self.layer(inputs) if inputs.sum() > 0 else self.layer(-inputs)

    with pytest.raises(InputError, match="Branching cannot be traced.*allowed: granularity `weight`"):
        find_masks(Branching(), draw_batches((4,), 2), "snip", 0.5, granularity="channel")
    with pytest.raises(InputError, match="no channel of Sequential can be cut.*allowed: granularity `weight`"):
        find_masks(nn.Sequential(nn.Linear(4, 2)), [], "random", 0.5, granularity="channel")


def test_frozen_layers_keep_the_channels_that_they_touch():
    model = mlp((6, 5, 4, 3))
    model[2].weight.requires_grad_(False)
    with pytest.raises(InputError, match="no channel"):
        find_masks(model, [], "random", 0.5, granularity="channel")


def test_weights_that_are_shared_or_read_elsewhere_keep_their_channels():
    class Tied(nn.Module):
        def __init__(self, reads_weight):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
            self.third, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
            self.reads_weight = reads_weight
            if not reads_weight:
                self.third.weight = self.second.weight

        def forward(self, inputs):
            inside = torch.relu(self.second(torch.relu(self.first(inputs))))
            third = functional.linear(inside, self.second.weight) if self.reads_weight else self.third(inside)
            return self.last(torch.relu(third))

    for reads_weight in (False, True):
        with pytest.raises(InputError, match="no channel of Tied can be cut"):
            list_channels(Tied(reads_weight), (4,))


def test_networks_that_call_other_layers_in_training_are_refused():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, inputs):
            inside = torch.relu(self.first(inputs))
            return self.last(inside) + self.second(inside) if self.training else self.last(inside)

    with pytest.raises(InputError, match="calls other layers in training"):
        list_channels(Auxiliary(), (4,))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(Auxiliary()).items()}
    with pytest.raises(CompactionError, match="calls other layers in training"):
        find_compaction(Auxiliary(), masks, (4,))


@pytest.mark.parametrize(
    ("flatten", "is_cut"),
    [
        (lambda x: x.view(x.shape[0], -1), True),
        (lambda x: x.view(-1, 6 * 36), False),
        (lambda x: x.view((-1, 6 * 36)), False),
        (lambda x: x.view(x.shape[0], x.shape[1] * 36), False),
        (lambda x: x.flatten(1), True),
    ],
    ids=["shape", "number", "tuple", "channels", "flatten"],
)
def test_a_flattening_is_cut_where_it_fits_fewer_channels(flatten, is_cut):
    class Flattening(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inside, self.last = nn.Conv2d(1, 5, 1), nn.Conv2d(5, 6, 3), nn.Linear(6 * 36, 3)

        def forward(self, images):
            return self.last(flatten(torch.relu(self.inside(torch.relu(self.first(images))))))

    model = Flattening()
    assert [group.size for group in list_channels(model).groups] == ([5, 6] if is_cut else [5])
    masks = find_masks(model, draw_batches(), "magnitude", 0.9, granularity="channel")
    assert sum(weight.numel() for weight in prunable(find_compaction(model, masks, IMAGE).network).values()) == (
        count_kept(masks)
    )


def test_tracing_leaves_modes_buffers_and_random_state_alone(capsys):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.last = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 10)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, images):
            self.passes.add_(1)
            return self.last(torch.relu(self.norm(self.layer(images))).mean((2, 3)))

    model = Counting()
    model.norm.eval()
    masks = find_masks(model, draw_batches(), "snip", 0.5, granularity="channel")
    shuffle_channels(model, masks, IMAGE, 0)
    assert (model.passes, model.training, model.norm.training) == (0, True, False)


def test_an_error_in_the_forward_pass_is_one_line(capsys):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2))
    with pytest.raises(InputError) as error:
        list_channels(model, (4,))
    assert "\n" not in str(error.value)
    assert "shapes cannot be multiplied" in str(error.value)
    assert capsys.readouterr().err == ""


def test_an_unknown_granularity_is_refused():
    with pytest.raises(InputError, match="granularity 'filter'.*allowed: weight, channel"):
        find_masks(mlp(), [], "magnitude", 0.5, granularity="filter")


def test_masks_without_a_channel_leave_one():
    model = mlp()
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    copied = find_masks(model, [], "random", 0.3, granularity="channel", layer_masks=masks)
    channels = list_channels(model, (6,))
    assert channels.count_kept(channels.find_kept(copied)) == [1, 1]


def test_the_lowest_density_is_the_lowest_of_two_digits():
    for widths in [(33, 19, 18, 3), (6, 5, 4, 3), (90, 3, 7, 4), (29, 1, 1), (5, 12, 3, 7)]:
        channels = list_channels(mlp(widths), (widths[0],))
        lowest = channels.smallest_density
        assert int(channels.total * lowest) >= channels.smallest_count
        below = lowest - 10.0 ** (math.floor(math.log10(lowest) + 1e-9) - 1)
        assert int(channels.total * below) < channels.smallest_count


def test_random_draws_favour_no_layer():
    """One draw a channel: a sum of 100 draws would beat a sum of 4."""
    model = mlp((100, 10, 4, 10, 3))
    channels = list_channels(model, (100,))
    rates = torch.zeros(3)
    for seed in range(100):
        masks = find_masks(model, [], "random", 0.5, granularity="channel", seed=seed)
        rates += torch.tensor(channels.count_kept(channels.find_kept(masks))) / torch.tensor([10, 4, 10])
    assert rates[0] / 100 < rates[2] / 100 + 0.1


def test_snap_ranks_the_size_of_a_derivative():
    """The derivatives are 2 and -3: the second unit stays, and with `invert` the first."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(torch.tensor([[2.0, -3.0]]))
    batches = [(torch.ones(2, 1), torch.zeros(2))]
    for invert, expected in ((False, [False, True]), (True, [True, False])):
        masks = find_masks(model, batches, "snap", 0.5, loss=lambda outputs, _: outputs.mean(), invert=invert)
        assert masks["0.weight"].flatten().tolist() == expected


def test_depthwise_filters_count_in_the_score():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, groups=2, bias=False), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        model[1].weight.copy_(torch.tensor([4.0, 2.0]).view(2, 1, 1, 1))  # the sums are 5 and 4
    assert list_channels(model).sum_rows(dict(prunable(model))).tolist() == [5, 4]


def test_the_share_of_a_group_is_the_root_of_its_density():
    channels = list_channels(mlp((20, 20, 20, 20)), (20,))
    assert channels.find_shares(uniform, channels.total // 4) == pytest.approx([0.5, 0.5])


def test_a_unit_that_was_cut_does_not_return_for_its_relevance_of_zero():
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    channels = list_channels(model, (1,))
    masks = channels.make_masks(torch.tensor([False, True, True]))
    gates = {"0.weight": torch.tensor([0.0, 1.0, 2.0]), "2.weight": torch.zeros(1)}  # relevances 0, -1 and -2
    state = RuleState({}, masks, {}, lambda name: {}, lambda saliency: gates, None, channels)
    state.weights.update(prunable(model))
    rule = Skeletonization(RulePlan(2 / 6, 8, 1, SCHEDULES["linear"], {"settle_at": 1}))
    assert rule.after_step(8, state).masks["0.weight"].flatten().tolist() == [False, True, False]


def test_a_shuffle_keeps_the_number_of_channels_of_each_group():
    model = small_resnet()
    channels = list_channels(model)
    masks = find_masks(model, draw_batches(), "snip", 0.2, granularity="channel")
    keep = channels.find_kept(masks)
    shuffles = [shuffle_channels(model, masks, IMAGE, seed) for seed in (0, 0, 1)]
    kept = [channels.find_kept(shuffled) for shuffled in shuffles]
    assert all(channels.count_kept(shuffled) == channels.count_kept(keep) for shuffled in kept)
    assert all(count_kept(shuffled) == count_kept(masks) for shuffled in shuffles)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    assert not torch.equal(kept[0], keep)


CHANNEL_RECORDS_FOLDER = Path(__file__).parents[1] / "data" / "conformance_training"


def list_recorded(*methods):
    return [
        pytest.param(file, case, id=f"{file}-{case['name']}")
        for file in ("structured_mlp", "structured_conv")
        for case in json.loads((CHANNEL_RECORDS_FOLDER / f"{file}.json").read_text())["cases"]
        if case["method"] in methods
    ]


class Recorded:
    """The network, the batches and the decisions of a case."""

    def __init__(self, file, case, build_layers):
        record = json.loads((CHANNEL_RECORDS_FOLDER / f"{file}.json").read_text())
        arrays = np.load(CHANNEL_RECORDS_FOLDER / f"{file}.npz", allow_pickle=False)
        model = build_layers(record["layers"])
        model.load_state_dict(
            {key.removeprefix("param/"): torch.from_numpy(arrays[key]) for key in arrays.files if "param/" in key},
            strict=False,
        )
        loss = {"ce": functional.cross_entropy, "nll_logits": functional.nll_loss}[case.get("loss", "ce")]
        self.net = Network(model.eval(), loss, 0)
        self.net.batches = [
            (torch.from_numpy(arrays[f"batch/{i}/x"]).double(), torch.from_numpy(arrays[f"batch/{i}/y"]))
            for i in case.get("batches", [0])
        ]
        self.channels = NetworkChannels(model, self.net.weights, tuple(self.net.batches[0][0].shape[1:]))
        units = sum(size for _, size in record["unit_order"])
        self.keep = torch.from_numpy(np.unpackbits(arrays[f"keep/{case['name']}"], axis=1)[:, :units].astype(bool))
        score = f"score0/{case['name']}"
        self.first_score = torch.from_numpy(arrays[score]) if score in arrays.files else None


@pytest.mark.parametrize(("file", "case"), list_recorded("SNAP", "SNAP-it"))
def test_snap_as_its_authors_program(file, case, build_layers):
    """Each event keeps the units of the program, with the number that it kept."""
    recorded = Recorded(file, case, build_layers)
    net, channels = recorded.net, recorded.channels
    for event, number in enumerate(case["kept"]):
        scores = channels.sum_gates(gate_sensitivity(net)).abs()
        if event == 0:  # the program divides by the loss, and its scores sum to 1
            assert torch.allclose(scores / scores.sum(), recorded.first_score / recorded.first_score.sum(), rtol=1e-9)
        keep = channels.keep_best(scores.masked_fill(~channels.find_kept(net.masks), -torch.inf), number)
        assert (keep != recorded.keep[event]).sum() == 0
        net.masks = channels.make_masks(keep)
    assert count_kept(net.masks) == case["weights_left"]


def test_the_documents_count_the_cases():
    page = (Path(__file__).parents[2] / "docs" / "guide" / "methods.md").read_text()
    rows = {"`snap`": "SNAP", "`snap_it`": "SNAP-it", "`magnitude_uniform` by channel": "L1-norm channels"}
    for name, method in rows.items():
        cases = [parameter.values[1] for parameter in list_recorded(method)]
        assert f"| {name} | {len(cases)} | {sum(len(case['kept']) for case in cases)} |" in page


@pytest.mark.parametrize(("file", "case"), list_recorded("L1-norm channels"))
def test_l1_norms_of_filters_as_their_program(file, case, build_layers):
    """`magnitude_uniform` by channels: in each layer the filters of the largest L1 norm remain."""
    recorded = Recorded(file, case, build_layers)
    channels, weights = recorded.channels, recorded.net.weights
    shares = [kept / group.size for kept, group in zip(case["kept_per_layer"][0], channels.groups, strict=True)]
    scores = channels.sum_rows(METHODS["magnitude_uniform"].score(recorded.net))
    keep = channels.keep_best(channels.rank_in_groups(scores, shares), sum(case["kept_per_layer"][0]))
    assert torch.equal(keep, recorded.keep[0])
    masks = find_masks(
        recorded.net.model, [(recorded.net.batches[0])], "magnitude_uniform",
        count_kept(channels.make_masks(keep)) / sum(weight.numel() for weight in weights.values()) + 1e-12,
        granularity="channel",
    )  # fmt: skip
    assert abs(int(channels.find_kept(masks).sum()) - int(keep.sum())) <= 1
