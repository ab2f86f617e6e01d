"""torchvision's classification networks by their own names, as `torchvision:resnet50`, at their own initialization."""

from collections.abc import Callable
from typing import Any

from torch import nn

from forcetune.errors import InputError
from forcetune.names import suggestion

TORCHVISION_PREFIX = "torchvision:"

# By default, these networks return a second output in train mode, and warn about their initialization
_BUILDER_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_builder(name: str) -> Callable[..., nn.Module]:
    """Return the builder of `torchvision:<name>`.

    For images of other than three channels, the network gets a first convolution that fits them.

    Args:
        name: The name with its prefix.

    Returns:
        A function of (input_shape, classes) that builds the network.

    Raises:
        InputError: torchvision has no classification network of this name.
    """
    import torchvision

    model_name = name.removeprefix(TORCHVISION_PREFIX)
    available = torchvision.models.list_models(module=torchvision.models)
    if model_name not in available:
        raise InputError(
            f"unknown model {name!r}{suggestion(model_name, available)}; torchvision has: {', '.join(available)}"
        )

    def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
        model: nn.Module = torchvision.models.get_model(
            model_name, weights=None, num_classes=classes, **_BUILDER_OPTIONS.get(model_name, {})
        )
        _fit_channels(model, input_shape[0])
        return model

    return build


def _fit_channels(model: nn.Module, channels: int) -> None:
    """Give the first convolution, which reads colour images, as many input channels as the images have."""
    path, first = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == channels:
        return
    replacement = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(replacement.weight, mode="fan_out")
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, replacement)
