"""The memory order of a network's weights: channels last, in which convolutions are quicker."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forcetune.models.preserving import run_preserved

# oneDNN's gradient of a strided 1x1 convolution's weights writes past its memory where the inputs are channels last and
# fewer than its vectors hold (oneDNN's issue 6035): 8 channels with AVX2, where it was seen, and 16 with AVX-512.
VECTOR_CHANNELS = 16


def lay_out(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Put the weights of convolutions in the memory order channels last, unless the network cannot run with them.

    The outputs stay the same but for rounding. A convolution with such weights returns its outputs in that order too,
    which a model may not expect (`x.view(len(x), -1)` fails on them). On the CPU a strided 1x1 convolution of few
    channels reads every `stride`-th pixel first, because oneDNN computes it wrongly otherwise; `restore_forwards`
    ends that. The network is in training mode afterwards.

    Args:
        network: The network, whose weights are changed in place.
        input_shape: The shape of one sample, without the batch.
    """
    weight = next(network.parameters())
    sample = torch.zeros((2, *input_shape), dtype=weight.dtype, device=weight.device)
    network.train()
    _order_weights(network, torch.channels_last)
    if not _is_runnable(network, sample):
        _order_weights(network, torch.contiguous_format)
    elif sample.device.type == "cpu":
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and _is_computed_wrongly(module):
                module.forward = partial(_convolve_strided_input, module)  # type: ignore[method-assign]


def _is_computed_wrongly(convolution: nn.Conv2d) -> bool:
    """Return whether oneDNN computes this layer's gradient wrongly where its inputs are channels last.

    A layer whose class, or the user, computes something else than torch's convolution stays as it is.
    """
    kind = type(convolution)
    return (
        "forward" not in vars(convolution)
        and kind.forward is nn.Conv2d.forward
        and kind._conv_forward is nn.Conv2d._conv_forward
        and convolution.kernel_size == (1, 1)
        and convolution.stride != (1, 1)
        and convolution.padding in ((0, 0), "valid")
        and convolution.in_channels // convolution.groups < VECTOR_CHANNELS
    )


def restore_forwards(network: nn.Module) -> None:
    """Let the layers of a network that `lay_out` has changed compute as their classes do, for the user or an export."""
    for module in network.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func is _convolve_strided_input:
            del module.forward


def _convolve_strided_input(convolution: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Compute a strided 1x1 convolution as one without stride on the pixels that it reads."""
    rows, columns = convolution.stride
    return F.conv2d(inputs[..., ::rows, ::columns], convolution.weight, convolution.bias, groups=convolution.groups)


def _order_weights(network: nn.Module, order: torch.memory_format) -> None:
    """Put the weights of two-dimensional convolutions in this order; other weights have no channels last."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=order)


def _is_runnable(network: nn.Module, sample: Tensor) -> bool:
    """Return whether a network runs on the sample; its buffers and torch's random state stay as they are."""
    try:
        run_preserved(network, sample, training=True)
    except Exception:  # the user's code, which may do anything
        return False
    return True
