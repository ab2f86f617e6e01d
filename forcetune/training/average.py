"""The exponential moving average of a network's weights, by which a trial is judged before its training ends."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.models.preserving import list_tensors


class Average:
    """The average of a model's weights and running statistics over about the last `window` steps.

    The decay is min(1 - 1 / window, (1 + steps) / (10 + steps)). At the beginning the window is therefore a ninth of
    the steps so far; with the full window the initial weights would count for too long. Pruned weights are 0 in the
    average as in the model.

    Args:
        model: The network that is trained.
        window: The length of the average, in steps of the optimizer.
    """

    def __init__(self, model: nn.Module, window: int) -> None:
        tensors = {name: tensor for name, tensor in list_tensors(model).items() if tensor.is_floating_point()}
        self._names = list(tensors)
        self._tensors = list(tensors.values())
        self._average = [tensor.clone() for tensor in self._tensors]
        self._window = window
        self._steps = 0

    def update(self) -> None:
        """Take the weights into the average, after a step of the optimizer."""
        self._steps += 1
        # AveragedModel of torch.optim.swa_utils has a fixed decay, copies the whole module, and swaps no weights back
        decay = min(1 - 1 / self._window, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._average, self._tensors, 1 - decay)

    def mask(self, masks: Mapping[str, Tensor]) -> None:
        """Set the average of pruned weights to 0.

        Args:
            masks: A bool tensor for each masked parameter, by its name; True keeps.
        """
        for name, average in self._named():
            if name in masks:
                average.mul_(masks[name])

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """Give the model the averaged weights within the context, and its own back afterwards, bit for bit."""
        originals = [tensor.clone() for tensor in self._tensors]
        torch._foreach_copy_(self._tensors, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._tensors, originals)

    def state_dict(self, grow: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """Return the state of the average, with tensors in the shapes of the whole network.

        Args:
            grow: A function of a tensor's name and the tensor in the shape that is trained. It returns the tensor in
                the shape of the whole network.

        Returns:
            The number of `steps`, and the `average` of each tensor by its name.
        """
        return {"steps": self._steps, "average": {name: grow(name, tensor) for name, tensor in self._named()}}

    def load_state_dict(self, state: dict[str, Any], shrink: Callable[[str, Tensor], Tensor]) -> None:
        """Take over a state that `state_dict` returned.

        Args:
            state: The state.
            shrink: A function of a tensor's name and the tensor in the shape of the whole network. It returns the
                tensor in the shape that is trained.
        """
        self._steps = state["steps"]
        torch._foreach_copy_(self._average, [shrink(name, state["average"][name]) for name in self._names])

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self._names, self._average, strict=True)


RUNG_DIVISORS = (8, 4, 2)  # of the number of epochs: a trial is judged after an eighth, a quarter and a half of them


def find_rungs(epochs: int, lr_schedule: str = "cosine") -> dict[int, str]:
    """Return the epochs after which a training is judged by its averaged weights: an eighth, a quarter, a half of all.

    Fractions are rounded up, and the last epoch is no rung. The learning rate of a stepped schedule drops for the first
    time after half of the epochs, so that rung is the first whole epoch after the drop. Where two rungs fall on one
    epoch, the later one counts.

    Args:
        epochs: The number of epochs of the training.
        lr_schedule: A row of LR_SCHEDULES.

    Returns:
        The name of each rung (`1/8`, `1/4`, `1/2`) by its epoch, counted from 1.
    """
    rungs = {
        math.ceil(epochs / divisor) + (divisor == 2 and lr_schedule == "step"): f"1/{divisor}"
        for divisor in RUNG_DIVISORS
    }
    return {epoch: name for epoch, name in rungs.items() if epoch < epochs}
