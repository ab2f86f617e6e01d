"""Readers of MNIST and of data sets in its format: four idx files."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forcetune.data.dataset import Dataset, Images
from forcetune.data.readers.places import find_folder
from forcetune.errors import InputError

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def mnist(root: str | None) -> Dataset:
    """Read MNIST: 70 000 handwritten digits of 28x28.

    Args:
        root: The folder with the four idx files, gzipped or not, or with torchvision's MNIST/raw that holds them; None
            for ./data.
    """
    folder = _find_idx_folder("mnist", root, "MNIST/raw")
    names = tuple("0123456789")
    return Dataset(*_splits(folder), classes=10, mean=(0.1307,), std=(0.3081,), pad=2, class_names=names)


def fashion_mnist(root: str | None) -> Dataset:
    """Read Fashion-MNIST [1708.07747].

    Args:
        root: The folder with the four idx files, gzipped or not, or with torchvision's FashionMNIST/raw that holds
            them; None for ./data or the folder of Debian's package.
    """
    remedy = ", or install Debian's package dataset-fashion-mnist"
    folder = _find_idx_folder("fashion_mnist", root, "FashionMNIST/raw", (FASHION_MNIST_FOLDER,), remedy)
    return Dataset(
        *_splits(folder),
        classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        pad=2,
        flip=True,
        class_names=FASHION_MNIST_CLASSES,
    )


def _find_idx_folder(
    dataset: str, root: str | None, subfolder: str, default_folders: tuple[str, ...] = (), remedy: str = ""
) -> Path:
    name = "train-images-idx3-ubyte"
    return find_folder(dataset, root, subfolder, (name, f"{name}.gz"), f"{name}[.gz]", default_folders, remedy=remedy)


def _splits(folder: Path) -> tuple[Images, Images]:
    return _read_images(folder, "train"), _read_images(folder, "t10k")


def _read_images(folder: Path, prefix: str) -> Images:
    inputs = _read_idx(folder, f"{prefix}-images-idx3-ubyte", axes=3)
    targets = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", axes=1)
    if len(inputs) != len(targets):
        raise InputError(f"{folder}: {len(inputs)} {prefix} images but {len(targets)} labels")
    return Images(inputs[:, None], targets.long())


def _read_idx(folder: Path, stem: str, axes: int) -> Tensor:
    """Read an idx file of unsigned bytes: two zero bytes, type 8, the number of axes, each axis as a big-endian int."""
    # torchvision's read_sn3_pascalvincent_tensor reads no .gz, and does not say which file it cannot read
    path = next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)
    if path is None:
        raise InputError(f"data set folder {folder}: {stem}[.gz] is missing")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, axis_count = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{axis_count}I", raw[4 : 4 + 4 * axis_count])
        values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axis_count).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(f"{path} is not a readable idx file: {error}") from error
    if (zeros, kind, axis_count) != (0, 8, axes):
        raise InputError(f"{path} is not an idx file of unsigned bytes with {axes} axes")
    return torch.from_numpy(values.copy())
