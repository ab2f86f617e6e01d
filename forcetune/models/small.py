"""Small networks for small images."""

from math import prod

from torch import nn


def mlp(input_shape: tuple[int, ...], classes: int, width: int = 300) -> nn.Module:
    """Build a network of LeNet-300-100's shape: two hidden layers of `width` and a third of it."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(input_shape), width),
        nn.ReLU(),
        nn.Linear(width, max(1, width // 3)),
        nn.ReLU(),
        nn.Linear(max(1, width // 3), classes),
    )


def convnet(input_shape: tuple[int, ...], classes: int, width: int = 32) -> nn.Module:
    """Build three 3x3 convolutions of `width`, 2x and 2x channels with batch norm, and a linear layer.

    The image is halved once, after the second convolution.
    """
    return nn.Sequential(
        *conv_norm_relu(input_shape[0], width),
        *conv_norm_relu(width, 2 * width),
        nn.MaxPool2d(2),
        *conv_norm_relu(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def lenet5(input_shape: tuple[int, ...], classes: int, width: int = 20) -> nn.Module:
    """Build LeNet-5 as SNIP and Caffe have it: 5x5 convolutions of `width` and 2.5x channels, 25x hidden units."""
    channels, height, breadth = input_shape
    second = width * 5 // 2
    features = second * _size_after_lenet(height) * _size_after_lenet(breadth)
    return nn.Sequential(
        nn.Conv2d(channels, width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 25 * width),
        nn.ReLU(),
        nn.Linear(25 * width, classes),
    )


def conv_norm_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3x3 convolution that keeps the size of the image, batch norm and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _size_after_lenet(size: int) -> int:
    """Return the height or width of an image after twice a 5x5 convolution without padding and a halving."""
    return ((size - 4) // 2 - 4) // 2
