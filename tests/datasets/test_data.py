"""Data sets: what the readers give, how a part is drawn, and in what batches it comes."""

import gzip
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from forcetune import data
from forcetune.data import DATASETS, Batches, Dataset, Images, load
from forcetune.data.readers import digits, fashion_mnist, synthetic
from forcetune.errors import InputError


@pytest.fixture(autouse=True)
def nothing_remembered():
    load.cache_clear()
    yield
    load.cache_clear()


def images(count, channels=1, size=4):
    """Every pixel of image i is i + 1, which is its class too; padding is 0."""
    values = torch.arange(1, count + 1)
    return Images(values.to(torch.uint8)[:, None, None, None].expand(count, channels, size, size), values)


def dataset(count=20, **changed):
    made = Dataset(train=images(count), test=images(4), classes=count + 1, mean=(0.0,), std=(1 / 255,))
    return replace(made, **changed)


def classes(batches):
    return [target for _, targets in batches for target in targets.tolist()]


def test_digits():
    found, original = digits(None), load_digits()
    assert (len(found.train), len(found.test), found.input_shape) == (1438, 359, (1, 8, 8))
    assert found.test.targets.tolist() == original.target[4::5].tolist()
    # 17 grey levels, 0 to 16, spread over the bytes
    assert (found.test.inputs[:, 0] == torch.from_numpy(np.rint(original.images[4::5] * 255 / 16))).all()
    assert sorted([*classes([(None, found.train.targets)]), *found.test.targets.tolist()]) == sorted(original.target)


@pytest.mark.parametrize("make", [digits, synthetic])
def test_mean_and_std_are_about_those_of_the_pixels(make):
    found = make(None)
    pixels = found.train.inputs.float() / 255
    assert found.mean[0] == pytest.approx(float(pixels.mean()), abs=0.05)
    assert found.std[0] == pytest.approx(float(pixels.std()), abs=0.05)


def test_synthetic_is_the_same_every_time():
    one, other = synthetic(None), synthetic(None)
    assert torch.equal(one.train.inputs, other.train.inputs)
    assert (len(one.train), len(one.test), one.input_shape) == (320, 80, (1, 8, 8))
    assert one.train.targets.unique().tolist() == [0, 1, 2, 3]


def test_load_keeps_a_data_set_for_the_next_trial():
    assert load("synthetic") is load("synthetic")
    with pytest.raises(InputError, match="unknown data set 'digit' .did you mean 'digits'"):
        load("digit")


def test_split_is_disjoint_and_whole():
    training, validation = dataset(20, validation=0.25).split(seed=0)
    assert (len(training), len(validation)) == (15, 5)
    assert sorted([*training.targets.tolist(), *validation.targets.tolist()]) == list(range(1, 21))
    assert (training.inputs[:, 0, 0, 0] == training.targets).all()


def test_split_is_drawn_by_the_seed():
    one, same, other = (dataset(200).split(seed)[1].targets.tolist() for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert one != sorted(one)


def test_train_samples_are_divided_too():
    training, validation = dataset(200).split(0, samples=50)
    assert (len(training), len(validation)) == (45, 5)
    assert len({*training.targets.tolist(), *validation.targets.tolist()}) == 50
    assert max(training.targets.tolist()) > 50, "drawn, not the first"


def test_at_least_one_is_trained_on():
    training, validation = dataset(20, validation=1.0).split(0)
    assert (len(training), len(validation)) == (1, 19)


def test_at_least_one_is_held_out():
    training, validation = dataset(20).split(0, samples=2)
    assert (len(training), len(validation)) == (1, 1)
    assert len(dataset(20).split(0, samples=20)[0]) == 18


@pytest.mark.parametrize("samples", [1, 21])
def test_train_samples_out_of_bounds(samples):
    with pytest.raises(InputError, match=f"train_samples {samples}: allowed: 2 to 20"):
        dataset(20).split(0, samples)


def test_normalised_as_if_divided():
    # Each byte in each of two channels; in float32, bit for bit
    inputs = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 2, 16, 16)
    part = Images(inputs, torch.tensor([0, 1]))
    made = Dataset(part, part, classes=2, mean=(0.2860, 0.305), std=(0.3530, 0.376))
    ((found, _),) = Batches(made, part, 2)
    mean, std = (torch.tensor(values).view(1, 2, 1, 1) for values in (made.mean, made.std))
    assert found.dtype == torch.float32
    assert torch.equal(found, (inputs.float() / 255 - mean) / std)


