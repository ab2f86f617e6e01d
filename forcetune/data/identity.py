"""The identity of a data set: a digest of its images and classes; of a streamed data set, of its sizes and classes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forcetune.data.dataset import Dataset, Images
from forcetune.data.streamed import Source, Streamed, stored_targets

DIGEST_BYTES = 8


@dataclass(frozen=True)
class DataIdentity:
    """The identity of a data set, as MLflow lists it among a run's inputs.

    Attributes:
        name: The name of the data set.
        root: The folder of its files; None where the reader's default was used.
        digest: 16 hexadecimal digits.
        train_samples: The number of training samples, before any are drawn or set aside.
        test_samples: The number of test samples.
        classes: The number of classes.
    """

    name: str
    root: str | None
    digest: str
    train_samples: int
    test_samples: int
    classes: int


def compute_digest(dataset: Dataset | Streamed) -> str:
    """Return a digest of all images and classes; of a streamed data set, of its sizes and classes alone.

    To read the images of a streamed data set would take as long as an epoch.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for chunk in _digest_chunks(dataset):
        digest.update(chunk)
    return digest.hexdigest()


def _digest_chunks(dataset: Dataset | Streamed) -> Iterator[bytes | memoryview]:
    yield repr((dataset.classes, tuple(dataset.input_shape))).encode()
    if isinstance(dataset, Dataset):
        yield repr((dataset.mean, dataset.std, dataset.pad, dataset.flip)).encode()
    for split in (dataset.train, dataset.test, dataset.validation):
        yield from _image_chunks(split) if isinstance(split, Images) else _source_chunks(split)


def _image_chunks(images: Images) -> Iterator[bytes | memoryview]:
    for tensor in (images.inputs, images.targets):
        yield repr((tuple(tensor.shape), str(tensor.dtype))).encode()
        yield np.ascontiguousarray(tensor.cpu().numpy()).data.cast("B")


def _source_chunks(source: Source | float) -> Iterator[bytes]:
    """Yield the digest's chunks for a streamed split, or for the share that is set aside for validation."""
    if isinstance(source, float):
        yield repr(source).encode()
        return
    targets = stored_targets(source)
    yield repr((len(source), [] if targets is None else targets.tolist())).encode()
