"""The order of a network's weights in memory: channels last, in which convolutions are quicker."""

import torch
from torch import Tensor, nn
from torch.func import functional_call


def lay_out(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Put the weights of convolutions in memory channels last; leave them where the network cannot run so.

    input_shape: of one sample. What is computed stays the same but for rounding. A convolution with such weights
    hands its outputs on in that order too, which a model may not expect (`x.view(len(x), -1)` fails on them).
    """
    like = next(network.parameters())
    sample = torch.zeros((2, *input_shape), dtype=like.dtype, device=like.device)
    network.train()
    _order_weights(network, torch.channels_last)
    if not _runs(network, sample):
        _order_weights(network, torch.contiguous_format)


def _order_weights(network: nn.Module, order: torch.memory_format) -> None:
    """Put the weights of two-dimensional convolutions in this order; others know no channels last."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=order)


def _runs(network: nn.Module, sample: Tensor) -> bool:
    """Whether it takes the sample; leaves no trace in it."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng({sample.device} if sample.is_cuda else ()):
            functional_call(network, buffers, (sample,))
    except Exception:  # the user's code, which may do anything
        return False
    return True
