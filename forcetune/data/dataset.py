"""A labelled image data set in memory, and how a part of it is drawn and read in batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forcetune.data.drawing import Balanced, Order, Plain, divide, restore, state_of
from forcetune.data.moves import draw, move


@dataclass(frozen=True)
class Images:
    """Images as uint8 (N, C, H, W) and their classes as int64 (N,)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Images":
        indices = indices.to(self.inputs.device)
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
        batches = self._order.draw()
        sizes = [len(chosen) for chosen in batches]
        device = self._images.inputs.device
        moves = self._draw_moves(sum(sizes)).to(device).split(sizes)
        for chosen, moved in zip(torch.cat(batches).to(device).split(sizes), moves, strict=True):
            batch = self._images.take(chosen)
            yield self._normalise(self._augment(batch.inputs, moved)), batch.targets

    def state(self) -> Tensor | None:
        """As `AnyBatches` says."""
        return state_of(self._generator)

    def restore(self, state: Tensor | None) -> None:
        """As `AnyBatches` says."""
        restore(self._generator, state)

    def _normalise(self, inputs: Tensor) -> Tensor:
        """(x / 255 - mean) / std, in torchvision's order: bit for bit its ToTensor and Normalize."""
        return inputs.float().div_(255).sub_(self._mean).div_(self._std)

    def _draw_moves(self, count: int) -> Tensor:
        """Those of a pass, none where there are none."""
        dataset = self._dataset
        if self._generator is None or dataset.augment or not (dataset.pad or dataset.flip):
            return torch.zeros(count, 0)
        return draw(count, dataset.pad, dataset.flip, self._generator)

    def _augment(self, inputs: Tensor, moves: Tensor) -> Tensor:
        if self._generator and self._dataset.augment:
            return self._dataset.augment(inputs, self._generator)
        return move(inputs, moves, self._dataset.pad, self._dataset.flip) if moves.numel() else inputs
