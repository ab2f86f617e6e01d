"""Data-parallel training: several processes compute what one process computes with the whole batches, in float64."""

import copy
import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from shared_constants import REPOSITORY
from synthetic_data import SYNTHETIC, TRAINING, VALIDATION
from thread_groups import run_together
from torch import nn

from forcetune.data import Batches
from forcetune.pruning import dense_masks, find_masks
from forcetune.training import Diverged, LostProcessError, ParallelTraining, Training
from forcetune.training.parallel import ParallelStep
from forcetune.training.shared_norm import Share, share_norms
from forcetune.training.step import Recipe

ROUNDING = 1e-12  # relative


making = threading.Lock()  # tracing a network, and drawing its weights, are for one thread at a time


def synchronised(function):
    def call(*arguments, **options):
        with making:
            return function(*arguments, **options)

    return call


class DoubleBatches:
    """Batches in float64."""

    def __init__(self, batches):
        self._batches = batches

    def __getattr__(self, name):
        return getattr(self._batches, name)

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        for inputs, targets in self._batches:
            yield inputs.double(), targets

    def share(self, rank, size):
        return DoubleBatches(self._batches.share(rank, size))


def make_dense_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4))


def make_convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, bias=False),  # batch norm leaves its bias a gradient of rounding errors alone
        nn.BatchNorm2d(6, momentum=None),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


