"""A labelled image data set in memory: its splits and its batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forcetune.data.drawing import DrawnBatches, draw_split, find_share
from forcetune.data.moves import apply_moves, draw_moves


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
        inputs: The images, uint8 (N, C, H, W).
        targets: Their classes, int64 (N,).
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Images":
        """Select images.

        Args:
            indices: The indices of the images, int64, on any device.

        Returns:
            The selected images, in the order of `indices`.
        """
        indices = indices.to(self.inputs.device)
        # index_select copies whole rows, where an index would read byte by byte
        return Images(self.inputs.index_select(0, indices), self.targets.index_select(0, indices))

    def to(self, device: torch.device | str) -> "Images":
        """Move the images to a device.

        Args:
            device: The device.

        Returns:
            The images on that device.
        """
        return Images(self.inputs.to(device), self.targets.to(device))


Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, as a loader returns it.

    `package.module:function(data_root) -> Dataset` is a loader of the user's own. The test split is fixed.

    Attributes:
        train: The training images.
        test: The test images.
        classes: The number of classes.
        mean: The mean of each channel, of values in 0..1.
        std: The standard deviation of each channel, of values in 0..1.
        pad: The largest shift of a training image, in pixels.
        flip: Whether training images are mirrored at random.
        validation: The share of `train` that is set aside for validation, or a split of its own.
        augment: A function that replaces shifts and mirror images. It maps uint8 (N, C, H, W) on the data's device, and
            a generator on the CPU, to the same type and shape.
        class_names: The name of each class, for people; empty where the classes have no names.
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
    class_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W)."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        """Move the data set to a device.

        Args:
            device: The device.

        Returns:
            The data set on that device.
        """
        validation = self.validation.to(device) if isinstance(self.validation, Images) else self.validation
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    def split(self, seed: int, samples: int | None = None) -> tuple[Images, Images]:
        """Draw the images for training and for validation.

        A data set with a validation split of its own has that for validation, and all drawn images for training.

        Args:
            seed: The seed of the draw.
            samples: The number of samples of the training set to draw; None for all.

        Returns:
            The training images and the validation images.

        Raises:
            InputError: `samples` is out of bounds.
        """
        if isinstance(self.validation, Images):
            drawn, _ = draw_split(len(self.train), None, seed, samples)
            return self.train.take(drawn), self.validation
        training, held_out = draw_split(len(self.train), self.validation, seed, samples)
        return self.train.take(training), self.train.take(held_out)

    def batches(self, split: Images, batch_size: int, seed: int | None = None, per_class: int = 0) -> "Batches":
        """Return the batches of a split.

        Args:
            split: The images, as `split` returns them.
            batch_size: The number of images in a batch.
            seed: The seed by which images are shuffled and augmented in each pass; None for batches in order.
            per_class: The number of samples of every class in each batch, whatever `batch_size`, which needs a seed; 0
                for any number.

        Returns:
            The batches.

        Raises:
            InputError: A class has fewer samples than `per_class`.
        """
        return Batches(self, split, batch_size, seed, per_class)


class Batches(DrawnBatches):
    """Normalized float batches of images, in order or shuffled and augmented anew in each pass.

    `Dataset.batches` describes the arguments.
    """

    def __init__(
        self, dataset: Dataset, images: Images, batch_size: int, seed: int | None = None, per_class: int = 0
    ) -> None:
        super().__init__(len(images), batch_size, seed, per_class, dataset.classes, images.targets.cpu)
        self._dataset = dataset
        self._images = images
        device = images.inputs.device
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (dataset.mean, dataset.std)
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self._order.draw()
        sizes = [len(indices) for indices in batches]
        device = self._images.inputs.device
        moves = self._draw_moves(sum(sizes)).to(device).split(sizes)
        for indices, batch_moves in zip(torch.cat(batches).to(device).split(sizes), moves, strict=True):
            share = find_share(len(indices), self._rank, self._size)
            if self._generator and self._dataset.augment:  # the function draws for a whole batch
                batch = self._images.take(indices)
                inputs = self._dataset.augment(batch.inputs, self._generator)
                yield self._normalise(inputs[share]), batch.targets[share]
            else:
                batch = self._images.take(indices[share])
                yield self._normalise(self._move(batch.inputs, batch_moves[share])), batch.targets

    def _normalise(self, inputs: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std in torchvision's order: bit for bit its ToTensor and Normalize."""
        return inputs.float().div_(255).sub_(self._mean).div_(self._std)

    def _draw_moves(self, count: int) -> Tensor:
        """Draw the moves of the images of a pass; without moves, return a tensor of no columns."""
        dataset = self._dataset
        if self._generator is None or dataset.augment or not (dataset.pad or dataset.flip):
            return torch.zeros(count, 0)
        return draw_moves(count, dataset.pad, dataset.flip, self._generator)

    def _move(self, inputs: Tensor, moves: Tensor) -> Tensor:
        return apply_moves(inputs, moves, self._dataset.pad, self._dataset.flip) if moves.numel() else inputs
