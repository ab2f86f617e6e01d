"""The DATASETS table: labelled images by name, held in memory."""

from collections.abc import Callable
from functools import lru_cache

import torch

from forcetune.data.dataset import Batches, Dataset, Images
from forcetune.data.readers import digits, fashion_mnist, synthetic
from forcetune.errors import InputError
from forcetune.names import resolve

__all__ = ["DATASETS", "Batches", "Dataset", "Images", "load"]

Loader = Callable[[str | None], Dataset]

DATASETS: dict[str, Loader] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "synthetic": synthetic,
}


@lru_cache(maxsize=4)
def load(name: str, root: str | None = None) -> Dataset:
    """The data set called `name`, or the user's `package.module:function(data_root)`; kept for the next trial.

    Raises InputError where the name is unknown, its files are missing, or it is not as `Dataset` says.
    """
    loader = resolve(name, DATASETS, "data set")
    if name in DATASETS:
        return loader(root)
    try:
        dataset = loader(root)
    except Exception as error:  # the user's loader may raise anything
        raise InputError(f"data set {name!r}: loading it raised {type(error).__name__}: {error}") from error
    _check(name, dataset)
    return dataset


def _check(name: str, dataset: Dataset) -> None:
    if not isinstance(dataset, Dataset):
        raise InputError(f"data set {name!r} returned {type(dataset).__name__}, not a forcetune.data.Dataset")
    for part, images in (("train", dataset.train), ("test", dataset.test)):
        problem = _problem(images, dataset)
        if problem:
            raise InputError(f"data set {name!r}, {part}: {problem}")


def _problem(images: Images, dataset: Dataset) -> str | None:
    inputs, targets = images.inputs, images.targets
    channels = len(dataset.mean)
    if inputs.dtype != torch.uint8 or inputs.dim() != 4 or inputs.shape[1] != channels:
        found = f"{inputs.dtype} {tuple(inputs.shape)}"
        return f"inputs must be uint8 of shape (N, {channels}, H, W), with as many channels as mean has; got {found}"
    if targets.dtype != torch.int64 or targets.shape != inputs.shape[:1] or len(targets) < 2:
        found = f"{targets.dtype} {tuple(targets.shape)}"
        return f"targets must be int64 of shape ({len(inputs)},), at least 2; got {found}"
    if not 0 <= int(targets.min()) <= int(targets.max()) < dataset.classes:
        return f"targets must lie in 0..{dataset.classes - 1}; got {int(targets.min())}..{int(targets.max())}"
    return None
