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
    if len(dataset.std) != len(dataset.mean) or not 0 < dataset.validation < 1:
        raise InputError(
            f"data set {name!r}: mean and std must have one value a channel, and validation be between 0 and 1; "
            f"got {dataset.mean}, {dataset.std} and {dataset.validation}"
        )
    for part, images in (("train", dataset.train), ("test", dataset.test)):
        if problem := _problem(images, dataset):
            raise InputError(f"data set {name!r}, {part}: {problem}")
    if dataset.test.inputs.shape[1:] != dataset.input_shape:
        shapes = f"{tuple(dataset.test.inputs.shape[1:])}, those of train {dataset.input_shape}"
        raise InputError(f"data set {name!r}: the images of test have shape {shapes}")


def _problem(images: Images, dataset: Dataset) -> str | None:
    inputs, targets = images.inputs, images.targets
    channels = len(dataset.mean)
    if _kind(inputs) != torch.uint8 or inputs.dim() != 4 or inputs.shape[1] != channels:
        return f"inputs must be uint8 of shape (N, {channels}, H, W), channels as in mean; got {_found(inputs)}"
    if _kind(targets) != torch.int64 or targets.shape != inputs.shape[:1] or len(targets) < 2:
        return f"targets must be int64 of shape ({len(inputs)},), at least 2; got {_found(targets)}"
    if not 0 <= int(targets.min()) <= int(targets.max()) < dataset.classes:
        return f"targets must lie in 0..{dataset.classes - 1}; got {int(targets.min())}..{int(targets.max())}"
    return None


def _kind(values: object) -> torch.dtype | None:
    return values.dtype if isinstance(values, torch.Tensor) else None


def _found(values: object) -> str:
    if isinstance(values, torch.Tensor):
        return f"{values.dtype} {tuple(values.shape)}"
    return f"{type(values).__name__}, no tensor"
