"""Readers of data sets, from what libraries ship or from local folders; nothing is downloaded."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forcetune.data.dataset import Dataset, Images
from forcetune.errors import InputError


def digits(root: str | None) -> Dataset:
    """1797 handwritten digits of 8x8 pixels in 17 grey levels, from scikit-learn; every fifth is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    targets = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(targets)) % 5 == 4
    return Dataset(
        train=Images(inputs[~test], targets[~test]),
        test=Images(inputs[test], targets[test]),
        classes=10,
        mean=(0.305,),
        std=(0.376,),
        pad=1,
        validation=0.25,
    )


FASHION_MNIST_FOLDERS = ("data/FashionMNIST/raw", "/usr/share/datasets/fashion-mnist")


def fashion_mnist(root: str | None) -> Dataset:
    """Fashion-MNIST [1708.07747] from `root`, or from ./data or where Debian's package puts it.

    A root holds the four idx files, gzipped or not, or torchvision's FashionMNIST/raw with them.
    """
    folder = _idx_folder("fashion_mnist", root, "FashionMNIST", FASHION_MNIST_FOLDERS)
    return Dataset(
        train=_read_images(folder, "train"),
        test=_read_images(folder, "t10k"),
        classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        pad=2,
        flip=True,
    )


def synthetic(root: str | None) -> Dataset:
    """400 images of 1x8x8 in 4 classes, each a fixed pattern under noise: for tests, learnt in seconds."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand((4, 1, 8, 8), generator=generator)
    targets = torch.arange(400) % 4
    noisy = patterns[targets] + 0.3 * torch.randn((400, 1, 8, 8), generator=generator)
    inputs = (noisy.clamp(0, 1) * 255).to(torch.uint8)
    return Dataset(
        train=Images(inputs[:320], targets[:320]),
        test=Images(inputs[320:], targets[320:]),
        classes=4,
        mean=(0.5,),
        std=(0.3,),
    )


def _idx_folder(dataset: str, root: str | None, torchvision_name: str, usual: tuple[str, ...]) -> Path:
    places = [Path(root), Path(root) / torchvision_name / "raw"] if root else [Path(p) for p in usual]
    for place in places:
        if _idx_file(place, "train-images-idx3-ubyte"):
            return place
    looked = " and ".join(str(place.absolute()) for place in places)
    raise InputError(
        f"data set {dataset!r}: no train-images-idx3-ubyte[.gz] in {looked}; set trial.data_root to the folder "
        "with its four idx files, or install Debian's package dataset-fashion-mnist"
    )


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _read_images(folder: Path, part: str) -> Images:
    inputs = _read_idx(folder, f"{part}-images-idx3-ubyte", axes=3)
    targets = _read_idx(folder, f"{part}-labels-idx1-ubyte", axes=1)
    if len(inputs) != len(targets):
        raise InputError(f"{folder}: {len(inputs)} {part} images but {len(targets)} labels")
    return Images(inputs[:, None], targets.long())


def _read_idx(folder: Path, stem: str, axes: int) -> Tensor:
    """An idx file of unsigned bytes: two zero bytes, type 8, the number of axes, then each axis as a big-endian int."""
    path = _idx_file(folder, stem)
    if path is None:
        raise InputError(f"data set folder {folder}: {stem}[.gz] is missing")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, found = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{found}I", raw[4 : 4 + 4 * found])
        values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * found).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(f"{path} is not a readable idx file: {error}") from error
    if (zeros, kind, found) != (0, 8, axes):
        raise InputError(f"{path} is not an idx file of unsigned bytes with {axes} axes")
    return torch.from_numpy(values.copy())
