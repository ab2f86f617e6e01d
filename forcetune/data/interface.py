"""The interface of a data set to the rest of forcetune, whether it is held in memory or streamed."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


class AnyBatches(Protocol):
    """Passes over batches of float inputs (B, C, H, W) and int64 targets (B,) on the data set's device."""

    def __len__(self) -> int:
        """Return the number of batches in a pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the next pass."""

    def state(self) -> Tensor | None:
        """Return the state on which the next pass depends, between two passes.

        Returns:
            The state; None where batches are in order.
        """

    def restore(self, state: Tensor | None) -> None:
        """Continue from a state.

        Args:
            state: The result of `state` of batches that were made alike.
        """


class AnyDataset(Protocol):
    """Labelled images with a training, a validation and a test split."""

    @property
    def classes(self) -> int:
        """The number of classes; targets are 0 to classes - 1."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class; empty where the classes have no names."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W)."""

    @property
    def test(self) -> Any:
        """The test split, of the type that `split` returns, the same for every seed."""

    def to(self, device: torch.device | str) -> "AnyDataset":
        """Move the data set to a device.

        Args:
            device: The device.

        Returns:
            The same data set, with batches on that device.
        """

    def split(self, seed: int, samples: int | None = None) -> tuple[Any, Any]:
        """Draw a split for training and one for validation.

        The caller takes their `len()` and hands them to `batches`.

        Args:
            seed: The seed of the draw.
            samples: The number of samples of the training set to draw; None for all.

        Returns:
            The training split and the validation split.

        Raises:
            InputError: `samples` is out of bounds.
        """

    def batches(self, split: Any, batch_size: int, seed: int | None = None, per_class: int = 0) -> AnyBatches:
        """Return the batches of a split.

        Args:
            split: A split, as `split` or `test` returns it.
            batch_size: The number of samples in a batch.
            seed: The seed by which samples are shuffled and augmented anew in every pass; None for batches in order.
            per_class: The number of samples of each class in every batch, whatever `batch_size`, which needs a seed; 0
                for any number.

        Returns:
            The batches.

        Raises:
            InputError: The split has too few samples of a class, or its classes are not known; raised before any batch
                is made.
        """
