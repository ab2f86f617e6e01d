"""The study files with the papers' settings: each is valid, and runs where its data set is on the disk.

The data sets are not here: drawn images of the same shape and classes stand in for them.
"""

import pytest
import torch
from shared_constants import REPOSITORY

from forcetune import data
from forcetune.data import DATASETS, Dataset, Images
from forcetune.execution.checking import check_study
from forcetune.study import load_study

SHAPES = {  # of a sample, and the number of classes
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "tiny_imagenet": ((3, 64, 64), 200),
    "imagenet": ((3, 224, 224), 1000),
}
FILES = sorted((REPOSITORY / "search_spaces" / "paper").glob("*.yaml"))
IMAGES_PER_CLASS = 15


def make_stand_in(shape, classes):
    count = max(60, IMAGES_PER_CLASS * classes if shape[1] == 32 else 0)
    inputs = torch.zeros(1, dtype=torch.uint8).expand(count, *shape)  # one byte in memory
    images = Images(inputs, torch.arange(count) % classes)
    return Dataset(train=images, test=images, classes=classes, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def stand_ins(monkeypatch):
    data.load.cache_clear()
    for name, sizes in SHAPES.items():
        monkeypatch.setitem(DATASETS, name, lambda root, sizes=sizes: make_stand_in(*sizes))
    yield
    data.load.cache_clear()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_has_the_number_of_trials(path):
    study = load_study(path)
    page = (REPOSITORY / "docs" / "guide" / "paper.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| [{path.name}]")]
    assert row.split("|")[5].strip() == f"{study.trials:,}"
    assert study.study == path.stem
    assert study.search.sampler == "grid"


@pytest.mark.long  # builds ResNet-50 and VGG-19, for ImageNet too
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_check_accepts_the_file(path, stand_ins):
    descriptions = check_study(load_study(path))
    assert {description["dataset"] for description in descriptions} <= SHAPES.keys()
    for description in descriptions:
        assert description["classes"] == SHAPES[description["dataset"]][1]
