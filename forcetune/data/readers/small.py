"""Readers of data sets that need no files of their own; they do not use `root`."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from forcetune.data.dataset import Dataset, Images

TEXTURE_SIDE_PIXELS = 32


def digits(root: str | None) -> Dataset:
    """Read scikit-learn's digits: 1797 handwritten digits of 8x8 pixels in 17 grey levels.

    Every fifth is in the test split.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    targets = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(targets)) % 5 == 4
    return Dataset(
        train=Images(inputs[~test], targets[~test]),
        test=Images(inputs[test], targets[test]),
        classes=10,
        mean=(0.305,),
        std=(0.376,),
        pad=1,
        validation=0.25,
        class_names=tuple("0123456789"),
    )


def synthetic(root: str | None) -> Dataset:
    """Make 400 images of 1x8x8 in 4 classes, each a fixed pattern under noise: for tests, learnt in seconds."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand((4, 1, 8, 8), generator=generator)
    targets = torch.arange(400) % 4
    noisy = patterns[targets] + 0.3 * torch.randn((400, 1, 8, 8), generator=generator)
    inputs = (noisy.clamp(0, 1) * 255).to(torch.uint8)
    return Dataset(
        train=Images(inputs[:320], targets[:320]),
        test=Images(inputs[320:], targets[320:]),
        classes=4,
        mean=(0.5,),
        std=(0.3,),
    )


def textures(root: str | None) -> Dataset:
    """Make 5000 training and 1000 test images of 3x32x32 in 10 classes: stripes of random phase under noise.

    A class has one of five directions (to 7 degrees), 4 or 7 stripes across (to a tenth) and a colour (to 14 degrees of
    its hue). The phase hides the class from single pixels, so a network has to learn filters.
    """
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(6000) % 10
    images = _stripes(targets, generator) + _background(len(targets), generator)
    inputs = (images.clamp(0, 1) * 255).to(torch.uint8)
    return Dataset(
        train=Images(inputs[:5000], targets[:5000]),
        test=Images(inputs[5000:], targets[5000:]),
        classes=10,
        mean=(0.5,) * 3,
        std=(0.28,) * 3,
        pad=4,  # no mirror images: they turn one direction into another
    )


def _stripes(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Return the coloured wave of each class, float (N, 3, side, side) around 0."""

    def normal() -> Tensor:
        return torch.randn(len(targets), generator=generator)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(targets), generator=generator)

    angle = math.pi * (targets % 5) / 5 + math.radians(7) * normal()
    waves = torch.where(targets < 5, 4, 7) * uniform(0.9, 1.1)
    hue = 2 * math.pi * targets / 10 + math.radians(14) * normal()
    axis = torch.linspace(0, 1, TEXTURE_SIDE_PIXELS)
    along = torch.cos(angle)[:, None, None] * axis + torch.sin(angle)[:, None, None] * axis[:, None]
    wave = torch.sin(2 * math.pi * (waves[:, None, None] * along + uniform(0, 1)[:, None, None]))
    colour = 0.6 + 0.4 * torch.cos(hue[:, None] + 2 * math.pi / 3 * torch.arange(3))
    contrast = uniform(0.07, 0.22)[:, None] * colour
    return contrast[:, :, None, None] * wave[:, None]


def _background(count: int, generator: torch.Generator) -> Tensor:
    """Return grey with coloured clouds and noise, float (count, 3, side, side)."""
    clouds = functional.interpolate(
        torch.randn(count, 3, 4, 4, generator=generator), TEXTURE_SIDE_PIXELS, mode="bilinear", align_corners=False
    )
    noise = torch.randn(count, 3, TEXTURE_SIDE_PIXELS, TEXTURE_SIDE_PIXELS, generator=generator)
    return 0.5 + 0.2 * clouds + 0.25 * noise
