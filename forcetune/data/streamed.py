"""A labelled image data set that does not fit in memory: worker processes read and transform it batch by batch."""

import operator
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from forcetune.data.drawing import BatchOrder, DrawnBatches, draw_split, find_share
from forcetune.errors import InputError

Transform = Callable[[Any], Tensor]

# A fork hands over a list of a million files and a user's lambda at no cost, and starts in milliseconds. The
# workers do not use CUDA, which does not survive a fork. Other platforms start workers in their own way.
WORKER_START_METHOD = "fork" if sys.platform == "linux" else None
SEEDS = 2**63  # of the transforms of a batch


class Source(Protocol):
    """A map-style torch dataset of (raw sample, class)."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return the raw sample of this index, and its class."""


@dataclass(frozen=True)
class StreamedSplit:
    """A selection of the samples of a source.

    Attributes:
        source: The source.
        indices: The indices of the samples in the source, int64 (N,).
        name: The name of the source in messages.
    """

    source: Source
    indices: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Streamed:
    """A data set that does not fit in memory, as a loader returns it in place of a `Dataset`.

    What a transform draws from torch, random or numpy.random follows the seed. The test split is fixed.

    Attributes:
        train: The training samples, a map-style torch dataset of (raw sample, int class).
        test: The test samples, a dataset of the same kind.
        train_transform: A function from a raw sample to a float tensor of `input_shape`, for batches with a seed.
        eval_transform: The same kind of function, for batches without a seed.
        classes: The number of classes.
        input_shape: The shape of one transformed image, (C, H, W).
        validation: The share of `train` that is set aside for validation, or a split of its own.
        workers: The number of processes that read; 0 to read in this process, None for as many as torch has threads.
            Batches do not depend on it.
        device: The device of the batches.
        class_names: The name of each class, for people; empty where the classes have no names.
        mean: The mean of each channel, of pixels in 0..1, where the last step of `eval_transform` is to subtract it and
            to divide by `std`: an exported network then takes pixels. None for other transforms.
        std: The standard deviation of each channel, of pixels in 0..1; None where `mean` is None.
    """

    train: Source
    test: Source
    train_transform: Transform
    eval_transform: Transform
    classes: int
    input_shape: tuple[int, ...]
    validation: float | Source = 0.1
    workers: int | None = None
    device: torch.device | str = "cpu"
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def to(self, device: torch.device | str) -> "Streamed":
        """Return the data set with batches on a device."""
        return replace(self, device=device)

    def split(self, seed: int, samples: int | None = None) -> tuple[StreamedSplit, StreamedSplit]:
        """Draw the samples for training and for validation; `Dataset.split` describes the arguments."""
        if isinstance(self.validation, float):
            training, held_out = draw_split(len(self.train), self.validation, seed, samples)
            return StreamedSplit(self.train, training, "train"), StreamedSplit(self.train, held_out, "train")
        drawn, _ = draw_split(len(self.train), None, seed, samples)
        return StreamedSplit(self.train, drawn, "train"), full_split(self.validation, "validation")

    def batches(
        self, split: StreamedSplit, batch_size: int, seed: int | None = None, per_class: int = 0
    ) -> "StreamedBatches":
        """Return the batches of a split; its worker processes start with the first pass.

        `Dataset.batches` describes the arguments.

        Raises:
            InputError: The split has too few samples of a class, or its classes are not known.
        """
        return StreamedBatches(self, split, batch_size, seed, per_class)


def full_split(source: Source, name: str) -> StreamedSplit:
    """Return all samples of a source, in its order."""
    return StreamedSplit(source, torch.arange(len(source)), name)


class StreamedBatches(DrawnBatches):
    """Float batches through a DataLoader, one pass at a time; its workers wait between passes and end with it.

    Iteration raises InputError where a sample cannot be read or transformed.
    """

    def __init__(
        self, dataset: Streamed, split: StreamedSplit, batch_size: int, seed: int | None, per_class: int
    ) -> None:
        super().__init__(len(split), batch_size, seed, per_class, dataset.classes, lambda: _require_targets(split))
        self._reader = BatchReader(dataset, split, train=seed is not None)
        self._device = torch.device(dataset.device)
        workers = torch.get_num_threads() if dataset.workers is None else dataset.workers
        self._workers = min(workers, len(self))
        self._loader: DataLoader[Any] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._loader is None:
            self._loader = self._new_loader()
        for batch in self._loader:
            if isinstance(batch, InputError):
                self._loader = None  # ends its workers, which would live as long as the traceback
                raise batch
            inputs, targets = batch
            yield inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def share(self, rank: int, size: int) -> Self:
        """Return the batches of one of several processes, each of which reads its share of every batch.

        What a transform draws follows the seed and the share, so it is not what it draws for the whole batch, except
        for the samples of the first share.
        """
        shares = super().share(rank, size)
        shares._loader = None
        return shares

    def _new_loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._reader,  # type: ignore[arg-type]
            batch_size=None,  # a task is a whole batch
            sampler=_Tasks(self._order, self._generator, self._rank, self._size),
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            multiprocessing_context=WORKER_START_METHOD if self._workers else None,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # the default would draw from the generator of dropout
        )


