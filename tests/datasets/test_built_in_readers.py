"""The readers of data sets that need no files: digits, synthetic images and textures."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from forcetune.data import checks
from forcetune.data.readers import digits, synthetic, textures


def test_digits():
    data, original = digits(None), load_digits()
    assert (len(data.train), len(data.test), data.input_shape) == (1438, 359, (1, 8, 8))
    assert data.test.targets.tolist() == original.target[4::5].tolist()
    # 17 grey levels, 0 to 16, spread over the bytes
    assert (data.test.inputs[:, 0] == torch.from_numpy(np.rint(original.images[4::5] * 255 / 16))).all()
    assert sorted([*data.train.targets.tolist(), *data.test.targets.tolist()]) == sorted(original.target)


@pytest.mark.parametrize("make", [digits, synthetic, textures])
def test_mean_and_std_are_about_those_of_the_pixels(make):
    data = make(None)
    pixels = data.train.inputs.float() / 255
    assert data.mean[0] == pytest.approx(float(pixels.mean()), abs=0.05)
    assert data.std[0] == pytest.approx(float(pixels.std()), abs=0.05)


def test_synthetic_is_the_same_every_time():
    first, second = synthetic(None), synthetic(None)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert (len(first.train), len(first.test), first.input_shape) == (320, 80, (1, 8, 8))
    assert first.train.targets.unique().tolist() == [0, 1, 2, 3]


def measure_nearest_class(features, data):
    """Return the share of the test images whose class has the nearest mean of the features in training."""
    of_training, of_test = features(data.train.inputs.float()), features(data.test.inputs.float())
    means = torch.stack([of_training[data.train.targets == label].mean(0) for label in range(data.classes)])
    return float((torch.cdist(of_test, means).argmin(1) == data.test.targets).float().mean())


def test_the_classes_of_textures_differ_in_their_stripes_and_not_in_their_pixels():
    data = textures(None)
    assert torch.equal(data.train.inputs, textures(None).train.inputs)
    assert (len(data.train), len(data.test), data.input_shape) == (5000, 1000, (3, 32, 32))
    assert torch.bincount(data.train.targets).tolist() == [500] * 10
    assert measure_nearest_class(lambda x: x.flatten(1), data) < 0.25
    assert measure_nearest_class(lambda x: torch.fft.rfft2(x.sum(1)).abs().flatten(1)[:, 1:], data) > 0.6


@pytest.mark.parametrize("reader", [digits, synthetic, textures])
def test_built_in_data_sets_pass_the_checks_of_users_data(reader):
    checks.check(reader(None))