def test_in_order_without_a_seed():
    batches = Batches(dataset(), images(7), 3)
    assert [targets.tolist() for _, targets in batches] == [[1, 2, 3], [4, 5, 6], [7]]
    assert len(batches) == 3
    assert torch.allclose(next(iter(batches))[0][:, 0, 0, 0], torch.tensor([1.0, 2.0, 3.0]))


def test_shuffled_anew_in_each_pass_and_the_same_again():
    one, other = (Batches(dataset(), images(20), 6, seed=5) for _ in range(2))
    first, second = classes(one), classes(one)
    assert sorted(first) == sorted(second) == list(range(1, 21))
    assert first != second
    assert (first, second) == (classes(other), classes(other))
    assert first != classes(Batches(dataset(), images(20), 6, seed=6))


def test_inputs_stay_with_their_targets():
    for inputs, targets in Batches(dataset(), images(20), 6, seed=0):
        assert torch.allclose(inputs[:, 0, 0, 0], targets.float())


@pytest.mark.parametrize(
    ("count", "size", "shuffled", "in_order"),
    [
        (7, 3, [3, 3], [3, 3, 1]),  # a single image alone: batch norm cannot train on it
        (8, 3, [3, 3, 2], [3, 3, 2]),
        (6, 3, [3, 3], [3, 3]),
        (1, 3, [1], [1]),  # all there is
        (3, 1, [1, 1, 1], [1, 1, 1]),  # as asked for
        (3, 9, [3], [3]),
    ],
)
def test_sizes_of_batches(count, size, shuffled, in_order):
    for seed, sizes in ((0, shuffled), (None, in_order)):
        batches = Batches(dataset(), images(count), size, seed)
        assert [len(targets) for _, targets in batches] == sizes
        assert len(batches) == len(sizes)


def noise(count=40, channels=2, height=5, width=7):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return Images(inputs, torch.arange(count))


def augmented(part, pad, flip, seed=0):
    made = Dataset(part, part, classes=len(part), mean=(0.0, 0.0), std=(1 / 255, 1 / 255), pad=pad, flip=flip)
    ((inputs, targets),) = Batches(made, part, len(part), seed)
    return inputs.round().to(torch.uint8), targets


def test_no_augmentation_where_none_is_asked_for():
    part = noise()
    inputs, targets = augmented(part, pad=0, flip=False)
    assert torch.equal(inputs, part.inputs[targets])


def test_shifts_by_up_to_pad_in_each_direction():
    part = noise()
    inputs, targets = augmented(part, pad=1, flip=False)
    assert inputs.shape == part.inputs.shape
    padded = torch.nn.functional.pad(part.inputs, (1, 1, 1, 1))
    shifts = {(y, x): padded[:, :, y : y + 5, x : x + 7] for y in range(3) for x in range(3)}

    def shift_of(image, index):
        (found,) = [shift for shift, shifted in shifts.items() if torch.equal(shifted[index], image)]
        return found

    assert {shift_of(*pair) for pair in zip(inputs, targets, strict=True)} == {*shifts}, "all of them are drawn"


