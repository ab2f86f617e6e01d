"""Small networks for small images."""

from math import prod

from torch import nn


def mlp(input_shape: tuple[int, ...], classes: int, width: int = 300) -> nn.Module:
    """LeNet-300-100's shape: two hidden layers of `width` and a third of it."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(input_shape), width),
        nn.ReLU(),
        nn.Linear(width, max(1, width // 3)),
        nn.ReLU(),
        nn.Linear(max(1, width // 3), classes),
    )


def convnet(input_shape: tuple[int, ...], classes: int, width: int = 32) -> nn.Module:
    """Three 3x3 convolutions of `width`, 2x and 2x channels with batch norm, one halving, and a linear layer."""
    return nn.Sequential(
        *conv_norm_relu(input_shape[0], width),
        *conv_norm_relu(width, 2 * width),
        nn.MaxPool2d(2),
        *conv_norm_relu(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def vgg_small(input_shape: tuple[int, ...], classes: int, width: int = 32) -> nn.Module:
    """A VGG with batch norm: two 3x3 convolutions at each of `width`, 2x and 4x channels, each pair then halved."""
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for stage in (width, 2 * width, 4 * width):
        layers += [*conv_norm_relu(channels, stage), *conv_norm_relu(stage, stage), nn.MaxPool2d(2)]
        channels = stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def conv_norm_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, batch norm and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
