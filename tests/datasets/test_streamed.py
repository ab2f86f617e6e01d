"""Streamed data sets: the same batches for any number of processes that read them, and errors that name the sample."""

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset, random_split

from forcetune.data import AnyDataset, Streamed, load
from forcetune.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # on a machine with one core
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # Python 3.12 on any fork beside a thread
]


class Numbers:
    """A data set whose sample i is the number first + i, of class i % 3, and which has no list of the classes."""

    def __init__(self, count, first=0):
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.first + index, index % 3


class Listed(Numbers):
    def __init__(self, count, first=0):
        super().__init__(count, first)
        self.targets = [index % 3 for index in range(count)]


def as_image(number):
    return torch.full((1, 2, 2), float(number))


def with_noise(number):
    """Return the number, and what torch, random and numpy draw below 1."""
    return torch.tensor([[[number, torch.rand(())], [random.random(), np.random.rand()]]])


def streamed(count=20, **changes):
    data = Streamed(
        train=Listed(count),
        test=Numbers(4, first=500),
        train_transform=with_noise,
        eval_transform=as_image,
        classes=3,
        input_shape=(1, 2, 2),
        workers=0,
    )
    return replace(data, **changes)


def list_numbers(batches):
    return [number for inputs, _ in batches for number in inputs[:, 0, 0, 0].int().tolist()]


def collect_pass(batches):
    """Return all inputs and all targets of a pass, so that passes can be compared bit for bit."""
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def same(first, second):
    return all(torch.equal(*tensors) for tensors in zip(first, second, strict=True))


def find_children():
    """Return the ids of the processes that this one has started and that still run."""
    running = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except OSError:  # the process has just ended
                continue
            if int(parent) == os.getpid() and state != "Z":
                running.add(int(folder.name))
    return running


@pytest.fixture(autouse=True)
def no_worker_is_left():
    before = find_children()
    yield
    end = time.monotonic() + 10
    while find_children() - before and time.monotonic() < end:
        time.sleep(0.05)
    assert find_children() <= before


def test_split_is_that_of_data_in_memory():
    training, validation = streamed(100).split(seed=0, samples=40)
    assert (len(training), len(validation)) == (36, 4)
    both = [*training.indices.tolist(), *validation.indices.tolist()]
    assert len({*both}) == 40
    drawn = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:40].tolist()
    assert {*both} == {*drawn}
    assert streamed(100).split(seed=1)[1].indices.tolist() != streamed(100).split(seed=0)[1].indices.tolist()
    with pytest.raises(InputError, match="train_samples 101: allowed: 2 to 100"):
        streamed(100).split(0, samples=101)


def test_a_users_validation_split_is_whole_and_fixed():
    data = streamed(20, validation=Numbers(5, first=100))
    training, validation = data.split(seed=0, samples=6)
    assert list_numbers(data.batches(validation, 2)) == [100, 101, 102, 103, 104]
    assert len(training) == 6
    assert sorted(data.split(seed=1)[0].indices.tolist()) == [*range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_order_without_a_seed(workers):
    data = streamed(20, workers=workers)
    training, _ = data.split(0)
    batches = data.batches(training, 4)
    assert len(batches) == 5
    for _ in range(2):
        pass_batches = list(batches)
        assert [len(targets) for _, targets in pass_batches] == [4, 4, 4, 4, 2]
        inputs, targets = collect_pass(pass_batches)
        expected = training.indices
        assert torch.equal(inputs, expected.float()[:, None, None, None].expand(18, 1, 2, 2)), "not augmented"
        assert torch.equal(targets, expected % 3)
        assert (inputs.dtype, targets.dtype, type(inputs)) == (torch.float32, torch.int64, torch.Tensor)


def test_batches_are_the_same_for_any_number_of_workers():
    data = streamed(20)
    training, _ = data.split(0)
    passes = []
    for workers in (0, 1, 2, 3):
        batches = replace(data, workers=workers).batches(training, 4, seed=7)
        passes.append([collect_pass(batches) for _ in range(3)])
    for other in passes[1:]:
        assert all(same(*pair) for pair in zip(passes[0], other, strict=True))
    orders = [tuple(inputs[:, 0, 0, 0].int().tolist()) for inputs, _ in passes[0]]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(training.indices.tolist()))}
    assert len({*orders}) == 3, "each pass is shuffled anew"
    other_seed = collect_pass(data.batches(training, 4, seed=8))
    assert not same(passes[0][0], other_seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_draw_anew_for_every_image_and_pass(workers):
    data = streamed(20, workers=workers)
    batches = data.batches(data.split(0)[0], 4, seed=0)
    inputs = torch.cat([collect_pass(batches)[0] for _ in range(3)])
    for noise in (inputs[:, 0, 0, 1], inputs[:, 0, 1, 0], inputs[:, 0, 1, 1]):  # torch, random, numpy
        assert len(noise.unique()) == len(inputs)


def test_a_pass_that_is_left_does_not_change_the_next():
    data = streamed(20)
    training, _ = data.split(0)
    next_passes = []
    for workers in (0, 2):
        batches = replace(data, workers=workers).batches(training, 4, seed=7, per_class=1)
        next(iter(batches))
        next_passes.append(collect_pass(batches))
    assert same(*next_passes)


def test_generators_are_left_as_they_were():
    data = streamed(20, workers=0)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for workers in (0, 2):
        list_numbers(replace(data, workers=workers).batches(data.split(0)[0], 4, seed=0))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 4]), (10, [4, 4, 2]), (8, [4, 4])])