@synchronised
def make_training(make, group=None, batch_size=64, density=0.2, shares_norms=True, **options):
    """Return a training in one process or in one of a group, and its network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
    masks = find_masks(model, [], "random", density)
    batches = DoubleBatches(Batches(replace(SYNTHETIC, pad=1, flip=True), TRAINING, batch_size, 0))
    validation = DoubleBatches(Batches(SYNTHETIC, VALIDATION, 100))
    settings = {"epochs": 3, "lr": 0.1, "input_shape": SYNTHETIC.input_shape, **options}
    if group is None:
        return Training(model, masks, batches, validation, **settings), model
    shares = batches.share(group.rank, group.size)
    settings |= {"group": group, "seed": 1, "shares_norms": shares_norms}
    return ParallelTraining(model, masks, shares, validation, **settings), model


def train(*arguments, **options):
    """Return the metrics of each epoch, the network, and the training."""
    training, model = make_training(*arguments, **options)
    return list(training), model, training


def list_numbers(epochs, *names):
    return torch.tensor([[epoch[name] for name in names] for epoch in epochs], dtype=torch.float64)


def check_close(numbers, expected, rounding=ROUNDING):
    torch.testing.assert_close(numbers, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize(
    ("make", "size", "options"),
    [
        (make_dense_network, 2, {}),
        (make_convolutions, 2, {}),
        (make_convolutions, 3, {"batch_size": 64}),  # shares of 21, 21 and 22 images
        (make_dense_network, 2, {"batch_size": 57}),  # the last batch of a pass has 3 images, too few to be split
        (make_convolutions, 2, {"density": 1.0, "weight_decay": 0.1}),
        (make_dense_network, 4, {"clip_norm": 0.1, "momentum": 0.0}),
        (make_convolutions, 2, {"optimizer": "adamw", "lr": 0.01}),
    ],
)
def test_losses_and_weights_are_those_of_one_process(make, size, options):
    rounding = 1e-10 if "optimizer" in options else ROUNDING  # AdamW divides gradients by their size
    expected, expected_model, _ = train(make, **options)
    (epochs, model, _), *followers = run_together(size, lambda group: train(make, group, **options))
    assert [sorted(epoch) for epoch in epochs] == [sorted(epoch) for epoch in expected]
    names = ("train_loss", "val_loss", "val_accuracy", "training_flops", "training_flops_sparse")
    check_close(list_numbers(epochs, *names), list_numbers(expected, *names), rounding)
    check_close(list_numbers(epochs[:1], "ema_val_loss"), list_numbers(expected[:1], "ema_val_loss"), rounding)
    for name, tensor in model.state_dict().items():
        check_close(tensor, expected_model.state_dict()[name], rounding)
        assert all(torch.equal(tensor, other.state_dict()[name]) for _, other, _ in followers), name
    for other_epochs, _, _ in followers:
        assert "val_loss" not in other_epochs[0], "the first process measures"
        assert [epoch["train_loss"] for epoch in other_epochs] == [epoch["train_loss"] for epoch in epochs]


def test_dead_channels_are_cut_out_in_every_process():
    expected, _, training = train(make_dense_network, density=0.03)
    assert training.macs_fraction < 0.9
    results = run_together(2, lambda group: train(make_dense_network, group, density=0.03))
    assert {training.macs_fraction for _, _, training in results} == {training.macs_fraction}
    check_close(list_numbers(results[0][0], "train_loss", "val_loss"), list_numbers(expected, "train_loss", "val_loss"))


class GhostNorm(nn.BatchNorm1d):
    """Batch norm that takes the halves of a batch for themselves."""

    def forward(self, inputs):
        if not self.training:
            return super().forward(inputs)
        return torch.cat([super(GhostNorm, self).forward(half) for half in inputs.tensor_split(2)])


def test_without_synchronisation_each_process_normalizes_its_share():
    def make_ghost():
        model = make_dense_network()
        model[2] = GhostNorm(20)
        return model

    expected, _, _ = train(make_ghost)
    synchronised_epochs, _, _ = train(make_dense_network)
    epochs = run_together(2, lambda group: train(make_dense_network, group, shares_norms=False))[0][0]
    losses = list_numbers(epochs, "train_loss")
    check_close(losses, list_numbers(expected, "train_loss"))
    assert (losses - list_numbers(synchronised_epochs, "train_loss")).abs().max() > 1e-4


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 2)])
def test_a_shared_norm_is_that_of_the_whole_batch(shape, options):
    torch.manual_seed(0)
    inputs, factors = torch.randn(2, *shape, dtype=torch.float64)
    inputs = inputs * 3 + 100
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    norm = kind(3, dtype=torch.float64, **options)

    def run(norm, rows):
        leaf = inputs[rows].clone().requires_grad_()
        outputs = norm(norm(leaf) * factors[rows])
        (outputs * factors[rows]).sum().backward()
        parameters = torch.stack([p.grad for p in norm.parameters()]) if norm.affine else torch.zeros(2)
        return outputs.detach(), leaf.grad, parameters

    def run_share(group):
        shared = copy.deepcopy(norm)
        share_norms(shared, group, Share(0.4 if group.rank == 0 else 0.6))
        return (*run(shared, slice(0, 2) if group.rank == 0 else slice(2, 5)), shared.state_dict())

    first, second = run_together(2, run_share)
    outputs, input_gradient, parameter_gradient = run(norm, slice(0, 5))
    check_close(torch.cat([first[0], second[0]]), outputs)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), input_gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(first[2] + second[2], parameter_gradient, rtol=1e-9, atol=1e-9)
    for name, value in norm.state_dict().items():
        check_close(first[3][name], value)
        assert torch.equal(first[3][name], second[3][name])


def test_a_shared_norm_keeps_its_class_and_its_hooks():
    model = make_convolutions()
    calls = []
    model[1].register_forward_hook(lambda *arguments: calls.append(1))
    names = list(model.state_dict())
    share_norms(model, None, Share())
    share_norms(model, None, Share())
    assert isinstance(model[1], nn.BatchNorm2d)
    assert list(model.state_dict()) == names
    model(torch.zeros(2, 1, 8, 8))  # a batch that is not split needs no other process
    assert calls == [1]


def test_the_gradients_of_pruned_weights_are_not_sent():
    model = make_dense_network()
    masks = find_masks(model, [], "random", 0.1)
    kept = sum(int(mask.sum()) for mask in masks.values())
    unmasked = sum(p.numel() for p in model.parameters()) - sum(mask.numel() for mask in masks.values())

    def take_step(group):
        step = ParallelStep(copy.deepcopy(model), masks, Recipe(), group, Share(0.5))
        step(torch.randn(8, 1, 8, 8), torch.arange(8) % 4, 0.1)
        return group.sums

    sums = run_together(2, take_step)
    assert sums[0] == sums[1] == [1 + len(list(model.parameters())) + kept + unmasked]


class OneBranch(nn.Module):
    """Two layers of which each process uses another one, and a third one that none uses."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2, dtype=torch.float64) for _ in range(3)])
        self.rank = 0

    def forward(self, inputs):
        return self.layers[self.rank](inputs)


