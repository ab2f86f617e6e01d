"""The masks of each method on the device, in float64: they are those of the CPU."""

import pytest
import torch
from torch import nn

from forcetune.pruning import METHODS, find_masks
from forcetune.pruning.selection import WeightSelection

pytestmark = pytest.mark.gpu

# Two scores that differ by less, relative to the larger one where it exceeds 1, may be ranked either way
TIE_TOLERANCE = 1e-12
SCORED_SHAPE, SCORED_CLASSES, SCORED_SAMPLES = (2, 8, 8), 4, 16
WEIGHT_METHODS = [name for name, row in METHODS.items() if not row.starts_dense and not row.scores_gates]


def network():
    """Return a network with convolutions, batch norm, a residual path and a linear layer, in float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), Residual(6)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, SCORED_CLASSES)).double()


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x):
        return x + self.inner(x)


def batches(device):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn((SCORED_SAMPLES, *SCORED_SHAPE), generator=generator, dtype=torch.float64).to(device),
            (torch.arange(SCORED_SAMPLES) % SCORED_CLASSES).to(device),
        )
        for _ in range(4)
    ]


@pytest.fixture
def record(monkeypatch):
    """Return a function that finds masks and returns each pruning step's scores and kept weights, on the CPU."""

    def find(method, device):
        steps = []
        keep = WeightSelection.keep

        def recording(selection, scores):
            masks = keep(selection, scores)
            steps.append((scores.cpu(), torch.cat([mask.flatten() for mask in masks.values()]).cpu()))
            return masks

        with monkeypatch.context() as patched:
            patched.setattr(WeightSelection, "keep", recording)
            find_masks(network().to(device), batches(device), method, 0.1, iterations=5, seed=3)
        return steps

    return find


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_masks_are_those_of_the_cpu(method, device, record):
    on_cpu, on_device = record(method, torch.device("cpu")), record(method, device)
    assert len(on_cpu) == len(on_device) > 0
    for (scores, kept), (_, also_kept) in zip(on_cpu, on_device, strict=True):
        assert int(kept.sum()) == int(also_kept.sum())
        if torch.equal(kept, also_kept):
            continue
        dropped, taken = scores[kept & ~also_kept], scores[also_kept & ~kept]
        gap = (dropped.max() - taken.min()).abs()
        assert gap < TIE_TOLERANCE * max(1.0, float(dropped.abs().max())), f"{len(taken)} weights differ"
        break  # later steps score other networks


@pytest.mark.parametrize("method", ["snip", "force", "synflow", "random", "magnitude_uniform", "snap", "snap_it"])
def test_channels_are_those_of_the_cpu(method, device):
    on_cpu, on_device = (
        find_masks(network().to(d), batches(d), method, 0.3, iterations=5, granularity="channel", seed=3)
        for d in (torch.device("cpu"), device)
    )
    assert all(torch.equal(mask, on_device[name].cpu()) for name, mask in on_cpu.items())


def test_the_model_stays_as_it_was(device):
    model = network().to(device)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states_before = torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == "cuda" else ())
    find_masks(model, batches(device), "force", 0.1, iterations=3)
    states_after = torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == "cuda" else ())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(states_before, states_after, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
