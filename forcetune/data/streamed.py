"""A labelled image data set that does not fit in memory: read and transformed by worker processes, batch by batch."""

import operator
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from forcetune.data.drawing import Balanced, Order, Plain, divide, restore, state_of
from forcetune.errors import InputError

Transform = Callable[[Any], Tensor]

# A fork hands over a list of a million files and a user's lambda at no cost, and starts in milliseconds; the
# workers keep off CUDA, which does not outlive one. Elsewhere the platform's own way.
START = "fork" if sys.platform == "linux" else None


class Source(Protocol):
    """A map-style torch dataset of (raw sample, class)."""

    def __len__(self) -> int:
        """How many samples it has."""

    def __getitem__(self, index: int, /) -> Any:
        """One of them."""


@dataclass(frozen=True)
class Part:
    """Samples `indices`, int64 (N,), of `source`, called `name` in messages."""

    source: Source
    indices: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Streamed:
    """What a loader returns in place of a `Dataset` where the images do not fit in memory.

    train, test: map-style torch datasets of (raw sample, int class); train_transform, eval_transform: from a raw
    sample to a float tensor of `input_shape`, (C, H, W), for batches with a seed and without; what they draw from
    torch, random or numpy.random follows the seed. validation: the share of `train` set aside for it, or a split
    of its own. workers: processes that read, 0 to read in this one, None for as many as torch has threads; batches
    are the same whatever their number. The test split is fixed.
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

    def to(self, device: torch.device | str) -> "Streamed":
        return replace(self, device=device)

    def split(self, seed: int, samples: int | None = None) -> tuple[Part, Part]:
        """Parts for training and validation: `samples` of the training set, or all, drawn and divided by `seed`."""
        if isinstance(self.validation, float):
            training, held_out = divide(len(self.train), self.validation, seed, samples)
            return Part(self.train, training, "train"), Part(self.train, held_out, "train")
        drawn, _ = divide(len(self.train), None, seed, samples)
        return Part(self.train, drawn, "train"), whole(self.validation, "validation")

    def batches(self, part: Part, batch_size: int, seed: int | None = None, per_class: int = 0) -> "StreamedBatches":
        """Batches of a part, as `AnyDataset` says; its worker processes start with the first pass."""
        return StreamedBatches(self, part, batch_size, seed, per_class)


def whole(source: Source, name: str) -> Part:
    """All of a source, in its order."""
    return Part(source, torch.arange(len(source)), name)


class StreamedBatches:
    """Float batches through a DataLoader, one pass at a time; its workers wait between passes and end with it.

    Iterating raises InputError where a sample cannot be read or transformed.
    """

    def __init__(self, dataset: Streamed, part: Part, batch_size: int, seed: int | None, per_class: int) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        order: Order = (
            Balanced(_targets_of(part), dataset.classes, per_class, self._generator)
            if per_class
            else Plain(len(part), batch_size, self._generator)
        )
        self._tasks = _Tasks(order, self._generator)
        self._reader = Reader(dataset, part, train=seed is not None)
        self._device = torch.device(dataset.device)
        workers = torch.get_num_threads() if dataset.workers is None else dataset.workers
        self._workers = min(workers, len(order))
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._loader is None:
            self._loader = self._new_loader()
        for batch in self._loader:
            if isinstance(batch, InputError):
                self._loader = None  # its workers end, and do not live as long as the traceback
                raise batch
            inputs, targets = batch
            yield inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def state(self) -> Tensor | None:
        """As `AnyBatches` says."""
        return state_of(self._generator)

    def restore(self, state: Tensor | None) -> None:
        """As `AnyBatches` says."""
        restore(self._generator, state)

    def _new_loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._reader,  # type: ignore[arg-type]
            batch_size=None,  # a task is a whole batch
            sampler=self._tasks,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            multiprocessing_context=START if self._workers else None,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from torch's own, which dropout draws from
        )


class _Tasks:
    """What the workers are given: the indices of a batch in its part, and a seed for its transforms.

    A pass is drawn whole at its first task, so that nothing hangs on how far the loader reads ahead, or on the
    iterators that it makes and does not use.
    """

    def __init__(self, order: Order, generator: torch.Generator | None) -> None:
        self._order = order
        self._generator = generator

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        batches = self._order.draw()
        seeds = torch.zeros(len(batches), dtype=torch.int64)
        if self._generator:
            seeds.random_(generator=self._generator)
        yield from zip(batches, seeds.tolist(), strict=True)


class Reader:
    """From a task to its batch, in a worker process or in this one."""

    def __init__(self, dataset: Streamed, part: Part, train: bool) -> None:
        self._part = part
        self._shape = tuple(dataset.input_shape)
        self._classes = dataset.classes
        self._transform = dataset.train_transform if train else dataset.eval_transform
        self._called = "train_transform" if train else "eval_transform"

    def __getitem__(self, task: tuple[Tensor, int]) -> tuple[Tensor, Tensor] | InputError:
        """Inputs (B, C, H, W) and targets (B,), or what is wrong: raised in a worker, it would arrive as a traceback"""
        chosen, seed = task
        try:
            with _seeded(seed):
                samples = [self._sample(index) for index in self._part.indices[chosen].tolist()]
        except InputError as error:
            return error
        return torch.stack([inputs for inputs, _ in samples]), torch.tensor([target for _, target in samples])

    def _sample(self, index: int) -> tuple[Tensor, int]:
        where = f"sample {index} of {self._part.name}{_file(self._part.source, index)}"
        try:
            raw, target = self._part.source[index]
            target = operator.index(target)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except Exception as error:  # a damaged file, or a user's dataset, may raise anything
            raise InputError(f"{where}: reading it raised {type(error).__name__}: {error}") from error
        if not 0 <= target < self._classes:
            raise InputError(f"{where}: its class must lie in 0..{self._classes - 1}; got {target}")
        try:
            inputs = self._transform(raw)
        except Exception as error:  # a user's transform may raise anything
            raise InputError(f"{where}: {self._called} raised {type(error).__name__}: {error}") from error
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.shape != self._shape:
            found = f"{inputs.dtype} {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise InputError(f"{where}: {self._called} must give a float tensor of shape {self._shape}; got {found}")
        return inputs.float(), target


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Generators that transforms draw from, seeded for a batch, then as they were."""
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