def test_sizes_of_shuffled_batches(count, sizes):
    data = streamed(count, validation=Numbers(2))
    batches = data.batches(data.split(0)[0], 4, seed=0)
    assert [len(targets) for _, targets in batches] == sizes
    assert len(batches) == len(sizes)


def test_workers_stay_between_passes_and_end_with_the_loader():
    data = streamed(20, workers=2)
    before = find_children()
    batches = data.batches(data.split(0)[0], 4, seed=0)
    assert find_children() == before, "none before the first pass"
    list_numbers(batches)
    started = find_children() - before
    list_numbers(batches)
    assert find_children() - before == started
    assert len(started) == 2
    del batches
    assert find_children() == before


def test_no_more_workers_than_batches():
    data = streamed(20, workers=2)
    before = find_children()
    batches = data.batches(data.split(0)[0], 99, seed=0)
    list_numbers(batches)
    assert len(find_children() - before) == 1


def test_as_many_workers_as_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    data = streamed(20, workers=None)
    before = find_children()
    batches = data.batches(data.split(0)[0], 4, seed=0)
    list_numbers(batches)
    assert len(find_children() - before) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_class_balanced_batches(workers):
    data = streamed(20, workers=workers, validation=Numbers(2))
    training, _ = data.split(0)
    batches = data.batches(training, 99, seed=0, per_class=3)
    assert len(batches) == 2, "the smallest class has 6"
    inputs, targets = zip(*batches, strict=True)
    assert [torch.bincount(batch_targets).tolist() for batch_targets in targets] == [[3, 3, 3]] * 2
    drawn = torch.cat(inputs)[:, 0, 0, 0].int()
    assert torch.equal(drawn % 3, torch.cat(targets))
    assert len(drawn.unique()) == 18, "no sample comes twice before all have come"
    with pytest.raises(InputError, match="need 7 training samples of each class, but class 2 has 6"):
        data.batches(training, 99, seed=0, per_class=7)


def test_batches_come_on_the_device():
    data = streamed(20).to("meta")
    ((inputs, targets),) = data.batches(data.split(0)[1], 4)
    assert (inputs.device.type, targets.device.type) == ("meta", "meta")


class Labelled(Numbers):
    labels = np.arange(20) % 3


class WithSamples(Numbers):
    samples = [(f"{index}.png", index % 3) for index in range(20)]  # noqa: RUF012 torchvision's folders have such a list


class OfWords(Labelled):
    targets = ["cat", "dog", "emu"]  # noqa: RUF012


@pytest.mark.parametrize("kind", [Labelled, WithSamples, OfWords])
def test_classes_that_the_dataset_lists(kind):
    data = streamed(train=kind(20))
    batches = data.batches(data.split(0)[0], 99, seed=0, per_class=2)
    assert all(torch.bincount(targets).tolist() == [2, 2, 2] for _, targets in batches)


def test_classes_of_a_subset():
    training, validation = random_split(Listed(20), [0.5, 0.5], torch.Generator().manual_seed(0))
    data = streamed(train=training, validation=Subset(validation, [0, 1]))
    batches = data.batches(data.split(0)[0], 99, seed=0, per_class=2)
    drawn = collect_pass(batches)
    assert torch.equal(drawn[0][:, 0, 0, 0].int() % 3, drawn[1])
    assert {*list_numbers(batches)} <= {*training.indices}


def test_classes_that_are_not_listed_are_refused():
    data = streamed(train=Numbers(20))
    with pytest.raises(InputError, match="`targets`.* Numbers, the dataset of train"):
        data.batches(data.split(0)[0], 99, seed=0, per_class=2)


class DamagedFiles(Numbers):
    """A data set of files, of which that of sample 5 is damaged."""

    samples = [(f"/images/{index}.png", index % 3) for index in range(20)]  # noqa: RUF012

    def __getitem__(self, index):
        if index == 5:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


