"""VGG with batch norm [1409.1556] for small images: one linear classifier after the convolutions."""

from collections.abc import Sequence

from torch import nn

from forcetune.models.small import conv_norm_relu

CONVOLUTIONS_PER_STAGE = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # a stage is one size of the image


def vgg_bn(input_shape: tuple[int, ...], classes: int, width: int = 64, *, depth: int) -> nn.Module:
    """Build VGG-`depth`-BN: stages of `width`, 2x, 4x, 8x and 8x channels, the image halved between them."""
    return _vgg(input_shape, classes, [width * factor for factor in (1, 2, 4, 8, 8)], CONVOLUTIONS_PER_STAGE[depth])


def vgg_small(input_shape: tuple[int, ...], classes: int, width: int = 32) -> nn.Module:
    """Build three stages of two convolutions, of `width`, 2x and 4x channels, for images from 4x4."""
    return _vgg(input_shape, classes, [width, 2 * width, 4 * width], (2, 2, 2))


def _vgg(input_shape: tuple[int, ...], classes: int, widths: Sequence[int], convolutions: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for stage, (width, count) in enumerate(zip(widths, convolutions, strict=True)):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(count):
            layers += conv_norm_relu(channels, width)
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
