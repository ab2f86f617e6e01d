"""Training on tensors without values, in place of a GPU's: each is on its device, and no step asks for a value."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from forcetune.data import Dataset, Images
from forcetune.models import build
from forcetune.pruning import prunable
from forcetune.training import OPTIMIZERS
from forcetune.training.step import Recipe, Step

PICTURE_SHAPE, PICTURE_CLASSES, PICTURE_COUNT, BATCH_SIZE = (3, 16, 16), 4, 40, 16


def make_dataset(device):
    images = Images(
        torch.zeros(PICTURE_COUNT, *PICTURE_SHAPE, dtype=torch.uint8), torch.zeros(PICTURE_COUNT, dtype=torch.int64)
    )
    return Dataset(images, images, PICTURE_CLASSES, (0.5,) * 3, (0.5,) * 3, pad=2, flip=True).to(device)


def test_the_split_and_its_batches_stay_on_the_device():
    with FakeTensorMode():  # refuses to mix devices
        dataset = make_dataset("cuda")
        training, validation = dataset.split(0, 30)
        for images, seed in ((training, 0), (validation, None)):
            batches = list(dataset.batches(images, BATCH_SIZE, seed))
            assert sum(len(targets) for _, targets in batches) == len(images)
            assert {tensor.device.type for batch in batches for tensor in batch} == {"cuda"}


def test_a_pass_asks_the_device_for_no_value(monkeypatch):
    # the fused optimizers run on real devices alone
    monkeypatch.setitem(OPTIMIZERS, "sgd", lambda weights, lr, *arguments: torch.optim.SGD(weights, lr, *arguments))
    dataset = make_dataset("meta")
    with torch.device("meta"):
        model = build("resnet8", PICTURE_SHAPE, PICTURE_CLASSES, 4)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    step = Step(model, masks, Recipe(clip_norm=1.0))
    losses = [step(inputs, targets, 0.1) for inputs, targets in dataset.batches(dataset.train, BATCH_SIZE, seed=0)]
    assert len(losses) == 3
    with pytest.raises(RuntimeError, match="meta tensors"):
        float(losses[0])  # this asks for one
