"""The choice of samples: the split by its seed, and the batches of each pass."""

import copy
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from forcetune.errors import InputError

MAX_CLASSES_LISTED = 5  # in a message
MIN_SHARE = 2  # samples of a batch for each of several processes: batch norm cannot train on one


def draw_split(available: int, validation_share: float | None, seed: int, samples: int | None) -> tuple[Tensor, Tensor]:
    """Draw training samples by a seed, and divide them into samples for training and for validation.

    Args:
        available: The number of training samples in the data set.
        validation_share: The share of the drawn samples that is for validation, 0 to 1; None where validation has
            samples of its own.
        seed: The seed of the draw.
        samples: The number of samples to draw; None for all.

    Returns:
        The indices for training and for validation, int64.

    Raises:
        InputError: `samples` is less than 2 or more than `available`.
    """
    if samples is not None and not 2 <= samples <= available:
        raise InputError(f"train_samples {samples}: allowed: 2 to {available}, the number of training images")
    drawn = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[: samples or available]
    held_out = 0 if validation_share is None else min(max(1, int(len(drawn) * validation_share)), len(drawn) - 1)
    return drawn[held_out:], drawn[:held_out]


def find_share(count: int, rank: int, size: int) -> slice:
    """Return the samples of a batch that one of several processes takes: an equal share, to one sample.

    A batch with fewer than MIN_SHARE samples for each process is too small to be split: each process takes all of it.

    Args:
        count: The number of samples in the batch.
        rank: The number of the process, from 0.
        size: The number of processes.

    Returns:
        The positions of the samples in the batch.
    """
    if count < MIN_SHARE * size:
        return slice(0, count)
    return slice(count * rank // size, count * (rank + 1) // size)


class PlainOrder:
    """Batches of `batch_size` samples: in order, or shuffled anew in each pass where there is a generator.

    A last batch of a single sample is left out of a shuffled pass, because batch norm cannot train on it.
    """

    def __init__(self, count: int, batch_size: int, generator: torch.Generator | None) -> None:
        self._count = count
        self._batch_size = min(batch_size, count)
        self._generator = generator

    def __len__(self) -> int:
        full, remainder = divmod(self._count, self._batch_size)
        return full + (remainder > (1 if self._generator and full else 0))

    def count_samples(self, index: int) -> int:
        """Return the number of samples of a batch of a pass."""
        return min(self._batch_size, self._count - index * self._batch_size)

    def draw(self) -> list[Tensor]:
        """Draw the indices of each batch of the next pass."""
        order = torch.arange(self._count)
        if self._generator:
            order = torch.randperm(self._count, generator=self._generator)
        return list(order.split(self._batch_size)[: len(self)])


class BalancedOrder:
    """Batches of `per_class` samples of every class; a pass continues where the one before ended.

    Raises:
        InputError: A class has fewer samples than `per_class`.
        ValueError: There is no generator.
    """

    def __init__(self, targets: Tensor, classes: int, per_class: int, generator: torch.Generator | None) -> None:
        if generator is None:
            raise ValueError("per_class needs a seed, because it draws samples")
        counts = torch.bincount(targets, minlength=classes)
        _check_counts(counts.tolist(), per_class)
        self._per_class = per_class
        self._length = int(counts.min()) // per_class
        self._decks = [_Deck((targets == label).nonzero()[:, 0], generator) for label in range(classes)]

    def __len__(self) -> int:
        return self._length

    def count_samples(self, index: int) -> int:
        """Return the number of samples of a batch of a pass, which all have the same."""
        return self._per_class * len(self._decks)

    def draw(self) -> list[Tensor]:
        """Draw the indices of each batch of the next pass, class by class."""
        return [torch.cat([deck.draw(self._per_class) for deck in self._decks]) for _ in range(self._length)]


BatchOrder = PlainOrder | BalancedOrder


class _Deck:
    """The samples of one class, dealt in a shuffled order; a new order begins when all of them are dealt."""

    def __init__(self, indices: Tensor, generator: torch.Generator) -> None:
        self._indices = indices
        self._left = indices[:0]
        self._generator = generator

    def draw(self, count: int) -> Tensor:
        if len(self._left) < count:
            fresh = self._indices[torch.randperm(len(self._indices), generator=self._generator)]
            is_repeated = torch.isin(fresh, self._left[:count])  # they come last, so that no sample is twice in a batch
            self._left = torch.cat([self._left, fresh[~is_repeated], fresh[is_repeated]])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


class DrawnBatches:
    """The part of batches that chooses their samples; `AnyBatches` describes the methods.

    Args:
        count: The number of samples.
        batch_size: The number of samples in a batch.
        seed: The seed by which each pass is drawn anew; None for batches in order.
        per_class: The number of samples of every class in each batch, whatever `batch_size`, which needs a seed; 0 for
            any number.
        classes: The number of classes.
        list_targets: A function that returns the class of each sample, int64 (count,) on the CPU; called where
            `per_class` is not 0.

    Raises:
        InputError: A class has fewer samples than `per_class`.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int | None,
        per_class: int,
        classes: int,
        list_targets: Callable[[], Tensor],
    ) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._order: BatchOrder = (
            BalancedOrder(list_targets(), classes, per_class, self._generator)
            if per_class
            else PlainOrder(count, batch_size, self._generator)
        )
        self._rank, self._size = 0, 1

    def __len__(self) -> int:
        return len(self._order)

    def count_samples(self, index: int) -> int:
        """Return the number of samples of a batch, those of all processes where several share it."""
        return self._order.count_samples(index)

    def share(self, rank: int, size: int) -> Self:
        """Return the batches of one of several processes, each of which takes its share of every batch."""
        shares = copy.copy(self)
        shares._rank, shares._size = rank, size
        return shares

    def state(self) -> Tensor | None:
        """Return the state of the generator, on which the next pass depends; None where batches are in order."""
        return self._generator.get_state() if self._generator else None

    def restore(self, state: Tensor | None) -> None:
        """Continue from a state of batches that were made alike."""
        if self._generator and state is not None:
            self._generator.set_state(state)


def _check_counts(counts: list[int], needed: int) -> None:
    shortages = [f"class {label} has {count}" for label, count in enumerate(counts) if count < needed]
    if shortages:
        more = (
            f" and {len(shortages) - MAX_CLASSES_LISTED} more classes have too few"
            if len(shortages) > MAX_CLASSES_LISTED
            else ""
        )
        raise InputError(
            f"batches with {needed} samples of every class need {needed} training samples of each class, but "
            f"{', '.join(shortages[:MAX_CLASSES_LISTED])}{more}; raise train_samples or lower samples_per_class"
        )