def fails(number):
    return as_image(number) / (0 if number == 5.0 else 1) if number != 5 else [][number]


class Strange(Numbers):
    def __init__(self, count, sample):
        super().__init__(count)
        self.sample = sample

    def __getitem__(self, index):
        return self.sample if index == 5 else super().__getitem__(index)


SAMPLE_ERRORS = {
    "file": (
        {"train": DamagedFiles(20)},
        r"sample 5 of train \(/images/5.png\): reading it raised OSError: image file is tr",
    ),
    "transform": ({"eval_transform": fails}, "sample 5 of train: eval_transform raised IndexError: list index out of"),
    "class": ({"train": Strange(20, (5, 3))}, r"sample 5 of train: its class must lie in 0..2; got 3"),
    "negative": ({"train": Strange(20, (5, -1))}, r"sample 5 of train: its class must lie in 0..2; got -1"),
    "word": ({"train": Strange(20, (5, "cat"))}, "sample 5 of train: reading it raised TypeError: 'str'"),
    "no pair": ({"train": Strange(20, 5)}, "sample 5 of train: reading it raised TypeError"),
    "shape": (
        {"eval_transform": lambda number: torch.zeros(1, 2, 2 + (number == 5))},
        r"sample 5 of train: eval_transform must return a float tensor .* \(1, 2, 2\); got torch.float32 \(1, 2, 3\)",
    ),
    "bytes": (
        {"eval_transform": lambda number: as_image(number).to(torch.uint8 if number == 5 else torch.float64)},
        r"sample 5 of train: eval_transform must return a float tensor .* got torch.uint8",
    ),
    "no tensor": (
        {"eval_transform": lambda number: as_image(number) if number != 5 else np.zeros((1, 2, 2))},
        r"sample 5 of train: eval_transform must return a float tensor .* got ndarray",
    ),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("changes", "message"), SAMPLE_ERRORS.values(), ids=SAMPLE_ERRORS)
def test_an_error_names_the_sample(changes, message, workers):
    data = streamed(**changes, workers=workers)
    training, _ = replace(data, validation=Numbers(2)).split(0)
    with pytest.raises(InputError, match=f"^{message}") as caught:
        list_numbers(data.batches(training, 4))
    assert "Traceback" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_killed_does_not_hang():
    data = streamed(eval_transform=lambda number: as_image(number) if number != 5 else os._exit(9), workers=1)
    with pytest.raises(RuntimeError, match="DataLoader worker .* exited unexpectedly"):
        list_numbers(data.batches(replace(data, validation=Numbers(2)).split(0)[0], 4))


def test_datasets_of_torch():
    images = torch.arange(8.0)[:, None, None, None].expand(8, 1, 2, 2)
    source = TensorDataset(images, torch.arange(8) % 3)
    data = streamed(train=source, train_transform=torch.neg, eval_transform=torch.clone)
    training, _ = data.split(0)
    inputs, targets = collect_pass(data.batches(training, 3, seed=1))
    assert torch.equal(-inputs[:, 0, 0, 0] % 3, targets.float())


STREAMED_DATA_SOURCE = """
from dataclasses import replace
import torch
from forcetune.data import Streamed

class Source:
    def __init__(self, count, **attributes):
        self.count = count
        vars(self).update(attributes)
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        return torch.full((1, 5, 6), index / 10), index % 3

def same(raw):
    return raw

GOOD = Streamed(Source(6), Source(3), same, same, classes=3, input_shape=(1, 5, 6))

def good(root):
    return replace(GOOD, train=Source(6, targets=[0, 1, 2] * 2), validation=Source(4), workers=2)

CHANGES = {
    "classes": {"classes": 2.0},
    "no_classes": {"classes": 0},
    "shape": {"input_shape": (5, 6)},
    "shape_of_floats": {"input_shape": (1, 5.0, 6)},
    "workers": {"workers": -1},
    "names": {"class_names": ("cat", "dog")},
    "list_of_names": {"class_names": ["cat", "dog", "frog"]},
    "half_normalized": {"mean": (0.5,)},
    "other_channels": {"mean": (0.5, 0.5), "std": (0.5, 0.5)},
    "workers_float": {"workers": 1.5},
    "share": {"validation": 1.0},
    "share_int": {"validation": 1},
    "iterable": {"train": iter([1, 2])},
    "single": {"test": Source(1)},
    "empty_validation": {"validation": Source(0)},
    "listed_range": {"test": Source(3, targets=[0, 1, 3])},
    "listed_other": {"train": Source(6, labels=[1, 0, 2] * 2)},
    "range": {"train": [(torch.zeros(1, 5, 6), 7)] * 6},
    "other_size": {"input_shape": (1, 6, 6)},
    "train_transform": {"train_transform": lambda raw: raw[0]},
    "not_callable": {"train_transform": None},
    "fails": {"eval_transform": lambda raw: 1 / 0},
}

def changed(name):
    return lambda root: replace(GOOD, **CHANGES[name])

globals().update({name: changed(name) for name in CHANGES})
"""


