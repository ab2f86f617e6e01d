"""A labelled image data set in memory, and how a part of it is drawn and read in batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forcetune.errors import InputError


@dataclass(frozen=True)
class Images:
    """Images as uint8 (N, C, H, W) and their classes as int64 (N,)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Images":
        return Images(self.inputs[indices], self.targets[indices])

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Dataset:
    """What a loader returns: `package.module:function(data_root) -> Dataset` makes one of your own.

    mean, std: per channel, of values in 0..1; pad, flip: training images are shifted by up to `pad` pixels
    and mirrored; validation: the share of `train` set aside for it. The test split is fixed.
    """

    train: Images
    test: Images
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    validation: float = 0.1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)"""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def split(self, seed: int, samples: int | None = None) -> tuple[Images, Images]:
        """Training and validation images: `samples` of the training set, or all, drawn and divided by `seed`."""
        available = len(self.train)
        if samples is not None and not 2 <= samples <= available:
            raise InputError(f"train_samples {samples}: allowed: 2 to {available}, the training images there are")
        drawn = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[: samples or available]
        held_out = min(max(1, int(len(drawn) * self.validation)), len(drawn) - 1)
        return self.train.take(drawn[held_out:]), self.train.take(drawn[:held_out])


class Batches:
    """Normalised float batches of images, in order, or shuffled anew and augmented in each pass where a seed is given.

    A last batch of a single image is left out of a shuffled pass: batch norm cannot train on it.
    """

    def __init__(self, dataset: Dataset, images: Images, batch_size: int, seed: int | None = None) -> None:
        self._dataset = dataset
        self._images = images
        self._batch_size = min(batch_size, len(images))
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        values = torch.arange(256, dtype=torch.float32) / 255
        table = torch.stack([(values - m) / s for m, s in zip(dataset.mean, dataset.std, strict=True)])
        self._table = table.to(images.inputs.device)

    def __len__(self) -> int:
        full, rest = divmod(len(self._images), self._batch_size)
        return full + (rest > (1 if self._generator and full else 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self._images))
        if self._generator:
            order = torch.randperm(len(self._images), generator=self._generator)
        device = self._images.inputs.device
        for chosen in order.split(self._batch_size)[: len(self)]:
            batch = self._images.take(chosen.to(device))
            inputs = self._augment(batch.inputs) if self._generator else batch.inputs
            yield self._normalise(inputs), batch.targets

    def _normalise(self, inputs: Tensor) -> Tensor:
        """(x / 255 - mean) / std by looking each byte up: bit for bit what dividing would give."""
        channels = [row[inputs[:, c].int()] for c, row in enumerate(self._table)]
        return torch.stack(channels, dim=1)

    def _augment(self, inputs: Tensor) -> Tensor:
        count, _, height, width = inputs.shape
        pad = self._dataset.pad
        if pad:
            padded = torch.nn.functional.pad(inputs, (pad,) * 4)
            rows = self._draw(2 * pad + 1, count, inputs)[:, None] + torch.arange(height, device=inputs.device)
            columns = self._draw(2 * pad + 1, count, inputs)[:, None] + torch.arange(width, device=inputs.device)
            sample = torch.arange(count, device=inputs.device)[:, None, None]
            shifted = padded[sample, :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
            inputs = shifted.permute(0, 3, 1, 2)
        if self._dataset.flip:
            mirrored = self._draw(2, count, inputs).bool()[:, None, None, None]
            inputs = torch.where(mirrored, inputs.flip(-1), inputs)
        return inputs

    def _draw(self, below: int, count: int, like: Tensor) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator).to(like.device)
