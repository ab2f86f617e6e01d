"""The DATASETS table: labelled images by name, held in memory or streamed."""

from collections.abc import Callable
from functools import lru_cache

from forcetune.data.checks import check
from forcetune.data.dataset import Batches, Dataset, Images
from forcetune.data.identity import DataIdentity, compute_digest
from forcetune.data.interface import AnyBatches, AnyDataset
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
from forcetune.data.streamed import Streamed
from forcetune.errors import InputError
from forcetune.names import resolve

__all__ = [
    "DATASETS",
    "AnyBatches",
    "AnyDataset",
    "Batches",
    "DataIdentity",
    "Dataset",
    "Images",
    "Streamed",
    "identify",
    "load",
]

Loader = Callable[[str | None], AnyDataset]

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "tiny_imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "synthetic": synthetic,
    "textures": textures,
}


@lru_cache(maxsize=4)
def load(name: str, root: str | None = None) -> AnyDataset:
    """Load a data set, and keep it for the next trial.

    Args:
        name: A row of DATASETS or the user's `package.module:function(data_root)`.
        root: The folder with the files of the data set; None for the reader's default.

    Returns:
        The data set.

    Raises:
        InputError: The name is unknown, the files are missing, or the data set is not as `Dataset` or `Streamed` says.
    """
    loader: Callable[[str | None], AnyDataset] = resolve(name, DATASETS, "data set")
    if name in DATASETS:
        return loader(root)
    try:
        dataset = loader(root)
    except Exception as error:  # the user's loader may raise anything
        raise InputError(f"data set {name!r}: its loader raised {type(error).__name__}: {error}") from error
    try:
        check(dataset)
    except InputError as error:
        raise InputError(f"data set {name!r}: {error}") from error
    return dataset


@lru_cache(maxsize=4)
def identify(name: str, root: str | None = None) -> DataIdentity:
    """Return the identity of a data set; it is computed once for each process.

    Args:
        name: A row of DATASETS or the user's `package.module:function(data_root)`.
        root: The folder with the files of the data set; None for the reader's default.

    Returns:
        The identity.

    Raises:
        InputError: The reasons are those of `load`.
    """
    dataset = load(name, root)
    assert isinstance(dataset, Dataset | Streamed)  # `check` refuses everything else
    return DataIdentity(name, root, compute_digest(dataset), len(dataset.train), len(dataset.test), dataset.classes)
