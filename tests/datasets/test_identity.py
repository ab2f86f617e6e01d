"""Digests, which tell on which data a run was trained and tested."""

from dataclasses import replace

import pytest
import torch
from test_streamed import Listed, Numbers

from forcetune import data
from forcetune.data import Dataset, Images, Streamed
from forcetune.data.identity import compute_digest


def make(pixel=0, label=0, **changes):
    images = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    images.inputs[3, 0, 1, 1] = pixel
    test = Images(torch.ones(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, label]))
    return Dataset(**{"train": images, "test": test, "classes": 2, "mean": (0.5,), "std": (0.5,), **changes})


def test_equal_data_have_one_digest():
    assert compute_digest(make()) == compute_digest(make())
    assert len(compute_digest(make())) == 16


@pytest.mark.parametrize(
    "other",
    [
        make(pixel=1),
        make(label=1),
        make(mean=(0.4,)),
        make(pad=2),
        make(validation=0.2),
        make(classes=3),
    ],
)
def test_any_difference_gives_another_digest(other):
    assert compute_digest(other) != compute_digest(make())


def test_streamed_data_are_identified_by_sizes_and_classes():
    def streamed(train, classes=3):
        return Streamed(train, Numbers(5), lambda raw: raw, lambda raw: raw, classes, (1, 2, 2))

    assert compute_digest(streamed(Numbers(9))) == compute_digest(streamed(Numbers(9, first=1)))
    assert compute_digest(streamed(Numbers(9))) != compute_digest(streamed(Numbers(8)))
    listed = Listed(9)
    assert compute_digest(streamed(listed)) != compute_digest(streamed(Numbers(9)))
    before = compute_digest(streamed(listed))
    listed.targets[0] = 2
    assert compute_digest(streamed(listed)) != before
    assert compute_digest(replace(streamed(listed), validation=0.5)) != compute_digest(streamed(listed))


def test_a_data_set_is_identified():
    identity = data.identify("digits")
    assert (identity.name, identity.root, identity.classes) == ("digits", None, 10)
    assert identity.train_samples + identity.test_samples == 1797
    assert identity.digest == compute_digest(data.load("digits"))
