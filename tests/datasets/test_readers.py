"""The readers of files in their real formats, and the damaged files that they refuse."""

import gzip
import pickle
import re
import struct
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from forcetune.data import checks, load
from forcetune.data.readers import (
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    imagenet,
    mnist,
    svhn,
    synthetic,
    textures,
    tiny_imagenet,
)
from forcetune.errors import InputError


@pytest.fixture(autouse=True)
def empty_load_cache():
    load.cache_clear()
    yield
    load.cache_clear()


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


# Two training and three test images of 2x3 pixels.
IDX_PIXELS = {"train": torch.arange(12), "t10k": torch.arange(100, 118)}
IDX_LABELS = {"train": [7, 9], "t10k": [0, 1, 2]}


def pack_idx(axes, values, kind=8):
    return struct.pack(f">HBB{len(axes)}I", 0, kind, len(axes), *axes) + bytes(list(values))


def write(folder, name, content, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    if zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
        (folder / name).write_bytes(content)


def write_idx_files(folder, zipped=False):
    for split, labels in IDX_LABELS.items():
        pixels = IDX_PIXELS[split].tolist()
        write(folder, f"{split}-images-idx3-ubyte", pack_idx((len(labels), 2, 3), pixels), zipped)
        write(folder, f"{split}-labels-idx1-ubyte", pack_idx((len(labels),), labels), zipped)


@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
@pytest.mark.parametrize(
    ("reader", "inside"),
    [(fashion_mnist, ""), (fashion_mnist, "FashionMNIST/raw"), (mnist, ""), (mnist, "MNIST/raw")],
    ids=["fashion", "fashion by torchvision", "mnist", "mnist by torchvision"],
)
def test_idx_files(tmp_path, reader, inside, zipped):
    write_idx_files(tmp_path / inside, zipped)
    data = reader(str(tmp_path))
    for split, images in (("train", data.train), ("t10k", data.test)):
        assert images.inputs.flatten().tolist() == IDX_PIXELS[split].tolist()
        assert images.inputs.shape == (len(IDX_LABELS[split]), 1, 2, 3)
        assert (images.inputs.dtype, images.targets.dtype) == (torch.uint8, torch.int64)
        assert images.targets.tolist() == IDX_LABELS[split]


@pytest.mark.parametrize(("name", "inside"), [("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_idx_files_of_the_current_folder(tmp_path, monkeypatch, name, inside):
    write_idx_files(tmp_path / "data" / inside / "raw")
    monkeypatch.chdir(tmp_path)
    assert load(name).train.targets.tolist() == IDX_LABELS["train"]


def test_digits_are_not_mirrored(tmp_path):
    write_idx_files(tmp_path)
    assert (mnist(str(tmp_path)).flip, fashion_mnist(str(tmp_path)).flip) == (False, True)


def test_missing_idx_files_are_refused(tmp_path):
    folders = f"{re.escape(str(tmp_path))} and {re.escape(str(tmp_path))}/FashionMNIST/raw"
    with pytest.raises(InputError, match=f"no train-images-idx3-ubyte.* in {folders}; set trial.data_root"):
        fashion_mnist(str(tmp_path))


def damage_gzip(position):
    content = bytearray(gzip.compress(pack_idx((2, 2, 3), range(12))))
    content[position] ^= 0xFF
    return bytes(content)


TRAIN_IMAGES_FILE, TEST_LABELS_FILE = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


BROKEN_IDX_FILES = {
    "empty": (TRAIN_IMAGES_FILE, b"", "{} is not a readable idx file"),
    "ends in the first word": (TRAIN_IMAGES_FILE, b"\0\0\x08", "{} is not a readable idx file"),
    "ends among the axes": (TRAIN_IMAGES_FILE, pack_idx((2, 2, 3), range(12))[:9], "{} is not a readable idx file"),
    "a pixel less": (TRAIN_IMAGES_FILE, pack_idx((2, 2, 3), range(11)), "{} is not a readable idx file: .* size 11"),
    "a pixel more": (TRAIN_IMAGES_FILE, pack_idx((2, 2, 3), range(13)), "{} is not a readable idx file: .* size 13"),
    "signed bytes": (
        TRAIN_IMAGES_FILE,
        pack_idx((2, 2, 3), range(12), kind=9),
        "{} is not an idx file of unsigned bytes",
    ),
    "another format": (TRAIN_IMAGES_FILE, b"<!DOCTYPE html><title>404</title>" * 9, "{} is not a"),
    "fewer images": (TRAIN_IMAGES_FILE, pack_idx((1, 2, 3), range(6)), "1 train images but 2 labels"),
    "fewer labels": (TEST_LABELS_FILE, pack_idx((2,), [0, 1]), "3 t10k images but 2 labels"),
    "no labels": (TEST_LABELS_FILE, None, r"t10k-labels-idx1-ubyte\[.gz\] is missing"),
    "labels for images": (TRAIN_IMAGES_FILE, pack_idx((2,), [7, 9]), "{} "),
    "cut off": (
        f"{TRAIN_IMAGES_FILE}.gz",
        gzip.compress(pack_idx((2, 2, 3), range(12)))[:-9],
        "{} is not a readable idx file",
    ),
    "not zipped": (f"{TRAIN_IMAGES_FILE}.gz", pack_idx((2, 2, 3), range(12)), "{} is not a readable idx file"),
    "another checksum": (f"{TRAIN_IMAGES_FILE}.gz", damage_gzip(position=-6), "{} is not a readable idx file"),
    "packed data damaged": (f"{TRAIN_IMAGES_FILE}.gz", damage_gzip(position=10), "{} is not a readable idx file"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN_IDX_FILES.values(), ids=BROKEN_IDX_FILES)
def test_broken_idx_files_are_refused(tmp_path, name, content, message):
    write_idx_files(tmp_path)
    (tmp_path / name.removesuffix(".gz")).unlink()
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises(InputError, match=message.format(re.escape(str(tmp_path / name)))):
        load("fashion_mnist", str(tmp_path))


class Python2Pickler(pickle._Pickler):
    """A pickler that writes text and bytes alike as 8-bit strings, as Python 2 did when the CIFAR files were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value, name=None):
        module = "numpy.core.multiarray" if name == "_reconstruct" else value.__module__
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global


def write_python2_pickle(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(value)


def cifar_pixels(count, first):
    """Return images, uint8 (N, 3, 32, 32), whose bytes vary everywhere; the first byte is `first`."""
    return ((np.arange(count * 3072) * 7 + first) % 251).astype(np.uint8).reshape(count, 3, 32, 32)


def cifar_batch(count, first, labels, name=b"labels"):
    return {
        b"batch_label": b"training batch 1 of 5",
        name: labels,
        b"data": cifar_pixels(count, first).reshape(count, 3072),
        b"filenames": [b"an_image.png"] * count,
    }


def write_cifar10(folder):
    for number in range(1, 6):
        write_python2_pickle(folder / f"data_batch_{number}", cifar_batch(2, number, [number, 9]))
    write_python2_pickle(folder / "test_batch", cifar_batch(3, 100, [0, 1, 2]))


def write_cifar100(folder):
    for split, labels in (("train", [99, 0, 42]), ("test", [7, 8])):
        coarse = {b"coarse_labels": [1] * len(labels)}
        write_python2_pickle(folder / split, cifar_batch(len(labels), 5, labels, b"fine_labels") | coarse)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"], ids=["flat", "torchvision"])
def test_cifar10(tmp_path, inside):
    write_cifar10(tmp_path / inside)
    data = cifar10(str(tmp_path))
    assert data.train.targets.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert np.array_equal(data.train.inputs, np.concatenate([cifar_pixels(2, number) for number in range(1, 6)]))
    assert data.test.targets.tolist() == [0, 1, 2]
    assert np.array_equal(data.test.inputs, cifar_pixels(3, 100))
    checks.check(data)


def test_cifar100(tmp_path, monkeypatch):
    write_cifar100(tmp_path / "data" / "cifar-100-python")
    monkeypatch.chdir(tmp_path)
    data = load("cifar100")
    assert data.train.targets.tolist() == [99, 0, 42]
    assert np.array_equal(data.test.inputs, cifar_pixels(2, 5))
    checks.check(data)


def test_cifar_stored_column_by_column(tmp_path):
    write_cifar10(tmp_path)
    batch = cifar_batch(3, 100, [0, 1, 2])
    write_python2_pickle(tmp_path / "test_batch", batch | {b"data": np.asfortranarray(batch[b"data"])})
    assert np.array_equal(cifar10(str(tmp_path)).test.inputs, cifar_pixels(3, 100))


def test_missing_cifar_files_are_refused(tmp_path):
    folders = f"{re.escape(str(tmp_path))} and {re.escape(str(tmp_path))}/cifar-10-batches-py"
    with pytest.raises(InputError, match=f"'cifar10': no data_batch_1 in {folders}; set trial.data_root"):
        cifar10(str(tmp_path))
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/data_batch_4 is missing"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("reader", "archive"),
    [
        (cifar10, "cifar-10-python.tar.gz"),
        (cifar100, "cifar-100-python.tar.gz"),
        (tiny_imagenet, "tiny-imagenet-200.zip"),
        (imagenet, "ILSVRC2012_img_train.tar"),
    ],
)
def test_an_archive_that_is_not_unpacked_is_refused(tmp_path, reader, archive):
    (tmp_path / archive).touch()
    with pytest.raises(InputError, match=f"unpack {re.escape(str(tmp_path / archive))}, or set trial.data_root"):
        reader(str(tmp_path))


class Command:
    """An object that runs a command where it is unpickled without care."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments

    def pickled(self):
        strings = b"".join(pickle.SHORT_BINSTRING + bytes([len(a)]) + a.encode() for a in self.arguments)
        called = pickle.GLOBAL + f"{self.module}\n{self.name}\n".encode()
        return pickle.PROTO + b"\2" + called + pickle.MARK + strings + pickle.TUPLE + pickle.REDUCE + pickle.STOP


@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [
        ("os", "system", "touch {}"),
        ("posix", "system", "touch {}"),
        ("__builtin__", "eval", "open('{}', 'w')"),
        ("numpy", "loadtxt", "{}"),
        ("numpy.core.multiarray", "fromfile", "{}"),
    ],
)
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path, module, name, argument):
    write_cifar10(tmp_path)
    written = tmp_path / "written"
    content = Command(module, name, argument.format(written)).pickled()
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(InputError, match=f"test_batch is not a readable CIFAR pickle: .* loads .*{name}, which CIFAR"):
        cifar10(str(tmp_path))
    assert not written.exists()
    if argument.startswith(("touch", "open")):  # the command would have run
        file = pickle.loads(content)
        if name == "eval":
            file.close()
        assert written.exists()


def pickle_test_batch(tmp_path):
    write_python2_pickle(tmp_path / "whole", cifar_batch(3, 0, [0, 1, 2]))
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "EOFError"),
        (lambda content: content[:5000], "UnpicklingError: pickle data was truncated"),
        (lambda content: content[:-1], "EOFError"),
        (lambda content: b"<html>" + content, "UnpicklingError: invalid load key"),
        (lambda content: content.replace(b"U\2u1", b"U\2f8"), "its array is b'f8'; allowed: b'u1'"),
        (lambda content: content.replace(b"U\6labels", b"U\6babels"), "KeyError: b'labels'"),
        (lambda content: content.replace(b"U\4data", b"U\4date"), "KeyError: b'data'"),
        (lambda content: pickle.dumps([1, 2], protocol=2), "TypeError"),
    ],
    ids=["empty", "cut off", "without its end", "another format", "floats", "no labels", "no data", "no dict"],
)
def test_a_damaged_cifar_file_is_refused(tmp_path, damage, message):
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(damage(pickle_test_batch(tmp_path)))
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/test_batch is not a readable CIFAR.*{message}"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (cifar_batch(3, 0, [0, 1]), r"its images are uint8 \(3, 3, 32, 32\), .*2 labels"),
        (cifar_batch(3, 0, [0, 1, 10]), "its labels are 0 to 10; allowed: 0 to 9"),
        (cifar_batch(3, 0, [0, 1, -1]), "its labels are -1 to 1; allowed: 0 to 9"),
        (cifar_batch(3, 0, [0, 1, 2]) | {b"data": np.zeros((3, 784), np.uint8)}, "cannot reshape"),
        (cifar_batch(0, 0, []), "it has no images"),
    ],
)
def test_cifar_of_another_kind_is_refused(tmp_path, batch, message):
    write_cifar10(tmp_path)
    write_python2_pickle(tmp_path / "test_batch", batch)
    with pytest.raises(InputError, match=f"test_batch is not a readable CIFAR pickle: .*{message}"):
        cifar10(str(tmp_path))


