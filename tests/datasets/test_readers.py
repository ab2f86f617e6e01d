"""Readers: what they give of files in their real formats, and that damaged ones are refused."""

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
def nothing_remembered():
    load.cache_clear()
    yield
    load.cache_clear()


def test_digits():
    found, original = digits(None), load_digits()
    assert (len(found.train), len(found.test), found.input_shape) == (1438, 359, (1, 8, 8))
    assert found.test.targets.tolist() == original.target[4::5].tolist()
    # 17 grey levels, 0 to 16, spread over the bytes
    assert (found.test.inputs[:, 0] == torch.from_numpy(np.rint(original.images[4::5] * 255 / 16))).all()
    assert sorted([*found.train.targets.tolist(), *found.test.targets.tolist()]) == sorted(original.target)


@pytest.mark.parametrize("make", [digits, synthetic, textures])
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


def nearest_class(features, data):
    """The share of the test images whose class has the nearest mean of these features in training."""
    of_training, of_test = features(data.train.inputs.float()), features(data.test.inputs.float())
    means = torch.stack([of_training[data.train.targets == label].mean(0) for label in range(data.classes)])
    return float((torch.cdist(of_test, means).argmin(1) == data.test.targets).float().mean())


def test_the_classes_of_textures_differ_in_their_stripes_and_not_in_their_pixels():
    data = textures(None)
    assert torch.equal(data.train.inputs, textures(None).train.inputs)
    assert (len(data.train), len(data.test), data.input_shape) == (5000, 1000, (3, 32, 32))
    assert torch.bincount(data.train.targets).tolist() == [500] * 10
    assert nearest_class(lambda x: x.flatten(1), data) < 0.25
    assert nearest_class(lambda x: torch.fft.rfft2(x.sum(1)).abs().flatten(1)[:, 1:], data) > 0.6


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


def write_idx_files(folder, zipped=False):
    for part, labels in LABELS.items():
        pixels = PIXELS[part].tolist()
        write(folder, f"{part}-images-idx3-ubyte", idx((len(labels), 2, 3), pixels), zipped)
        write(folder, f"{part}-labels-idx1-ubyte", idx((len(labels),), labels), zipped)


@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
@pytest.mark.parametrize(
    ("reader", "inside"),
    [(fashion_mnist, ""), (fashion_mnist, "FashionMNIST/raw"), (mnist, ""), (mnist, "MNIST/raw")],
    ids=["fashion", "fashion by torchvision", "mnist", "mnist by torchvision"],
)
def test_idx_files(tmp_path, reader, inside, zipped):
    write_idx_files(tmp_path / inside, zipped)
    found = reader(str(tmp_path))
    for part, got in (("train", found.train), ("t10k", found.test)):
        assert got.inputs.flatten().tolist() == PIXELS[part].tolist()
        assert got.inputs.shape == (len(LABELS[part]), 1, 2, 3)
        assert (got.inputs.dtype, got.targets.dtype) == (torch.uint8, torch.int64)
        assert got.targets.tolist() == LABELS[part]


