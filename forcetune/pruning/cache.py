"""A cache of the pruning steps of a network, from which masks of other densities reuse the steps that they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar, cast

import torch
from torch import Tensor

from forcetune.pruning.masks import Masks
from forcetune.pruning.network import Network

Result = TypeVar("Result", Tensor, Masks)


@dataclass(frozen=True)
class _CachedStep:
    """A pruning step that was computed.

    Attributes:
        result: The scores of the first step, or the masks after a later one, on the CPU.
        state: The state of the network after the step.
        seconds: The duration of the step.
    """

    result: Tensor | Masks
    state: list[Tensor]
    seconds: float


class PruningCache:
    """A cache of pruning steps, for all masks of the same weights, batches, method and options.

    Unless the method `uses_count`, the scores of the first step do not depend on the number of weights that it keeps,
    so they serve every density, schedule and number of iterations. A later step gives the same masks wherever it and
    the steps before it keep the same numbers of weights.

    Attributes:
        reused_steps: The number of steps that were reused, for all masks so far.
        saved_seconds: The seconds that these steps took when they were computed.
    """

    def __init__(self) -> None:
        self.reused_steps = 0
        self.saved_seconds = 0.0
        self._steps: dict[tuple[int, ...], _CachedStep] = {}

    @property
    def size(self) -> int:
        """The size of the cached tensors, in bytes."""
        return sum(
            tensor.numel() * tensor.element_size()
            for step in self._steps.values()
            for tensor in (*(step.result.values() if isinstance(step.result, dict) else [step.result]), *step.state)
        )

    def find_or_compute(self, counts: Sequence[int], net: Network, compute: Callable[[], Result]) -> Result:
        """Return the result of a step, from the cache if it has it.

        Args:
            counts: The number of weights that are kept at each step up to this one; empty for the scores of the first
                step.
            net: The network. If the cache has the result, its state becomes the state after the step.
            compute: A function that computes the result: the scores of the first step, a flat tensor, or the masks
                after a later one.

        Returns:
            The result, on the network's device.
        """
        step = self._steps.get(tuple(counts))
        if step is None:
            started = perf_counter()
            result = _move(compute(), "cpu")
            step = self._steps[tuple(counts)] = _CachedStep(result, net.state(), perf_counter() - started)
        else:
            self.reused_steps += 1
            self.saved_seconds += step.seconds
            net.restore(step.state)
        return cast(Result, _move(step.result, next(iter(net.weights.values())).device))


def _move(result: Tensor | Masks, device: torch.device | str) -> Tensor | Masks:
    if isinstance(result, Tensor):
        return result.to(device)
    return {name: mask.to(device) for name, mask in result.items()}