# The axes are rows, columns, channels and images, as in the files; label 10 is the digit 0
SVHN_ARRAYS = {
    "train": (np.arange(32 * 32 * 3 * 4).reshape(32, 32, 3, 4) % 253, [[10], [1], [9], [5]]),
    "test": (np.arange(32 * 32 * 3 * 2).reshape(32, 32, 3, 2) % 249, [[2], [10]]),
}


def write_svhn(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (pixels, labels) in SVHN_ARRAYS.items():
        variables = {"X": pixels.astype(np.uint8), "y": np.array(labels, dtype=np.uint8)}
        variables |= changes if split == "test" else {}
        savemat(folder / f"{split}_32x32.mat", variables, do_compression=True)


@pytest.mark.parametrize("rooted", [True, False])
def test_svhn(tmp_path, monkeypatch, rooted):
    write_svhn(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    data = load("svhn", "data" if rooted else None)
    assert data.train.targets.tolist() == [0, 1, 9, 5]
    assert data.test.targets.tolist() == [2, 0]
    for split, images in (("train", data.train), ("test", data.test)):
        for number in range(len(images)):
            assert np.array_equal(images.inputs[number], SVHN_ARRAYS[split][0][:, :, :, number].transpose(2, 0, 1))
    assert not data.flip, "a mirrored digit is no digit"
    checks.check(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([[2], [11]], dtype=np.uint8), "X": np.zeros((32, 32, 3, 3), np.uint8)}, "with 2 labels"),
        ({"X": np.zeros((32, 32, 3, 2))}, "its images are float64"),
        ({"X": np.zeros((32, 32), np.uint8)}, "ValueError"),
    ],
)
def test_svhn_of_another_kind_is_refused(tmp_path, changes, message):
    write_svhn(tmp_path, **changes)
    with pytest.raises(InputError, match=f"test_32x32.mat is not a readable .mat file: .*{message}"):
        svhn(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + b"x" * 200, None])
