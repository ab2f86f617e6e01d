"""A context that gives a model back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserve_model(model: nn.Module, weights: bool = False) -> Iterator[None]:
    """Restore the modes of a model, and torch's random state, which dropout draws from, at the end of the block.

    The random state is that of the CPU and of the GPUs that the model is on.

    Args:
        model: The model.
        weights: Whether its weights and buffers are restored too, of which the block then takes a copy.
    """
    modes = [(module, module.training) for module in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    originals = [(tensor.detach(), tensor.detach().clone()) for tensor in tensors] if weights else []
    with torch.random.fork_rng({tensor.device for tensor in tensors if tensor.is_cuda}):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for tensor, original in originals:
                tensor.copy_(original)
