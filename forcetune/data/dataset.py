"""A labelled image data set in memory, and how a part of it is drawn and read in batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from forcetune.data.drawing import Balanced, Order, Plain, divide, restore, state_of


@dataclass(frozen=True)
class Images:
    """Images as uint8 (N, C, H, W) and their classes as int64 (N,)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Images":
        # an index reads byte by byte, this row by row
        return Images(self.inputs.index_select(0, indices), self.targets.index_select(0, indices))

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.inputs.to(device), self.targets.to(device))


Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Dataset:
    """What a loader returns: `package.module:function(data_root) -> Dataset` makes one of your own.

    mean, std: per channel, of values in 0..1; pad, flip: training images are shifted by up to `pad` pixels
    and mirrored; augment: does so in their place, from uint8 (N, C, H, W) on the data's device and a generator
    on the CPU to the same type and shape; validation: the share of `train` set aside for it, or a split of its
    own. The test split is fixed.
    """

    train: Images
    test: Images
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    validation: float | Images = 0.1
    augment: Augment | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)"""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        validation = self.validation.to(device) if isinstance(self.validation, Images) else self.validation
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    def split(self, seed: int, samples: int | None = None) -> tuple[Images, Images]:
        """Training and validation images: `samples` of the training set, or all, drawn and divided by `seed`."""
        if isinstance(self.validation, Images):
            drawn, _ = divide(len(self.train), None, seed, samples)
            return self.train.take(drawn), self.validation
        training, held_out = divide(len(self.train), self.validation, seed, samples)
        return self.train.take(training), self.train.take(held_out)

    def batches(self, part: Images, batch_size: int, seed: int | None = None, per_class: int = 0) -> "Batches":
        """Batches of a part, as `AnyDataset` says."""
        return Batches(self, part, batch_size, seed, per_class)


class Batches:
    """Normalised float batches of images, in order, or shuffled anew and augmented in each pass where a seed is given.

    per_class: of every class in each batch, whatever `batch_size`; raises InputError where there are too few.
    """

    def __init__(
        self, dataset: Dataset, images: Images, batch_size: int, seed: int | None = None, per_class: int = 0
    ) -> None:
        self._dataset = dataset
        self._images = images
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._order: Order = (
            Balanced(images.targets.cpu(), dataset.classes, per_class, self._generator)
            if per_class
            else Plain(len(images), batch_size, self._generator)
        )
        device = images.inputs.device
        self._mean, self._std = (
            torch.tensor(part, device=device)[:, None, None] for part in (dataset.mean, dataset.std)
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self._order.draw():
            batch = self._images.take(chosen.to(self._images.inputs.device))
            inputs = self._augment(batch.inputs, self._generator) if self._generator else batch.inputs
            yield self._normalise(inputs), batch.targets

    def state(self) -> Tensor | None:
        """As `AnyBatches` says."""
        return state_of(self._generator)

    def restore(self, state: Tensor | None) -> None:
        """As `AnyBatches` says."""
        restore(self._generator, state)

    def _normalise(self, inputs: Tensor) -> Tensor:
        """(x / 255 - mean) / std, in torchvision's order: bit for bit its ToTensor and Normalize."""
        return inputs.float().div_(255).sub_(self._mean).div_(self._std)

    def _augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        if self._dataset.augment:
            return self._dataset.augment(inputs, generator)
        if self._dataset.pad:
            inputs = _shifted(inputs, self._dataset.pad, generator)
        return _mirrored(inputs, generator) if self._dataset.flip else inputs


def _shifted(inputs: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Each image by up to `pad` pixels in both directions, with zeros beyond its edge."""
    count, _, height, width = inputs.shape
    padded = torch.nn.functional.pad(inputs, (pad,) * 4)
    rows, columns = (_draw(2 * pad + 1, inputs, generator) for _ in range(2))
    if inputs.device.type == "cpu":  # numpy copies rows where torch copies bytes
        windows = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (height, width), axis=(2, 3))
        return torch.from_numpy(windows[np.arange(count), :, rows.numpy(), columns.numpy()])
    unfolded = padded.unfold(2, height, 1).unfold(3, width, 1)
    return unfolded[torch.arange(count, device=inputs.device), :, rows, columns]


def _mirrored(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images, left to right."""
    chosen = _draw(2, inputs, generator).nonzero().flatten()
    return inputs.index_copy(0, chosen, inputs.index_select(0, chosen).flip(-1))


def _draw(below: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """A number for each image, drawn on the CPU so that it does not hang on the device."""
    return torch.randint(below, (len(like),), generator=generator).to(like.device)
