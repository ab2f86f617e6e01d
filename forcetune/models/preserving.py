"""The tensors of a model, and uses of a model that give it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def list_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, without their graphs; a shared one is listed once."""
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


@contextmanager
def preserve_model(model: nn.Module, weights: bool = False) -> Iterator[None]:
    """Restore the modes of a model, and torch's random state, which dropout draws from, at the end of the block.

    The random state is that of the CPU and of the GPUs that the model is on.

    Args:
        model: The model.
        weights: Whether its weights and buffers are restored too, of which the block then takes a copy.
    """
    modes = [(module, module.training) for module in model.modules()]
    tensors = list_tensors(model).values()
    originals = [(tensor, tensor.clone()) for tensor in tensors] if weights else []
    with torch.random.fork_rng({tensor.device for tensor in tensors if tensor.is_cuda}):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for tensor, original in originals:
                tensor.copy_(original)


def run_preserved(model: nn.Module, inputs: Tensor, training: bool) -> Any:
    """Return the outputs of a forward pass; the model, its buffers too, and torch's random state stay as they were.

    Args:
        model: The model.
        inputs: A batch of inputs.
        training: Whether the pass is in train mode, or else in eval mode.

    Returns:
        What the model returns, without a graph.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), preserve_model(model):
        return functional_call(model.train(training), buffers, (inputs,))