class _Tasks:
    """The tasks of the workers: the indices of a batch, or of a share of it, and a seed for its transforms.

    A pass is drawn as a whole at its first task, so that it depends neither on how far the loader reads ahead, nor on
    the iterators that the loader makes and does not use.
    """

    def __init__(self, order: BatchOrder, generator: torch.Generator | None, rank: int, size: int) -> None:
        self._order = order
        self._generator = generator
        self._rank = rank
        self._size = size

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        batches = self._order.draw()
        seeds = torch.zeros(len(batches), dtype=torch.int64)
        if self._generator:
            seeds.random_(generator=self._generator)
        for indices, seed in zip(batches, seeds.tolist(), strict=True):
            share = find_share(len(indices), self._rank, self._size)
            yield indices[share], (seed + share.start) % SEEDS


class BatchReader:
    """A map from a task to its batch, in a worker process or in this one."""

    def __init__(self, dataset: Streamed, split: StreamedSplit, train: bool) -> None:
        self._split = split
        self._shape = tuple(dataset.input_shape)
        self._classes = dataset.classes
        self._transform = dataset.train_transform if train else dataset.eval_transform
        self._transform_name = "train_transform" if train else "eval_transform"

    def __getitem__(self, task: tuple[Tensor, int]) -> tuple[Tensor, Tensor] | InputError:
        """Return the inputs (B, C, H, W) and targets (B,) of a task, or the error.

        A worker that raised the error would send it as a traceback.
        """
        positions, seed = task
        try:
            with _seeded(seed):
                samples = [self._sample(index) for index in self._split.indices[positions].tolist()]
        except InputError as error:
            return error
        return torch.stack([inputs for inputs, _ in samples]), torch.tensor([target for _, target in samples])

    def _sample(self, index: int) -> tuple[Tensor, int]:
        location = f"sample {index} of {self._split.name}{_describe_file(self._split.source, index)}"
        try:
            raw, target = self._split.source[index]
            target = operator.index(target)
        except InputError as error:
            raise InputError(f"{location}: {error}") from error
        except Exception as error:  # a damaged file, or a user's dataset, may raise anything
            raise InputError(f"{location}: reading it raised {type(error).__name__}: {error}") from error
        if not 0 <= target < self._classes:
            raise InputError(f"{location}: its class must lie in 0..{self._classes - 1}; got {target}")
        try:
            inputs = self._transform(raw)
        except Exception as error:  # a user's transform may raise anything
            raise InputError(f"{location}: {self._transform_name} raised {type(error).__name__}: {error}") from error
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.shape != self._shape:
            actual = f"{inputs.dtype} {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise InputError(
                f"{location}: {self._transform_name} must return a float tensor of shape {self._shape}; got {actual}"
            )
        return inputs.float(), target


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that transforms draw from, and restore them at the end of the block."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA too
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def _describe_file(source: Source, index: int) -> str:
    """Return the file of a sample in brackets; '' where the source lists no files as torchvision's folders do."""
    try:
        return f" ({source.samples[index][0]})"  # type: ignore[attr-defined]
    except (AttributeError, LookupError, TypeError):
        return ""


def stored_targets(source: Source) -> Tensor | None:
    """Return the classes of all samples, int64 (N,), or None.

    They come from the source's `targets`, `labels` or `samples`, whichever lists them first.
    """
    if isinstance(source, Subset):
        stored = stored_targets(source.dataset)  # type: ignore[arg-type]
        return None if stored is None else stored[torch.as_tensor(source.indices)]
    for candidate in (getattr(source, "targets", None), getattr(source, "labels", None), _sample_targets(source)):
        try:
            targets = torch.as_tensor(candidate)
        except (TypeError, ValueError, RuntimeError):  # None, or not one number a sample
            continue
        if targets.shape == (len(source),) and not targets.is_floating_point():
            return targets.long()
    return None


def _sample_targets(source: Source) -> list[Any] | None:
    try:
        return [target for _, target in source.samples]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return None


def _require_targets(split: StreamedSplit) -> Tensor:
    targets = stored_targets(split.source)
    if targets is None:
        raise InputError(
            f"class-balanced batches need the class of every sample without reading the images: add an attribute "
            f"`targets`, one int per sample, to {type(split.source).__name__}, the dataset of {split.name}"
        )
    return targets[split.indices]
