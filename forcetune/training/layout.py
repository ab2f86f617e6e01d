"""The memory order of a network's weights: channels last, in which convolutions are quicker."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from forcetune.models.preserving import preserve_model


def lay_out(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Put the weights of convolutions in the memory order channels last, unless the network cannot run with them.

    The outputs stay the same but for rounding. A convolution with such weights returns its outputs in that order too,
    which a model may not expect (`x.view(len(x), -1)` fails on them). The network is in training mode afterwards.

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


def _order_weights(network: nn.Module, order: torch.memory_format) -> None:
    """Put the weights of two-dimensional convolutions in this order; other weights have no channels last."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=order)


def _is_runnable(network: nn.Module, sample: Tensor) -> bool:
    """Return whether a network runs on the sample; its buffers and torch's random state stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with torch.no_grad(), preserve_model(network):
            functional_call(network, buffers, (sample,))
    except Exception:  # the user's code, which may do anything
        return False
    return True
