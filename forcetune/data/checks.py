"""Checks of the data set that a user's loader returned against `Dataset` and `Streamed`."""

from typing import Any

import torch
from torch import Tensor

from forcetune.data.dataset import Dataset, Images
from forcetune.data.streamed import BatchReader, Streamed, full_split, stored_targets
from forcetune.errors import InputError


def check(dataset: object) -> None:
    """Check a data set; of a streamed one, read the first sample of each split.

    Raises:
        InputError: The data set is not as `Dataset` or `Streamed` says.
    """
    if isinstance(dataset, Dataset):
        _check_in_memory(dataset)
    elif isinstance(dataset, Streamed):
        _check_streamed(dataset)
    else:
        raise InputError(f"the loader returned {type(dataset).__name__}, not a forcetune.data.Dataset or Streamed")
    _check_class_names(dataset.class_names, dataset.classes)


def _check_class_names(names: object, classes: int) -> None:
    is_tuple = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    if not is_tuple or (names and len(names) != classes):  # type: ignore[arg-type]
        raise InputError(f"class_names must be a tuple of {classes} texts, one per class, or empty; got {names!r}")


def _check_in_memory(dataset: Dataset) -> None:
    splits = {"train": dataset.train, "test": dataset.test}
    if isinstance(dataset.validation, Images):
        splits["validation"] = dataset.validation
    else:
        _check_share(dataset.validation, "separate Images")
    if len(dataset.std) != len(dataset.mean):
        raise InputError(f"mean and std must have one value per channel; got {dataset.mean} and {dataset.std}")
    for name, images in splits.items():
        if problem := _find_problem(images, dataset):
            raise InputError(f"{name}: {problem}")
        if images.inputs.shape[1:] != dataset.input_shape:
            shapes = f"{tuple(images.inputs.shape[1:])}, but those of train have {dataset.input_shape}"
            raise InputError(f"the images of {name} have shape {shapes}")
    if dataset.augment is not None:
        _check_augment(dataset)


def _check_share(share: object, alternative: str) -> None:
    if not isinstance(share, float) or not 0 < share < 1:
        raise InputError(f"validation must be a share of train between 0 and 1, or {alternative}; got {share!r}")


def _find_problem(images: Images, dataset: Dataset) -> str | None:
    if not isinstance(images, Images):
        return f"must be forcetune.data.Images; got {type(images).__name__}"
    inputs, targets = images.inputs, images.targets
    channels = len(dataset.mean)
    if _dtype(inputs) != torch.uint8 or inputs.dim() != 4 or inputs.shape[1] != channels:
        shape = f"(N, {channels}, H, W), one channel per value of mean"
        return f"inputs must be uint8 of shape {shape}; got {_describe(inputs)}"
    if _dtype(targets) != torch.int64 or targets.shape != inputs.shape[:1] or len(targets) < 2:
        return f"targets must be int64 of shape ({len(inputs)},), for at least 2 images; got {_describe(targets)}"
    return _find_range_problem(targets, dataset.classes)


def _find_range_problem(targets: Tensor, classes: int) -> str | None:
    lowest, highest = int(targets.min()), int(targets.max())
    if not 0 <= lowest <= highest < classes:
        return f"targets must lie in 0..{classes - 1}; got {lowest}..{highest}"
    return None


def _check_augment(dataset: Dataset) -> None:
    images = dataset.train.inputs[:2]
    if not callable(dataset.augment):
        raise InputError(f"augment must be a function of (images, generator); got {dataset.augment!r}")
    try:
        augmented = dataset.augment(images.clone(), torch.Generator().manual_seed(0))
    except Exception as error:  # the user's function may raise anything
        raise InputError(f"augment raised {type(error).__name__}: {error}") from error
    if _dtype(augmented) != torch.uint8 or augmented.shape != images.shape:
        raise InputError(
            f"augment must return uint8 of its input's shape, {_describe(images)}; got {_describe(augmented)}"
        )


def _dtype(values: object) -> torch.dtype | None:
    return values.dtype if isinstance(values, Tensor) else None


def _describe(values: object) -> str:
    if isinstance(values, Tensor):
        return f"{values.dtype} {tuple(values.shape)}"
    return f"{type(values).__name__}, which is not a tensor"


def _check_streamed(dataset: Streamed) -> None:
    if not _is_positive(dataset.classes):
        raise InputError(f"classes must be an int, at least 1; got {dataset.classes!r}")
    shape = dataset.input_shape
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(map(_is_positive, shape)):
        raise InputError(f"input_shape must be three ints (C, H, W); got {shape!r}")
    if dataset.workers is not None and dataset.workers != 0 and not _is_positive(dataset.workers):
        raise InputError(f"workers must be None or an int, at least 0; got {dataset.workers!r}")
    lengths = [None if values is None else len(values) for values in (dataset.mean, dataset.std)]
    if lengths not in ([None, None], [shape[0], shape[0]]):
        raise InputError(
            f"mean and std must have one value per channel, or both be None; got {dataset.mean} and {dataset.std}"
        )
    sources: dict[str, Any] = {"train": dataset.train, "test": dataset.test}
    if _is_map_style(dataset.validation):
        sources["validation"] = dataset.validation
    else:
        _check_share(dataset.validation, "a separate map-style dataset")
    for name, source in sources.items():
        _check_source(name, source, dataset)


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _is_map_style(source: object) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _check_source(name: str, source: Any, dataset: Streamed) -> None:
    if not _is_map_style(source) or len(source) < 2:
        raise InputError(f"{name} must be a map-style dataset of at least 2 samples; got {type(source).__name__}")
    targets = stored_targets(source)
    if targets is not None and (problem := _find_range_problem(targets, dataset.classes)):
        raise InputError(f"{name}: {problem}")
    for train in (False, True) if name == "train" else (False,):
        sample = BatchReader(dataset, full_split(source, name), train)[torch.tensor([0]), 0]
        if isinstance(sample, InputError):
            raise sample
        if targets is not None and int(sample[1]) != int(targets[0]):
            raise InputError(
                f"{name}: its list of targets has class {int(targets[0])} for sample 0, but sample 0 itself has class "
                f"{int(sample[1])}"
            )
