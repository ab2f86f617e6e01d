"""An exponential moving average of a network's weights, by which a trial is judged before it is trained."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's weights and running statistics over about the last `window` steps.

    The decay is min(1 - 1 / window, (1 + steps) / (10 + steps)): at the beginning the window is a ninth of the
    steps so far, or the initial weights would weigh for too long. Pruned weights are 0 in the average as in the model.
    """

    def __init__(self, model: nn.Module, window: int) -> None:
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._names = [name for name, tensor in held.items() if tensor.is_floating_point()]
        self._held: list[Tensor] = [held[name].data for name in self._names]
        self._average = [tensor.clone() for tensor in self._held]
        self._window = window
        self._steps = 0

    def update(self) -> None:
        """After a step of the optimizer."""
        self._steps += 1
        decay = min(1 - 1 / self._window, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._average, self._held, 1 - decay)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The model has the averaged weights meanwhile, and its own afterwards, bit for bit."""
        own = [tensor.clone() for tensor in self._held]
        torch._foreach_copy_(self._held, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._held, own)

    def state_dict(self, grow: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """grow: from a tensor's name and its part that is trained to the whole one."""
        return {"steps": self._steps, "average": {n: grow(n, t) for n, t in self._named()}}

    def load_state_dict(self, state: dict[str, Any], shrink: Callable[[str, Tensor], Tensor]) -> None:
        """shrink: from a tensor's name and the whole one to the part that is trained."""
        self._steps = state["steps"]
        torch._foreach_copy_(self._average, [shrink(name, state["average"][name]) for name in self._names])

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self._names, self._average, strict=True)


RUNGS = (8, 4, 2)  # the parts of the epochs after which a trial is judged by its averaged weights


def rungs(epochs: int, lr_schedule: str = "cosine") -> dict[int, str]:
    """The epochs after which a training of so many is judged, and their names: an eighth, a quarter, a half.

    Rounded up, none at the end. Half of a stepped schedule is where its first drop comes, so the judgement waits
    for the first whole epoch after it. Of two rungs that fall together the later counts.
    """
    found = {math.ceil(epochs / part) + (part == 2 and lr_schedule == "step"): f"1/{part}" for part in RUNGS}
    return {epoch: name for epoch, name in found.items() if epoch < epochs}