def test_damaged_svhn_is_refused(tmp_path, content):
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} is not a readable .mat file"):
        svhn(str(tmp_path))


def test_missing_svhn_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=f"'svhn': no train_32x32.mat in {re.escape(str(tmp_path))}; set trial"):
        svhn(str(tmp_path))
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(InputError, match="test_32x32.mat is missing"):
        svhn(str(tmp_path))


def write_picture(path, colour, size=(64, 64)):
    """Write a JPEG of one colour: three channels, or one channel for a grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path, format="JPEG", quality=95)


GREEN, RED, GREY = (20, 200, 40), (220, 30, 10), 90


def write_tiny_imagenet(folder):
    for wnid, colour in (("n02", GREEN), ("n01", GREY)):
        for number in range(2):
            write_picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").touch()
    for number, colour in enumerate((RED, GREY, GREEN)):
        write_picture(folder / "val" / "images" / f"val_{number}.JPEG", colour)
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n" for number, wnid in enumerate(("n02", "n01", "n02"))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n02\nn01\n")


def write_imagenet(folder):
    for split, size in (("train", (300, 400)), ("val", (500, 260))):
        for number, (wnid, colour) in enumerate((("n01", GREY), ("n02", GREEN), ("n03", RED))):
            write_picture(folder / split / wnid / f"{split}_{number}.JPEG", colour, size)
            write_picture(folder / split / wnid / f"{split}_{number}b.JPEG", colour, size)


def measure_colours(dataset, source, mean, std):
    """Return the one colour of each image after the evaluation transform, as bytes, and its class."""
    colours = []
    for raw, target in (source[index] for index in range(len(source))):
        values = dataset.eval_transform(raw) * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        assert values.shape == dataset.input_shape
        assert float((values.amax((1, 2)) - values.amin((1, 2))).max()) < 0.02
        colours.append(((values.mean((1, 2)) * 255).tolist(), target))
    return colours


def near_colour(colour):
    return pytest.approx((colour,) * 3 if isinstance(colour, int) else colour, abs=3)


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path, inside):
    write_tiny_imagenet(tmp_path / inside)
    data = tiny_imagenet(str(tmp_path))
    checks.check(data)
    statistics = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    assert (data.classes, data.input_shape) == (2, (3, 64, 64))
    assert measure_colours(data, data.test, *statistics) == [
        (near_colour(RED), 1),
        (near_colour(GREY), 0),
        (near_colour(GREEN), 1),
    ]
    train = measure_colours(data, data.train, *statistics)
    assert train == [(near_colour(GREY), 0)] * 2 + [(near_colour(GREEN), 1)] * 2
    assert data.train.targets.tolist() == [target for _, target in train]


def test_imagenet(tmp_path, monkeypatch):
    write_imagenet(tmp_path / "data" / "imagenet")
    monkeypatch.chdir(tmp_path)
    data = load("imagenet")
    checks.check(data)
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = [(near_colour(colour), label) for label, colour in enumerate((GREY, GREEN, RED)) for _ in range(2)]
    for source in (data.train, data.test):
        assert measure_colours(data, source, *statistics) == expected
    assert (data.classes, data.input_shape, data.validation) == (3, (3, 224, 224), 0.04)


@pytest.mark.parametrize(("reader", "write"), [(tiny_imagenet, write_tiny_imagenet), (imagenet, write_imagenet)])
def test_photographs_are_cropped_and_mirrored_in_training_only(tmp_path, reader, write):
    write(tmp_path)
    data = reader(str(tmp_path))
    ramp = Image.fromarray(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    torch.manual_seed(0)
    images = [data.train_transform(ramp) for _ in range(6)]
    assert {tuple(image.shape) for image in images} == {data.input_shape}
    assert len({float(image.sum()) for image in images}) == 6
    assert torch.equal(data.eval_transform(ramp), data.eval_transform(ramp))


def test_hidden_and_other_files_are_no_images(tmp_path):
    write_imagenet(tmp_path)
    (tmp_path / "train" / "n01" / "._train_0.JPEG").write_bytes(b"left by a copy")
    (tmp_path / "train" / "n01" / "list.txt").touch()
    (tmp_path / "train" / ".cache").mkdir()
    assert len(imagenet(str(tmp_path)).train) == 6


def without(path):
    return lambda folder: (folder / path).rename(folder / "elsewhere")


def emptied(path):
    return lambda folder: [file.unlink() for file in (folder / path).iterdir()]


def with_text(path, text):
    return lambda folder: (folder / path).write_text(text)


ANNOTATIONS_FILE = "val/val_annotations.txt"
SPOILT_FOLDERS = {
    "no wnids": (tiny_imagenet, without("wnids.txt"), "no wnids.txt in"),
    "no class": (tiny_imagenet, without("train/n02"), "train/n02/images has no images, or is missing"),
    "no val": (tiny_imagenet, without("val/images"), "val/images has no images, or is missing"),
    "no annotations": (tiny_imagenet, without(ANNOTATIONS_FILE), "val_annotations.txt is not readable"),
    "no file": (tiny_imagenet, without("val/images/val_1.JPEG"), "line 2: 'val_1.JPEG' is not in .*val/images"),
    "other wnid": (
        tiny_imagenet,
        with_text(ANNOTATIONS_FILE, "val_0.JPEG\tn9\t0\n"),
        "line 1: 'n9' is not in wnids.txt",
    ),
    "no tab": (tiny_imagenet, with_text(ANNOTATIONS_FILE, "val_0.JPEG"), "line 1: '' is not in wnids.txt"),
    "no lines": (tiny_imagenet, with_text(ANNOTATIONS_FILE, ""), "val_annotations.txt lists no images"),
    "no train": (imagenet, without("train"), "'imagenet': no folder train in .* and .*/imagenet; set trial.data_root"),
    "no test": (imagenet, without("val"), "val is missing: it must hold one folder"),
    "a class of train": (imagenet, without("val/n02"), "train and val must have the same folders, .*: n02"),
    "an empty class": (imagenet, emptied("val/n02"), "val/n02 has no images, or is missing"),
}


@pytest.mark.parametrize(("reader", "spoil", "message"), SPOILT_FOLDERS.values(), ids=SPOILT_FOLDERS)
def test_spoilt_folders_are_refused(tmp_path, reader, spoil, message):
    (write_tiny_imagenet if reader is tiny_imagenet else write_imagenet)(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        reader(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "another format", "cut off"])
def test_a_damaged_image_is_refused(tmp_path, content):
    write_tiny_imagenet(tmp_path)
    path = tmp_path / "val" / "images" / "val_1.JPEG"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    data = tiny_imagenet(str(tmp_path))
    assert data.test[0][1] == 1
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} is not a readable image"):
        data.test[1]


@pytest.mark.parametrize("reader", [digits, synthetic, textures])
def test_built_in_data_sets_pass_the_checks_of_users_data(reader):
    checks.check(reader(None))
