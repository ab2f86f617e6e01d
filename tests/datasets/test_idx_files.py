"""The reader of idx files, those of MNIST and Fashion-MNIST, and the damaged files that it refuses."""

import gzip
import re
import struct

import pytest
import torch

from forcetune.data import load
from forcetune.data.readers import fashion_mnist, mnist
from forcetune.errors import InputError

pytestmark = pytest.mark.usefixtures("empty_load_cache")

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
