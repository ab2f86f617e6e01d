"""What a data set is to the rest of forcetune, whether it is held in memory or streamed."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


class AnyBatches(Protocol):
    """Passes over batches of float inputs (B, C, H, W) and int64 targets (B,) on the data set's device."""

    def __len__(self) -> int:
        """How many batches a pass has."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The next pass."""

    def state(self) -> Tensor | None:
        """All that the next pass depends on, between two passes; None where they are in order."""

    def restore(self, state: Tensor | None) -> None:
        """Go on where `state` was taken, with batches that were made alike."""


class AnyDataset(Protocol):
    """Labelled images with a training, a validation and a test split."""

    @property
    def classes(self) -> int:
        """Targets are 0 to classes - 1."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)"""

    @property
    def test(self) -> Any:
        """A part as `split` returns them, the same for every seed."""

    def to(self, device: torch.device | str) -> "AnyDataset":
        """The same data set, with batches on `device`."""

    def split(self, seed: int, samples: int | None = None) -> tuple[Any, Any]:
        """Two parts, for training and for validation: `samples` of the training set, or all, drawn by `seed`.

        The caller takes their len() and hands them to `batches`. Raises InputError where `samples` is out of bounds.
        """

    def batches(self, part: Any, batch_size: int, seed: int | None = None, per_class: int = 0) -> AnyBatches:
        """In order without a seed; with one, shuffled anew and augmented in every pass.

        per_class: every batch holds so many samples of each class, whatever `batch_size`; needs a seed. Raises
        InputError, before any batch is made, where the part has too few of a class or its classes are not known.
        """