@pytest.fixture
def own_stream(tmp_path, monkeypatch):
    (tmp_path / "own_stream.py").write_text(STREAMED_DATA_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    load.cache_clear()
    yield
    load.cache_clear()


def test_a_users_loader(own_stream):
    data: AnyDataset = load("own_stream:good").to("cpu")
    training, validation = data.split(0)
    assert (data.classes, data.input_shape, len(training), len(validation)) == (3, (1, 5, 6), 6, 4)
    inputs, targets = collect_pass(data.batches(validation, 3))
    assert torch.equal(inputs[:, 0, 0, 0], torch.arange(4) / 10)
    assert targets.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("classes", "classes must be an int, at least 1; got 2.0"),
        ("no_classes", "classes must be an int, at least 1; got 0"),
        ("shape", r"input_shape must be three ints \(C, H, W\); got \(5, 6\)"),
        ("shape_of_floats", r"input_shape must be three ints \(C, H, W\)"),
        ("workers", "workers must be None or an int, at least 0; got -1"),
        ("names", r"class_names must be a tuple of 3 texts, one per class, or empty; got \('cat', 'dog'\)"),
        ("list_of_names", "class_names must be a tuple of 3 texts"),
        ("half_normalized", r"mean and std must have one value per channel, or both be None; got \(0.5,\) and None"),
        ("other_channels", "mean and std must have one value per channel, or both be None"),
        ("workers_float", "workers must be None or an int, at least 0; got 1.5"),
        ("share", "validation must be a share of train between 0 and 1, .* map-style dataset; got 1.0"),
        ("share_int", "validation must be a share of train .*; got 1"),
        ("iterable", "train must be a map-style dataset of at least 2 samples; got list_iterator"),
        ("single", "test must be a map-style dataset of at least 2 samples; got Source"),
        ("empty_validation", "validation must be a map-style dataset of at least 2 samples; got Source"),
        ("listed_range", "test: targets must lie in 0..2; got 0..3"),
        ("listed_other", "train: .* class 1 for sample 0, but .* class 0"),
        ("range", "sample 0 of train: its class must lie in 0..2; got 7"),
        ("other_size", r"sample 0 of train: eval_transform must return .* \(1, 6, 6\); got torch.float32 \(1, 5, 6\)"),
        ("train_transform", r"sample 0 of train: train_transform must return .*; got torch.float32 \(5, 6\)"),
        ("not_callable", "sample 0 of train: train_transform raised TypeError"),
        ("fails", "sample 0 of train: eval_transform raised ZeroDivisionError"),
    ],
)
def test_a_users_loader_that_is_refused(own_stream, function, message):
    with pytest.raises(InputError, match=f"^data set 'own_stream:{function}': {message}"):
        load(f"own_stream:{function}")


@pytest.mark.parametrize("workers", [0, 2])
def test_each_process_reads_its_share(workers):
    data = streamed(22, train_transform=as_image, workers=workers)
    split, _ = data.split(0)

    def make_batches():
        return data.batches(split, 6, seed=0)

    unsplit = list(make_batches())
    assert [len(targets) for _, targets in unsplit] == [6, 6, 6, 2]
    shares = list(zip(make_batches().share(0, 2), make_batches().share(1, 2), strict=True))
    for (inputs, targets), batch_shares in zip(unsplit[:3], shares[:3], strict=True):
        assert [len(targets) for _, targets in batch_shares] == [3, 3]
        assert same([torch.cat(tensors) for tensors in zip(*batch_shares, strict=True)], (inputs, targets))
    assert all(same(share, unsplit[3]) for share in shares[3]), "2 samples are too few for 2 processes"
    assert make_batches().share(1, 2).count_samples(0) == 6


def test_each_share_has_random_transforms_of_its_own():
    data = streamed(20)
    split, _ = data.split(0)
    inputs, _ = collect_pass(data.batches(split, 6, seed=0))
    first, second = (list(data.batches(split, 6, seed=0).share(rank, 2)) for rank in (0, 1))
    assert torch.equal(first[0][0], inputs[:3]), "the first share draws as the whole batch does"
    assert (first[0][0][:, 0, 0, 1] != second[0][0][:, 0, 0, 1]).all()
    repeated = list(data.batches(split, 6, seed=0).share(1, 2))
    assert all(same(*pair) for pair in zip(second, repeated, strict=True))
