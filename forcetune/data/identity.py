"""Which data a data set has, as a digest of its images and classes; of a streamed one, of its sizes and classes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forcetune.data.dataset import Dataset, Images
from forcetune.data.interface import AnyDataset
from forcetune.data.streamed import Streamed, stored_targets

DIGEST_BYTES = 8


@dataclass(frozen=True)
class DataIdentity:
    """A data set as MLflow lists it among a run's inputs.

    root: the folder of its files; None where it has a place of its own. digest: 16 hexadecimal digits. train_samples,
    test_samples: before any of them are drawn or set aside.
    """

    name: str
    root: str | None
    digest: str
    train_samples: int
    test_samples: int
    classes: int


def digest_of(dataset: AnyDataset) -> str:
    """Return a digest of all images and classes; of a streamed data set, of its sizes and classes alone.

    The images of a streamed one would have to be read, which takes as long as an epoch.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in _parts(dataset):
        digest.update(part)
    return digest.hexdigest()


def _parts(dataset: AnyDataset) -> Iterator[bytes | memoryview]:
    yield repr((dataset.classes, tuple(dataset.input_shape))).encode()
    if isinstance(dataset, Dataset):
        yield repr((dataset.mean, dataset.std, dataset.pad, dataset.flip)).encode()
    if isinstance(dataset, Dataset | Streamed):
        for part in (dataset.train, dataset.test, dataset.validation):
            yield from _of_images(part) if isinstance(part, Images) else _of_source(part)


def _of_images(images: Images) -> Iterator[bytes | memoryview]:
    for tensor in (images.inputs, images.targets):
        yield repr((tuple(tensor.shape), str(tensor.dtype))).encode()
        yield np.ascontiguousarray(tensor.cpu().numpy()).data.cast("B")


def _of_source(source: object) -> Iterator[bytes]:
    """Of a streamed part, or of the share that is set aside for validation."""
    if isinstance(source, float):
        yield repr(source).encode()
        return
    targets = stored_targets(source)  # type: ignore[arg-type]  # what is no number and no Images is a Source
    yield repr((len(source), [] if targets is None else targets.tolist())).encode()  # type: ignore[arg-type]
