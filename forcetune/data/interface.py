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

    def count_samples(self, index: int) -> int:
        """Return the number of samples of a batch, those of all processes where several share it.

        Args:
            index: The number of the batch in its pass, from 0.
        """

    def share(self, rank: int, size: int) -> "AnyBatches":
        """Return the batches of one of several processes, each of which takes its share of every batch.

        Together the shares are the batches of one process, in the order of the processes. A batch that is too small to
        be split is taken whole by all. The processes make their batches alike.

        Args:
            rank: The number of the process, from 0.
            size: The number of processes.

        Returns:
            The shares, which go on from the state of these batches; these are not used any more.
        """

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
    """Labelled images with a training, a validation and a test split; `Dataset` describes the methods' arguments."""

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
        """Return the same data set, with batches on a device."""

    def split(self, seed: int, samples: int | None = None) -> tuple[Any, Any]:
        """Draw a split for training and one for validation; the caller takes their `len()` and hands them to `batches`.

        Raises:
            InputError: `samples` is out of bounds.
        """

    def batches(self, split: Any, batch_size: int, seed: int | None = None, per_class: int = 0) -> AnyBatches:
        """Return the batches of a split, which `split` or `test` returned.

        Raises:
            InputError: The split has too few samples of a class, or its classes are not known; raised before any batch
                is made.
        """
