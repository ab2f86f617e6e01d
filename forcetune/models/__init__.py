"""The MODELS table: networks by name, at their initial weights."""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from forcetune.errors import InputError
from forcetune.models.preserving import run_preserved
from forcetune.models.resnet import Block, Bottleneck, narrow_resnet, wide_resnet
from forcetune.models.small import convnet, lenet5, mlp
from forcetune.models.vgg import vgg_bn, vgg_small
from forcetune.models.vision import TORCHVISION_PREFIX, torchvision_builder
from forcetune.names import resolve

Builder = Callable[..., nn.Module]

MODELS: dict[str, Builder] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "convnet": convnet,
    "vgg_small": vgg_small,
    "vgg16_bn": partial(vgg_bn, depth=16),
    "vgg19_bn": partial(vgg_bn, depth=19),
    **{f"resnet{depth}": partial(narrow_resnet, depth=depth) for depth in (8, 14, 20, 32, 56)},
    "resnet18": partial(wide_resnet, block=Block, blocks=(2, 2, 2, 2)),
    "resnet50": partial(wide_resnet, block=Bottleneck, blocks=(3, 4, 6, 3)),
}


def find_builder(name: str) -> Builder:
    """Return the builder of this name.

    Args:
        name: A row of MODELS, `torchvision:name` or the user's `package.module:function`.

    Returns:
        A function of (input_shape, classes) that builds the network.

    Raises:
        InputError: There is no such builder.
    """
    return torchvision_builder(name) if name.startswith(TORCHVISION_PREFIX) else resolve(name, MODELS, "model")


def default_width(name: str) -> int:
    """Return the width that a builder takes by default.

    Args:
        name: The name of the builder.

    Returns:
        The default of its argument `width`.

    Raises:
        InputError: There is no such builder, or it takes no `width` with a default.
    """
    width = inspect.signature(find_builder(name)).parameters.get("width")
    if width is None or not isinstance(width.default, int):
        raise InputError(
            f"the width of model {name!r} cannot be changed: its builder has no argument `width` with a default"
        )
    return width.default


def build(name: str, input_shape: tuple[int, ...], classes: int, width: int | None = None, seed: int = 0) -> nn.Module:
    """Build a network and initialize it.

    A row of MODELS gets kaiming-normal (fan-in) weights and zero biases. `torchvision:name` and the user's
    `package.module:function(input_shape, classes)` keep the initialization they give themselves. torch's random state
    is left as it was.

    Args:
        name: A row of MODELS, `torchvision:name` or the user's `package.module:function`.
        input_shape: The shape of one sample, without the batch.
        classes: The number of classes.
        width: The width that is passed to the builder; None for the builder's default.
        seed: The seed of the initialization.

    Returns:
        The network.

    Raises:
        InputError: The name is unknown, the builder takes no `width`, or the network does not map a batch of such
            samples to (batch, classes).
    """
    builder = find_builder(name)
    if width is not None and not _has_width_argument(builder):
        raise InputError(f"the builder of model {name!r} has no argument `width`; remove `width`")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            model = builder(input_shape, classes, **({} if width is None else {"width": width}))
            if not isinstance(model, nn.Module):
                raise TypeError(f"its builder returned {type(model).__name__}, not a torch.nn.Module")
            if name in MODELS:
                initialize(model)
            _check_outputs(model, input_shape, classes, training=False)
        except Exception as error:  # the user's builder or network may raise anything
            raise InputError(
                f"the model {name!r} does not fit samples of shape {tuple(input_shape)} in {classes} classes: {error}"
            ) from error
    return model


def _has_width_argument(builder: Builder) -> bool:
    parameters = inspect.signature(builder).parameters.values()
    return any(parameter.name == "width" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def initialize(model: nn.Module) -> None:
    """Give every Conv2d and Linear kaiming-normal (fan-in) weights and zero biases, as the FORCE authors' code does.

    Args:
        model: The network.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_training(model: nn.Module, input_shape: tuple[int, ...], classes: int) -> None:
    """Check that a network runs in train mode, and returns the logits alone there.

    `build` checks eval mode alone and is called in each trial; this check runs once before a search. The buffers stay
    as they are, and so does torch's random state.

    Args:
        model: The network.
        input_shape: The shape of one sample, without the batch.
        classes: The number of classes.

    Raises:
        InputError: The network fails in train mode, or returns more than logits there.
    """
    try:
        _check_outputs(model, input_shape, classes, training=True)
    except Exception as error:  # the user's network may raise anything
        raise InputError(f"the model cannot be trained on samples of shape {tuple(input_shape)}: {error}") from error


def _check_outputs(model: nn.Module, input_shape: tuple[int, ...], classes: int, training: bool) -> None:
    """Raise TypeError or ValueError where the outputs for two samples are no logits."""
    outputs = run_preserved(model, torch.zeros(2, *input_shape), training)
    mode = "train" if training else "eval"
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"in {mode} mode it returns a {type(outputs).__name__}; allowed: only the logits, a tensor (batch, "
            "classes); switch off its auxiliary outputs, or wrap it in a module that returns only the logits"
        )
    if tuple(outputs.shape) != (2, classes):
        raise ValueError(f"in {mode} mode two samples give outputs of shape {tuple(outputs.shape)}, not (2, {classes})")
