"""Readers of 32x32 colour images kept as arrays: CIFAR in pickles of Python 2, SVHN in .mat files."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forcetune.data.dataset import Dataset, Images
from forcetune.data.readers.places import find_folder
from forcetune.errors import InputError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: str | None) -> Dataset:
    """Read CIFAR-10, its "python version": 60 000 photographs in 10 classes.

    Args:
        root: The folder with data_batch_1 to 5 and test_batch, or with the folder cifar-10-batches-py that holds them;
            None for ./data.
    """
    folder = find_folder("cifar10", root, "cifar-10-batches-py", ("data_batch_1",), archive="cifar-10-python.tar.gz")
    training_images = [_read_cifar(folder / f"data_batch_{number}", b"labels", classes=10) for number in range(1, 6)]
    return Dataset(
        train=Images(
            torch.cat([images.inputs for images in training_images]),
            torch.cat([images.targets for images in training_images]),
        ),
        test=_read_cifar(folder / "test_batch", b"labels", classes=10),
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        pad=4,
        flip=True,
        class_names=CIFAR10_CLASSES,
    )


def cifar100(root: str | None) -> Dataset:
    """Read CIFAR-100, its "python version": 60 000 photographs in 100 fine classes.

    Args:
        root: The folder with train and test, or with the folder cifar-100-python that holds them; None for ./data.
    """
    folder = find_folder("cifar100", root, "cifar-100-python", ("train",), archive="cifar-100-python.tar.gz")
    return Dataset(
        train=_read_cifar(folder / "train", b"fine_labels", classes=100),
        test=_read_cifar(folder / "test", b"fine_labels", classes=100),
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        pad=4,
        flip=True,
    )


def svhn(root: str | None) -> Dataset:
    """Read SVHN, cropped: 73 257 training and 26 032 test images of house numbers.

    Args:
        root: The folder with train_32x32.mat and test_32x32.mat; None for ./data.
    """
    folder = find_folder("svhn", root, "", ("train_32x32.mat",))
    return Dataset(
        train=_read_mat(folder / "train_32x32.mat"),
        test=_read_mat(folder / "test_32x32.mat"),
        classes=10,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        pad=4,
        class_names=tuple("0123456789"),
    )


def _read_cifar(path: Path, labels: bytes, classes: int) -> Images:
    """Read a pickled dict: `data`, uint8 (N, 3072), each row red, green, then blue; and a list of labels."""
    # torchvision.datasets.CIFAR10 does what a pickle asks for, and reads no files but the original ones
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        pixels, targets = content[b"data"].values, content[labels]
        return _make_images(pixels.reshape(-1, 3, 32, 32), targets, classes)
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(_unreadable(path, "CIFAR pickle", error)) from error


def _read_mat(path: Path) -> Images:
    """Read X, uint8 (32, 32, 3, N), and y, (N, 1), in which 10 is the digit 0."""
    from scipy.io import loadmat  # as torchvision.datasets.SVHN does, which reads no files but the original ones

    try:
        content = loadmat(path, variable_names=["X", "y"])
        return _make_images(content["X"].transpose(3, 2, 0, 1), content["y"][:, 0] % 10, classes=10)
    except Exception as error:  # a damaged .mat file may raise anything
        raise InputError(_unreadable(path, ".mat file", error)) from error


def _unreadable(path: Path, kind: str, error: Exception) -> str:
    if not path.exists():
        return f"{path} is missing"
    return f"{path} is not a readable {kind}: {type(error).__name__}: {error}"


def _make_images(pixels: np.ndarray, labels: Iterable[int], classes: int) -> Images:
    targets = torch.tensor([int(label) for label in labels])
    if pixels.dtype != np.uint8 or pixels.shape != (len(targets), 3, 32, 32):
        raise ValueError(
            f"its images are {pixels.dtype} {pixels.shape}, with {len(targets)} labels; allowed: uint8 (N, 3, 32, 32), "
            "with N labels"
        )
    if not len(targets):
        raise ValueError("it has no images")
    if not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(f"its labels are {int(targets.min())} to {int(targets.max())}; allowed: 0 to {classes - 1}")
    return Images(torch.from_numpy(pixels.copy()), targets)


class _Unpickler(pickle.Unpickler):
    """An unpickler of plain data and arrays of bytes that calls nothing that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it loads {module}.{name}, which CIFAR files do not contain") from None


class _ByteArray:
    """A stand-in for numpy.ndarray."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _ByteType):
            raise ValueError("the type of its array is not uint8")
        self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if columns_first else "C")


class _ByteType:
    """A stand-in for numpy.dtype("u1"), the only type in these files."""

    def __init__(self, kind: bytes, *flags: object) -> None:
        if kind != b"u1":
            raise ValueError(f"the type of its array is {kind!r}; allowed: b'u1' (uint8)")

    def __setstate__(self, state: object) -> None:
        """Ignore the state, such as the byte order: it does not matter for bytes."""


def _reconstruct(*_: object) -> _ByteArray:
    return _ByteArray()


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ByteArray,
    ("numpy", "dtype"): _ByteType,
}
