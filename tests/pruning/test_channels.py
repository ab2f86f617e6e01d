"""Whole channels: which can be cut, how many fit a density, and what remains of the network."""

import json
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
    SCHEDULES,
    NetworkChannels,
    RulePlan,
    RuleState,
    find_masks,
    mask_steps,
    prunable,
    score_network,
)
from forcetune.pruning.network import Network
from forcetune.pruning.saliency import gate_sensitivity
from forcetune.pruning.skeletonization import Skeletonization
from forcetune.training import find_compaction

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


def test_a_channel_returns_only_where_the_method_allows_it():
    """Behind a ReLU a channel that is cut gets no gradient, and never returns; behind a tanh it may."""
    torch.manual_seed(0)
    layers = nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 10)
    returned = {}
    for method in ("iter_snip", "force", "snap_it"):
        batches = draw_batches((8,), count=12)
        steps = list(mask_steps(nn.Sequential(*layers), batches, method, 0.1, iterations=12, granularity="channel"))
        returned[method] = any(
            (after[name] & ~before[name]).any() for before, after in pairwise(steps) for name in after
        )
    assert returned == {"iter_snip": False, "force": True, "snap_it": False}


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


RECORDS_FOLDER = Path(__file__).parents[1] / "data" / "conformance_training"


def list_recorded(*methods):
    return [
        pytest.param(file, case, id=f"{file}-{case['name']}")
        for file in ("structured_mlp", "structured_conv")
        for case in json.loads((RECORDS_FOLDER / f"{file}.json").read_text())["cases"]
        if case["method"] in methods
    ]


class Recorded:
    """The network, the batches and the decisions of a case."""

    def __init__(self, file, case, build_layers):
        record = json.loads((RECORDS_FOLDER / f"{file}.json").read_text())
        arrays = np.load(RECORDS_FOLDER / f"{file}.npz", allow_pickle=False)
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