@pytest.mark.parametrize(("name", "inside"), [("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_idx_files_of_the_current_folder(tmp_path, monkeypatch, name, inside):
    write_idx_files(tmp_path / "data" / inside / "raw")
    monkeypatch.chdir(tmp_path)
    assert load(name).train.targets.tolist() == LABELS["train"]


def test_digits_are_not_mirrored(tmp_path):
    write_idx_files(tmp_path)
    assert (mnist(str(tmp_path)).flip, fashion_mnist(str(tmp_path)).flip) == (False, True)


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
    write_idx_files(tmp_path)
    (tmp_path / name.removesuffix(".gz")).unlink()
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises(InputError, match=said.format(re.escape(str(tmp_path / name)))):
        load("fashion_mnist", str(tmp_path))


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 and its numpy did when the CIFAR files were made: text and bytes alike as 8-bit strings."""

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


def python2_pickle(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(value)


def cifar_pixels(count, first):
    """Images of uint8 (N, 3, 32, 32) whose bytes are all about the place, from one that is `first`."""
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
        python2_pickle(folder / f"data_batch_{number}", cifar_batch(2, number, [number, 9]))
    python2_pickle(folder / "test_batch", cifar_batch(3, 100, [0, 1, 2]))


def write_cifar100(folder):
    for part, labels in (("train", [99, 0, 42]), ("test", [7, 8])):
        coarse = {b"coarse_labels": [1] * len(labels)}
        python2_pickle(folder / part, cifar_batch(len(labels), 5, labels, b"fine_labels") | coarse)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"], ids=["flat", "torchvision"])
def test_cifar10(tmp_path, inside):
    write_cifar10(tmp_path / inside)
    found = cifar10(str(tmp_path))
    assert found.train.targets.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert np.array_equal(found.train.inputs, np.concatenate([cifar_pixels(2, number) for number in range(1, 6)]))
    assert found.test.targets.tolist() == [0, 1, 2]
    assert np.array_equal(found.test.inputs, cifar_pixels(3, 100))
    checks.check(found)


def test_cifar100(tmp_path, monkeypatch):
    write_cifar100(tmp_path / "data" / "cifar-100-python")
    monkeypatch.chdir(tmp_path)
    found = load("cifar100")
    assert found.train.targets.tolist() == [99, 0, 42]
    assert np.array_equal(found.test.inputs, cifar_pixels(2, 5))
    checks.check(found)


def test_cifar_kept_column_by_column(tmp_path):
    write_cifar10(tmp_path)
    batch = cifar_batch(3, 100, [0, 1, 2])
    python2_pickle(tmp_path / "test_batch", batch | {b"data": np.asfortranarray(batch[b"data"])})
    assert np.array_equal(cifar10(str(tmp_path)).test.inputs, cifar_pixels(3, 100))


def test_no_cifar(tmp_path):
    looked = f"{re.escape(str(tmp_path))} and {re.escape(str(tmp_path))}/cifar-10-batches-py"
    with pytest.raises(InputError, match=f"'cifar10': no data_batch_1 in {looked}; set trial.data_root"):
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
def test_only_the_archive(tmp_path, reader, archive):
    (tmp_path / archive).touch()
    with pytest.raises(InputError, match=f"unpack {re.escape(str(tmp_path / archive))}, or set trial.data_root"):
        reader(str(tmp_path))


class Command:
    """Unpickled without care, it runs a command."""

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
def test_a_pickle_that_would_run_something(tmp_path, module, name, argument):
    write_cifar10(tmp_path)
    written = tmp_path / "written"
    content = Command(module, name, argument.format(written)).pickled()
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(InputError, match=f"test_batch is not a readable CIFAR pickle: .* loads .*{name}, which CIFAR"):
        cifar10(str(tmp_path))
    assert not written.exists()
    if argument.startswith(("touch", "open")):  # and it would have run
        file = pickle.loads(content)
        if name == "eval":
            file.close()
        assert written.exists()


def whole_test_batch(tmp_path):
    python2_pickle(tmp_path / "whole", cifar_batch(3, 0, [0, 1, 2]))
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"", "EOFError"),
        (lambda content: content[:5000], "UnpicklingError: pickle data was truncated"),
        (lambda content: content[:-1], "EOFError"),
        (lambda content: b"<html>" + content, ""),
        (lambda content: content.replace(b"U\2u1", b"U\2f8"), "its array is b'f8'; allowed: b'u1'"),
        (lambda content: content.replace(b"U\6labels", b"U\6babels"), "KeyError: b'labels'"),
        (lambda content: content.replace(b"U\4data", b"U\4date"), "KeyError: b'data'"),
        (lambda content: pickle.dumps([1, 2], protocol=2), "TypeError"),
    ],
    ids=["empty", "cut off", "without its end", "another format", "floats", "no labels", "no data", "no dict"],
)
def test_a_damaged_cifar_file(tmp_path, damage, said):
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(damage(whole_test_batch(tmp_path)))
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/test_batch is not a readable CIFAR.*{said}"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (cifar_batch(3, 0, [0, 1]), r"its images are uint8 \(3, 3, 32, 32\), .*2 labels"),
        (cifar_batch(3, 0, [0, 1, 10]), "its labels are 0 to 10; allowed: 0 to 9"),
        (cifar_batch(3, 0, [0, 1, -1]), "its labels are -1 to 1; allowed: 0 to 9"),
        (cifar_batch(3, 0, [0, 1, 2]) | {b"data": np.zeros((3, 784), np.uint8)}, "cannot reshape"),
        (cifar_batch(0, 0, []), ""),
    ],
)
def test_cifar_of_another_kind(tmp_path, batch, said):
    write_cifar10(tmp_path)
    python2_pickle(tmp_path / "test_batch", batch)
    with pytest.raises(InputError, match=f"test_batch is not a readable CIFAR pickle: .*{said}"):
        cifar10(str(tmp_path))


# Rows, columns, channels, images, as in the files; 10 is the digit 0
SVHN = {
    "train": (np.arange(32 * 32 * 3 * 4).reshape(32, 32, 3, 4) % 253, [[10], [1], [9], [5]]),
    "test": (np.arange(32 * 32 * 3 * 2).reshape(32, 32, 3, 2) % 249, [[2], [10]]),
}


def write_svhn(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    for part, (pixels, labels) in SVHN.items():
        named = {"X": pixels.astype(np.uint8), "y": np.array(labels, dtype=np.uint8)}
        named |= changed if part == "test" else {}
        savemat(folder / f"{part}_32x32.mat", named, do_compression=True)


@pytest.mark.parametrize("rooted", [True, False])
def test_svhn(tmp_path, monkeypatch, rooted):
    write_svhn(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    found = load("svhn", "data" if rooted else None)
    assert found.train.targets.tolist() == [0, 1, 9, 5]
    assert found.test.targets.tolist() == [2, 0]
    for part, got in (("train", found.train), ("test", found.test)):
        for number in range(len(got)):
            assert np.array_equal(got.inputs[number], SVHN[part][0][:, :, :, number].transpose(2, 0, 1))
    assert not found.flip, "a mirrored digit is none"
    checks.check(found)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": np.array([[2], [11]], dtype=np.uint8), "X": np.zeros((32, 32, 3, 3), np.uint8)}, "with 2 labels"),
        ({"X": np.zeros((32, 32, 3, 2))}, "its images are float64"),
        ({"X": np.zeros((32, 32), np.uint8)}, "ValueError"),
    ],
)
def test_svhn_of_another_kind(tmp_path, changed, said):
    write_svhn(tmp_path, **changed)
    with pytest.raises(InputError, match=f"test_32x32.mat is not a readable .mat file: .*{said}"):
        svhn(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + b"x" * 200, None])
def test_damaged_svhn(tmp_path, content):
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} is not a readable .mat file"):
        svhn(str(tmp_path))


def test_no_svhn(tmp_path):
    with pytest.raises(InputError, match=f"'svhn': no train_32x32.mat in {re.escape(str(tmp_path))}; set trial"):
        svhn(str(tmp_path))
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(InputError, match="test_32x32.mat is missing"):
        svhn(str(tmp_path))


def picture(path, colour, size=(64, 64)):
    """A JPEG of one colour: three channels, or one of grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path, format="JPEG", quality=95)


GREEN, RED, GREY = (20, 200, 40), (220, 30, 10), 90


def write_tiny_imagenet(folder):
    for wnid, colour in (("n02", GREEN), ("n01", GREY)):
        for number in range(2):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").touch()
    for number, colour in enumerate((RED, GREY, GREEN)):
        picture(folder / "val" / "images" / f"val_{number}.JPEG", colour)
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n" for number, wnid in enumerate(("n02", "n01", "n02"))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n02\nn01\n")


def write_imagenet(folder):
    for part, size in (("train", (300, 400)), ("val", (500, 260))):
        for number, (wnid, colour) in enumerate((("n01", GREY), ("n02", GREEN), ("n03", RED))):
            picture(folder / part / wnid / f"{part}_{number}.JPEG", colour, size)
            picture(folder / part / wnid / f"{part}_{number}b.JPEG", colour, size)


def colours(dataset, source, mean, std):
    """The one colour of each image after the transform of evaluation, as bytes, and the classes."""
    found = []
    for raw, target in (source[index] for index in range(len(source))):
        values = dataset.eval_transform(raw) * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        assert values.shape == dataset.input_shape
        assert float((values.amax((1, 2)) - values.amin((1, 2))).max()) < 0.02
        found.append(((values.mean((1, 2)) * 255).tolist(), target))
    return found


def near(colour):
    return pytest.approx((colour,) * 3 if isinstance(colour, int) else colour, abs=3)


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path, inside):
    write_tiny_imagenet(tmp_path / inside)
    found = tiny_imagenet(str(tmp_path))
    checks.check(found)
    statistics = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    assert (found.classes, found.input_shape) == (2, (3, 64, 64))
    assert colours(found, found.test, *statistics) == [(near(RED), 1), (near(GREY), 0), (near(GREEN), 1)]
    train = colours(found, found.train, *statistics)
    assert train == [(near(GREY), 0)] * 2 + [(near(GREEN), 1)] * 2
    assert found.train.targets.tolist() == [target for _, target in train]


