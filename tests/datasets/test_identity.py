"""A digest tells which data a run was trained and tested on."""

from dataclasses import replace

import pytest
import torch
from test_streamed import Listed, Numbers

from forcetune import data
from forcetune.data import Dataset, Images, Streamed
from forcetune.data.identity import compute_digest


def make(pixel=0, label=0, **changed):
    images = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    images.inputs[3, 0, 1, 1] = pixel
    test = Images(torch.ones(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, label]))
    return Dataset(**{"train": images, "test": test, "classes": 2, "mean": (0.5,), "std": (0.5,), **changed})


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
def test_whatever_is_different_gives_another(other):
    assert compute_digest(other) != compute_digest(make())


def test_a_streamed_one_is_told_by_sizes_and_classes():
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


def test_a_data_set_says_what_it_is():
    told = data.identify("digits")
    assert (told.name, told.root, told.classes) == ("digits", None, 10)
    assert told.train_samples + told.test_samples == 1797
    assert told.digest == compute_digest(data.load("digits"))