def test_flips_half_of_the_images_left_to_right():
    part = noise()
    inputs, targets = augmented(part, pad=0, flip=True)
    originals = part.inputs[targets]
    same = (inputs == originals).flatten(1).all(1)
    mirrored = (inputs == originals.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 10 < int(mirrored.sum()) < 30


def test_augmentation_is_the_seeds_and_new_in_each_pass():
    made = replace(dataset(), train=noise(channels=1), pad=2, flip=True)
    one, other = (Batches(made, made.train, 40, seed=1) for _ in range(2))
    first, second = next(iter(one)), next(iter(one))
    assert torch.equal(first[0], next(iter(other))[0])
    by_class = [inputs[targets.argsort()] for inputs, targets in (first, second)]
    assert not torch.equal(*by_class)


def test_images_in_order_are_not_augmented():
    part = noise(channels=1)
    made = replace(dataset(), pad=2, flip=True)
    ((inputs, _),) = Batches(made, part, 40)
    assert torch.equal(inputs.round().to(torch.uint8), part.inputs)


# Two training and three test images of 2x3 pixels.
PIXELS = {"train": torch.arange(12), "t10k": torch.arange(100, 118)}
LABELS = {"train": [7, 9], "t10k": [0, 1, 2]}


def idx(axes, values, kind=8):
    return struct.pack(f">HBB{len(axes)}I", 0, kind, len(axes), *axes) + bytes(list(values))


def write(folder, name, content, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    if zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
        (folder / name).write_bytes(content)


def write_fashion_mnist(folder, zipped=False):
    for part, labels in LABELS.items():
        pixels = PIXELS[part].tolist()
        write(folder, f"{part}-images-idx3-ubyte", idx((len(labels), 2, 3), pixels), zipped)
        write(folder, f"{part}-labels-idx1-ubyte", idx((len(labels),), labels), zipped)


@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"], ids=["flat", "torchvision"])
def test_idx_files(tmp_path, inside, zipped):
    write_fashion_mnist(tmp_path / inside, zipped)
    found = fashion_mnist(str(tmp_path))
    for part, got in (("train", found.train), ("t10k", found.test)):
        assert got.inputs.flatten().tolist() == PIXELS[part].tolist()
        assert got.inputs.shape == (len(LABELS[part]), 1, 2, 3)
        assert (got.inputs.dtype, got.targets.dtype) == (torch.uint8, torch.int64)
        assert got.targets.tolist() == LABELS[part]


def test_idx_files_of_the_current_folder(tmp_path, monkeypatch):
    write_fashion_mnist(tmp_path / "data" / "FashionMNIST" / "raw")
    monkeypatch.chdir(tmp_path)
    assert load("fashion_mnist").train.targets.tolist() == LABELS["train"]


def test_no_idx_files(tmp_path):
    looked = f"{re.escape(str(tmp_path))} and {re.escape(str(tmp_path))}/FashionMNIST/raw"
    with pytest.raises(InputError, match=f"no train-images-idx3-ubyte.* in {looked}; set trial.data_root"):
        fashion_mnist(str(tmp_path))


def damaged_gzip(at):
    content = bytearray(gzip.compress(idx((2, 2, 3), range(12))))
    content[at] ^= 0xFF
    return bytes(content)


IMAGES, TEST_LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


BROKEN = {
    "empty": (IMAGES, b"", "{} is not a readable idx file"),
    "ends in the first word": (IMAGES, b"\0\0\x08", "{} is not a readable idx file"),
    "ends among the axes": (IMAGES, idx((2, 2, 3), range(12))[:9], "{} is not a readable idx file"),
    "a pixel less": (IMAGES, idx((2, 2, 3), range(11)), "{} is not a readable idx file: .* size 11"),
    "a pixel more": (IMAGES, idx((2, 2, 3), range(13)), "{} is not a readable idx file: .* size 13"),
    "signed bytes": (IMAGES, idx((2, 2, 3), range(12), kind=9), "{} is not an idx file of unsigned bytes"),
    "another format": (IMAGES, b"<!DOCTYPE html><title>404</title>" * 9, "{} is not a"),
    "fewer images": (IMAGES, idx((1, 2, 3), range(6)), "1 train images but 2 labels"),
    "fewer labels": (TEST_LABELS, idx((2,), [0, 1]), "3 t10k images but 2 labels"),
    "no labels": (TEST_LABELS, None, r"t10k-labels-idx1-ubyte\[.gz\] is missing"),
    "labels for images": (IMAGES, idx((2,), [7, 9]), "{} "),
    "cut off": (f"{IMAGES}.gz", gzip.compress(idx((2, 2, 3), range(12)))[:-9], "{} is not a readable idx file"),
    "not zipped": (f"{IMAGES}.gz", idx((2, 2, 3), range(12)), "{} is not a readable idx file"),
    "another checksum": (f"{IMAGES}.gz", damaged_gzip(at=-6), "{} is not a readable idx file"),
    "packed data damaged": (f"{IMAGES}.gz", damaged_gzip(at=10), "{} is not a readable idx file"),
}


@pytest.mark.parametrize(("name", "content", "said"), BROKEN.values(), ids=BROKEN)
def test_broken_idx_files(tmp_path, name, content, said):
    write_fashion_mnist(tmp_path)
    (tmp_path / name.removesuffix(".gz")).unlink()
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises(InputError, match=said.format(re.escape(str(tmp_path / name)))):
        load("fashion_mnist", str(tmp_path))


OWN_DATA = """
from dataclasses import replace
import torch
from forcetune.data import Dataset, Images

def part(inputs=None, targets=None):
    inputs = torch.zeros(4, 1, 5, 6, dtype=torch.uint8) if inputs is None else inputs
    return Images(inputs, torch.tensor([0, 1, 2, 0]) if targets is None else targets)

GOOD = Dataset(train=part(), test=part(), classes=3, mean=(0.5,), std=(0.5,))

def good(root):
    return replace(GOOD, validation=0.5) if root == "half" else GOOD

def fails(root):
    return open("no such file")

def something_else(root):
    return [GOOD.train, GOOD.test]

def floats(root):
    return replace(GOOD, train=part(inputs=torch.zeros(4, 1, 5, 6)))

def no_channels(root):
    return replace(GOOD, test=part(inputs=torch.zeros(4, 5, 6, dtype=torch.uint8)))

def other_channels(root):
    return replace(GOOD, mean=(0.5,) * 3, std=(0.5,) * 3)

def other_std(root):
    return replace(GOOD, std=(0.5,) * 3)

def narrow_targets(root):
    return replace(GOOD, train=part(targets=torch.tensor([0, 1, 2, 0], dtype=torch.int32)))

def fewer_targets(root):
    return replace(GOOD, test=part(targets=torch.tensor([0, 1, 2])))

def a_single_one(root):
    return replace(GOOD, test=GOOD.test.take(torch.tensor([0])))

def too_many_classes(root):
    return replace(GOOD, test=part(targets=torch.tensor([0, 1, 2, 3])))

def negative(root):
    return replace(GOOD, train=part(targets=torch.tensor([0, 1, -1, 0])))

def other_size(root):
    return replace(GOOD, test=part(inputs=torch.zeros(4, 1, 6, 6, dtype=torch.uint8)))

def nothing_to_train_on(root):
    return replace(GOOD, validation=1.0)

def arrays(root):
    return replace(GOOD, train=Images([[0]], [0]))
"""


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_loader_of_the_users_own(own_data):
    assert load("own_data:good").input_shape == (1, 5, 6)
    assert load("own_data:good", "half").validation == 0.5


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", ": loading it raised FileNotFoundError"),
        ("something_else", " returned list, not a forcetune.data.Dataset"),
        ("floats", r", train: inputs must be uint8 of shape \(N, 1, H, W\).*; got torch.float32 \(4, 1, 5, 6\)"),
        ("no_channels", r", test: inputs must be .*; got torch.uint8 \(4, 5, 6\)"),
        ("other_channels", r", train: inputs must be uint8 of shape \(N, 3, H, W\)"),
        ("narrow_targets", r", train: targets must be int64 of shape \(4,\), at least 2; got torch.int32 \(4,\)"),
        ("fewer_targets", r", test: targets must be int64 of shape \(4,\), at least 2; got torch.int64 \(3,\)"),
        ("a_single_one", ", test: targets must be .*, at least 2"),
        ("too_many_classes", r", test: targets must lie in 0..2; got 0..3"),
        ("negative", r", train: targets must lie in 0..2; got -1..1"),
        ("other_std", "std"),
        ("other_size", "test"),
        ("nothing_to_train_on", "validation"),
        ("arrays", ", train: inputs must be"),
    ],
)
def test_a_loader_that_is_refused(own_data, function, said):
    with pytest.raises(InputError, match=f"data set 'own_data:{function}'.*{said}"):
        load(f"own_data:{function}")


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "fashion_mnist"])
def test_the_rows_are_as_the_users_own_must_be(name):
    data._check(name, load(name))