def test_a_weight_that_one_process_alone_uses_moves_in_all():
    torch.manual_seed(0)
    model, inputs, targets = OneBranch(), torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0])

    def take_step(group):
        network = copy.deepcopy(model)
        network.rank = group.rank
        step = ParallelStep(network, dense_masks(network), Recipe(momentum=0.0, weight_decay=0.1), group, Share(0.5))
        rows = slice(2 * group.rank, 2 * group.rank + 2)
        step(inputs[rows], targets[rows], 0.1)
        return network.state_dict()

    first, second = run_together(2, take_step)
    assert all(torch.equal(first[name], second[name]) for name in first)
    is_moved = [not torch.equal(first[f"layers.{index}.bias"], layer.bias) for index, layer in enumerate(model.layers)]
    assert is_moved == [True, True, False], "as in one process, a weight without a gradient does not decay either"


def test_a_training_goes_on_in_other_processes_from_the_state_of_the_first():
    def begin(group):
        training, _ = make_training(make_convolutions, group)
        next(iter(training))
        return copy.deepcopy(training.state_dict())

    def resume(group):
        training, _ = make_training(make_convolutions, group)
        training.load_state_dict(copy.deepcopy(state))
        return list(training)

    expected = run_together(2, lambda group: train(make_convolutions, group)[0])
    state = run_together(2, begin)[0]
    assert run_together(2, resume) == [epochs[1:] for epochs in expected]


class LoneGroup:
    """A member whose others do as it does."""

    def __init__(self, rank):
        self.rank, self.size = rank, 3

    def gather(self, tensor):
        return tensor.expand(3, *tensor.shape)

    def broadcast(self, tensors):
        pass


def test_each_process_draws_a_dropout_of_its_own_in_each_epoch():
    def draw(rank, epoch):
        training, _ = make_training(make_dense_network, LoneGroup(rank))
        training.epoch = epoch
        torch.manual_seed(5)
        training._begin_epoch()
        return float(torch.rand(()))

    with torch.random.fork_rng():
        first = draw(0, 1)
        torch.manual_seed(5)
        assert first == float(torch.rand(())), "the first draws as one process does"
        assert len({draw(rank, epoch) for rank in (0, 1, 2) for epoch in (1, 2)}) == 5
        assert draw(1, 1) == draw(1, 1)


def test_a_diverged_training_ends_in_every_process():
    def diverge(group):
        with pytest.raises(Diverged, match="became (nan|inf) in epoch 1"):
            train(make_dense_network, group, lr=1e200)
        return True

    assert run_together(2, diverge) == [True, True]


def test_networks_of_different_sizes_are_not_trained_together():
    def train_other(group):
        with pytest.raises(LostProcessError, match="would train networks of"):
            train(make_dense_network if group.rank else make_convolutions, group)
        return True

    assert run_together(2, train_other) == [True, True]


# Started twice, with the rank and a file in which the two processes find each other; each prints its losses.
GLOO_PY = """
import json, sys
from datetime import timedelta
import torch
from torch import distributed
sys.path.insert(0, {tests!r})
sys.path.insert(0, {shared!r})
from test_parallel import make_convolutions, train
from forcetune.training import TorchGroup
torch.set_num_threads(1)
rank, path = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    "gloo", store=distributed.FileStore(path, 2), rank=rank, world_size=2, timeout=timedelta(seconds=240)
)
epochs, model, _ = train(make_convolutions, TorchGroup())
print(json.dumps([epochs, [float(p.detach().abs().sum()) for p in model.parameters()]]))
"""


def test_two_processes_of_gloo_have_the_losses_of_one(tmp_path):
    code = GLOO_PY.format(tests=str(REPOSITORY / "tests/training"), shared=str(REPOSITORY / "tests"))
    command = [sys.executable, "-c", code]
    environment = {"PATH": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, env=environment, text=True
        )
        for rank in range(2)
    ]
    try:
        outputs = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    finally:
        for process in processes:
            with process:
                process.kill()
    expected, expected_model, _ = train(make_convolutions)
    names = ("train_loss", "val_loss", "val_accuracy")
    check_close(list_numbers(outputs[0][0], *names), list_numbers(expected, *names))
    expected_sums = [float(p.detach().abs().sum()) for p in expected_model.parameters()]
    check_close(torch.tensor(outputs[0][1], dtype=torch.float64), torch.tensor(expected_sums, dtype=torch.float64))
    assert outputs[0][1] == outputs[1][1]