def test_imagenet(tmp_path, monkeypatch):
    write_imagenet(tmp_path / "data" / "imagenet")
    monkeypatch.chdir(tmp_path)
    found = load("imagenet")
    checks.check(found)
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = [(near(colour), label) for label, colour in enumerate((GREY, GREEN, RED)) for _ in range(2)]
    for source in (found.train, found.test):
        assert colours(found, source, *statistics) == expected
    assert (found.classes, found.input_shape, found.validation) == (3, (3, 224, 224), 0.04)


@pytest.mark.parametrize(("reader", "write"), [(tiny_imagenet, write_tiny_imagenet), (imagenet, write_imagenet)])
def test_photographs_are_cropped_and_mirrored_in_training_only(tmp_path, reader, write):
    write(tmp_path)
    found = reader(str(tmp_path))
    ramp = Image.fromarray(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    torch.manual_seed(0)
    seen = [found.train_transform(ramp) for _ in range(6)]
    assert {tuple(one.shape) for one in seen} == {found.input_shape}
    assert len({float(one.sum()) for one in seen}) == 6
    assert torch.equal(found.eval_transform(ramp), found.eval_transform(ramp))


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


ANNOTATIONS = "val/val_annotations.txt"
SPOILT = {
    "no wnids": (tiny_imagenet, without("wnids.txt"), "no wnids.txt in"),
    "no class": (tiny_imagenet, without("train/n02"), "train/n02/images has no images, or is missing"),
    "no val": (tiny_imagenet, without("val/images"), "val/images has no images, or is missing"),
    "no annotations": (tiny_imagenet, without(ANNOTATIONS), "val_annotations.txt is not readable"),
    "no file": (tiny_imagenet, without("val/images/val_1.JPEG"), "line 2: 'val_1.JPEG' is not in .*val/images"),
    "other wnid": (tiny_imagenet, with_text(ANNOTATIONS, "val_0.JPEG\tn9\t0\n"), "line 1: 'n9' is not in wnids.txt"),
    "no tab": (tiny_imagenet, with_text(ANNOTATIONS, "val_0.JPEG"), "line 1: '' is not in wnids.txt"),
    "no lines": (tiny_imagenet, with_text(ANNOTATIONS, ""), "val_annotations.txt lists no images"),
    "no train": (imagenet, without("train"), "'imagenet': no folder train in .* and .*/imagenet; set trial.data_root"),
    "no test": (imagenet, without("val"), "val is missing: it must hold one folder"),
    "a class of train": (imagenet, without("val/n02"), "train and val must have the same folders, .*: n02"),
    "an empty class": (imagenet, emptied("val/n02"), "val/n02 has no images, or is missing"),
}


@pytest.mark.parametrize(("reader", "spoil", "said"), SPOILT.values(), ids=SPOILT)
def test_spoilt_folders(tmp_path, reader, spoil, said):
    (write_tiny_imagenet if reader is tiny_imagenet else write_imagenet)(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=said):
        reader(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "another format", "cut off"])
def test_a_damaged_image(tmp_path, content):
    write_tiny_imagenet(tmp_path)
    path = tmp_path / "val" / "images" / "val_1.JPEG"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    found = tiny_imagenet(str(tmp_path))
    assert found.test[0][1] == 1
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} is not a readable image"):
        found.test[1]


@pytest.mark.parametrize("reader", [digits, synthetic, textures])
def test_the_rows_are_as_the_users_own_must_be(reader):
    checks.check(reader(None))
