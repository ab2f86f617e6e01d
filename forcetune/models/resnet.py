"""Residual networks for small images [1512.03385], with 1x1 projections where the shape changes."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the next block."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, the last of four times the channels, beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the next block."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        return functional.relu(self.bn3(self.conv3(out)) + self.shortcut(x), inplace=True)


def narrow_resnet(input_shape: tuple[int, ...], classes: int, width: int = 16, *, depth: int) -> nn.Module:
    """Build ResNet-`depth` of section 4.2, depth = 6n + 2: n blocks at each of `width`, 2x and 4x channels."""
    return wide_resnet(input_shape, classes, width, block=Block, blocks=[(depth - 2) // 6] * 3)


def wide_resnet(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 64,
    *,
    block: type[Block | Bottleneck],
    blocks: Sequence[int],
) -> nn.Module:
    """Build a ResNet of table 1 for 32x32 images: with a 3x3 stem and no pooling before the blocks."""
    body: list[nn.Module] = []
    channels = width
    for stage, count in enumerate(blocks):
        for index in range(count):
            body.append(block(channels, width * 2**stage, stride=2 if stage and not index else 1))
            channels = block.expansion * width * 2**stage
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *body,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
