"""The masks of a trial: every field of the saliency counts, its samples are counted, whole channels can be pruned."""

import pytest
import torch
from small_trials import flatten_masks, make_trial, prepare_trial

from forcetune import trial
from forcetune.pruning import NetworkChannels, prunable


@pytest.mark.parametrize(
    ("fields", "samples"),
    [
        # A tenth of the 320 images is for validation. The other 288 come in batches of 128, 128 and 32.
        ({"method": "snip"}, 128),
        ({"method": "snip", "batches_per_step": 3}, 128 + 128 + 32),
        ({"method": "force", "iterations": 4}, 128 + 128 + 32 + 128),
        ({"method": "force", "iterations": 3, "batches_per_step": 2}, 2 * (128 + 128 + 32)),
        ({"method": "snip_mb", "iterations": 2, "batches_per_step": 2}, 128 + 128 + 32 + 128),
        # GraSP takes ten samples of each of the four classes, unless samples_per_class changes that.
        ({"method": "grasp"}, 40),
        ({"method": "grasp", "samples_per_class": 2, "batches_per_step": 3}, 24),
        ({"method": "grasp", "samples_per_class": 0}, 128),
        ({"method": "snip", "samples_per_class": 5}, 20),
        ({"method": "grasp_mb", "iterations": 3}, 128 + 128 + 32),
        ({"method": "prospr"}, 128 + 128 + 32 + 128),
        ({"method": "prospr", "inner_steps": 0}, 128),
        ({"method": "snip", "saliency_batch_size": 1000}, 288),
        ({"method": "random"}, 0),
        ({"method": "synflow"}, 0),
    ],
)
def test_saliency_samples_are_counted(fields, samples):
    assert trial.prepare(make_trial(**fields)).metrics["saliency_samples"] == samples


def prepare_masks(**fields):
    return torch.cat([mask.flatten() for mask in trial.prepare(make_trial(**fields)).masks.values()])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 3),
        ("schedule", "linear"),
        ("batches_per_step", 2),
        ("saliency_batch_size", 64),
        ("saliency_loss", "nll_logits"),
    ],
)
def test_every_field_of_the_saliency_is_used(field, value):
    assert not torch.equal(prepare_masks(method="force", **{field: value}), prepare_masks(method="force"))


def test_a_random_mask_is_drawn_by_the_seed():
    assert not torch.equal(prepare_masks(method="random", seed=0), prepare_masks(method="random", seed=1))


def test_options_reach_the_method():
    default, same, other = (
        prepare_trial(method="grasp", density=0.3, **options)
        for options in ({}, {"temperature": 200.0}, {"temperature": 0.1})
    )
    assert torch.equal(flatten_masks(default), flatten_masks(same))
    assert not torch.equal(flatten_masks(default), flatten_masks(other))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_trial_prunes_whole_channels(shuffle):
    prepared = prepare_trial(method="snip", granularity="channel", shuffle=shuffle, density=0.2)
    weights = {name: weight.detach() for name, weight in prunable(prepared.model).items()}
    channels = NetworkChannels(prepared.model, weights, prepared.dataset.input_shape)
    remade = channels.make_masks(channels.find_kept(prepared.masks))
    assert all(torch.equal(remade[name], mask) for name, mask in prepared.masks.items())
    assert 0.6 * 0.2 < prepared.metrics["density"] <= 0.2
