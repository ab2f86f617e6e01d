"""The input of an exported network: pixels as a camera gives them, whose normalization is part of the graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forcetune import data
from forcetune.errors import InputError

InputType = Literal["uint8", "float32"]
Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class InputFormat:
    """The format of the samples that an exported network takes.

    Attributes:
        shape: The shape of one sample as the network itself takes it, without the batch; (C, H, W) for images.
        dtype: The type of the values.
        layout: The order of an image's dimensions; None where the samples are no images.
        mean: The mean of each channel, of pixels in 0..1; None where the file takes normalized values.
        std: The standard deviation of each channel, of pixels in 0..1; None where `mean` is None.
    """

    shape: tuple[int, ...]
    dtype: InputType
    layout: Layout | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample in the file, without the batch."""
        return (*self.shape[1:], self.shape[0]) if self.layout == "nhwc" else self.shape

    def make_example(self, samples: int) -> Tensor:
        """Return a batch of so many samples of zeros."""
        return torch.zeros((samples, *self.sample_shape), dtype=getattr(torch, self.dtype))

    def arrange(self, samples: Tensor) -> Tensor:
        """Return a batch of the network's shape in the layout of the file."""
        return samples.permute(0, 2, 3, 1).contiguous() if self.layout == "nhwc" else samples.contiguous()

    def describe(self) -> str:
        """Return the format in words, as the model card has it."""
        dimensions = ", ".join(["batch", *map(str, self.sample_shape)])
        if self.mean is None:
            values = "normalized values, as the batches of the data set have them"
        else:
            values = "pixels from 0 to 255" if self.dtype == "uint8" else "pixels from 0 to 1"
        order = f", {self.layout.upper()}" if self.layout else ""
        return f"{self.dtype} ({dimensions}){order}: {values}"


@dataclass(frozen=True)
class SampleBatch:
    """Samples in the two forms that a verification compares.

    Attributes:
        inputs: The samples as the file takes them.
        normalized: The same samples as the network itself takes them, float32.
        targets: Their classes, int64.
    """

    inputs: Tensor
    normalized: Tensor
    targets: Tensor


class PixelNetwork(nn.Module):
    """A network behind the normalization of its input.

    Args:
        network: The network, which takes normalized samples.
        input_format: The format of the samples that this module takes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, input_format: InputFormat) -> None:
        super().__init__()
        self.network = network
        self._is_channels_last = input_format.layout == "nhwc"
        self._is_normalized = input_format.mean is None
        if input_format.mean is not None and input_format.std is not None:
            highest = 255.0 if input_format.dtype == "uint8" else 1.0
            mean, std = (torch.tensor(values)[:, None, None] for values in (input_format.mean, input_format.std))
            self.register_buffer("scale", 1 / (highest * std))
            self.register_buffer("shift", mean / std)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the logits (N, classes) of samples in the format of the file."""
        if self._is_channels_last:
            samples = samples.permute(0, 3, 1, 2)
        if not self._is_normalized:
            samples = samples.to(torch.float32) * self.scale - self.shift
        logits: Tensor = self.network(samples)
        return logits


def choose_input_format(dataset: data.AnyDataset, dtype: InputType | None, layout: Layout) -> InputFormat:
    """Return the format in which an exported network takes the samples of a data set.

    Args:
        dataset: The data set.
        dtype: The type that the user asks for; None for uint8 pixels where the data set has them, else float32.
        layout: The layout that the user asks for.

    Returns:
        The format.

    Raises:
        InputError: The data set has no such samples.
    """
    shape = tuple(dataset.input_shape)
    if len(shape) != 3 and layout == "nhwc":
        raise InputError(f"--layout nhwc: the samples have the shape {shape} and are no images; allowed: nchw")
    sample_layout: Layout | None = layout if len(shape) == 3 else None
    mean, std = _find_normalization(dataset)
    if mean is None and dtype == "uint8":
        raise InputError(
            "--input uint8: this data set makes float values by a transform of its own (eval_transform), which the "
            "graph cannot contain; allowed: float32, the values that this transform returns, or a data set that says "
            "by which `mean` and `std` its transform normalizes pixels in the end"
        )
    return InputFormat(shape, dtype or ("float32" if mean is None else "uint8"), sample_layout, mean, std)


def _find_normalization(dataset: data.AnyDataset) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Return the mean and the standard deviation by which a data set normalizes pixels in 0..1; None where unknown."""
    mean, std = getattr(dataset, "mean", None), getattr(dataset, "std", None)
    return (None, None) if mean is None or std is None else (tuple(mean), tuple(std))


def iterate_samples(
    dataset: data.AnyDataset, split: Any, input_format: InputFormat, batch_size: int
) -> Iterator[SampleBatch]:
    """Yield the samples of a split in order.

    Args:
        dataset: The data set, on the CPU.
        split: A split of it.
        input_format: The format of the inputs.
        batch_size: The number of samples in a batch.
    """
    start = 0
    for normalized, targets in dataset.batches(split, batch_size):
        samples = normalized
        if input_format.mean is not None and input_format.std is not None:
            if isinstance(dataset, data.Dataset):
                pixels = split.inputs[start : start + len(targets)]
            else:
                pixels = _restore_pixels(normalized, input_format.mean, input_format.std)
            samples = pixels if input_format.dtype == "uint8" else pixels.float() / 255
        start += len(targets)
        yield SampleBatch(input_format.arrange(samples), normalized, targets)


def _restore_pixels(normalized: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return the uint8 pixels that were normalized; exact where the values were 8-bit pixels before."""
    means, deviations = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return ((normalized * deviations + means) * 255).round().clamp(0, 255).to(torch.uint8)