def _file(source: Source, index: int) -> str:
    """The file of a sample in brackets, where the source lists its files as torchvision's folders do."""
    try:
        return f" ({source.samples[index][0]})"  # type: ignore[attr-defined]
    except (AttributeError, LookupError, TypeError):
        return ""


def stored_targets(source: Source) -> Tensor | None:
    """Classes of all samples, int64 (N,), as its `targets`, `labels` or `samples` list them; None where none does."""
    if isinstance(source, Subset):
        stored = stored_targets(source.dataset)  # type: ignore[arg-type]
        return None if stored is None else stored[torch.as_tensor(source.indices)]
    for listed in (getattr(source, "targets", None), getattr(source, "labels", None), _second(source)):
        try:
            targets = torch.as_tensor(listed)
        except (TypeError, ValueError, RuntimeError):  # None, or not one number a sample
            continue
        if targets.shape == (len(source),) and not targets.is_floating_point():
            return targets.long()
    return None


def _second(source: Source) -> list[Any] | None:
    try:
        return [target for _, target in source.samples]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return None


def _targets_of(part: Part) -> Tensor:
    targets = stored_targets(part.source)
    if targets is None:
        raise InputError(
            f"class-balanced batches need the class of every sample without reading the images: give "
            f"{type(part.source).__name__}, the dataset of {part.name}, an attribute `targets` with one int a sample"
        )
    return targets[part.indices]
