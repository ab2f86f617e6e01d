"""Data that lies on the device: the same images, moves and batches as on the CPU."""

import pytest
import torch

from forcetune.data import load, moves

pytestmark = pytest.mark.gpu

ROUNDING_TOLERANCE = 1e-6  # a GPU multiplies by 1 / 255 where the CPU divides by 255


@pytest.fixture(scope="module")
def dataset():
    return load("textures")


def test_splits_are_those_of_the_cpu(dataset, device):
    for images, device_images in zip(dataset.split(3, 600), dataset.to(device).split(3, 600), strict=True):
        assert device_images.inputs.device.type == device_images.targets.device.type == device.type
        assert torch.equal(images.inputs, device_images.inputs.cpu())
        assert torch.equal(images.targets, device_images.targets.cpu())


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (0, True)])
def test_images_are_moved_as_on_the_cpu(dataset, device, pad, flip):
    images = dataset.train.inputs[:50]
    drawn = moves.draw_moves(len(images), pad, flip, torch.Generator().manual_seed(0))
    moved = moves.apply_moves(images, drawn, pad, flip)
    assert torch.equal(moved, moves.apply_moves(images.to(device), drawn.to(device), pad, flip).cpu())
    assert not torch.equal(moved, images)


def test_batches_of_two_passes_are_those_of_the_cpu(dataset, device):
    on_device = dataset.to(device)
    batches, device_batches = (source.batches(source.split(0, 400)[0], 64, seed=5) for source in (dataset, on_device))
    for _ in range(2):
        pairs = list(zip(batches, device_batches, strict=True))
        assert len(pairs) == len(batches)
        for (inputs, targets), (device_inputs, device_targets) in pairs:
            assert device_inputs.device.type == device.type
            assert torch.allclose(inputs, device_inputs.cpu(), rtol=0, atol=ROUNDING_TOLERANCE)
            assert torch.equal(targets, device_targets.cpu())


def test_batches_with_every_class_equally_often(dataset, device):
    on_device = dataset.to(device)
    inputs, targets = next(iter(on_device.batches(on_device.split(0)[0], 64, seed=5, per_class=3)))
    assert inputs.device.type == device.type
    assert torch.bincount(targets.cpu()).tolist() == [3] * 10


def test_an_augmentation_of_the_users_runs_on_the_device(dataset, device):
    from dataclasses import replace

    device_types = []

    def augment(images, generator):
        device_types.append(images.device.type)
        return images.flip(-1)

    augmented = replace(dataset, augment=augment).to(device)
    inputs, _ = next(iter(augmented.batches(augmented.split(0, 200)[0], 64, seed=5)))
    assert device_types == [device.type]
    assert inputs.device.type == device.type
