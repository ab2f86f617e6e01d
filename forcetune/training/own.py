"""A training loop of the user's own, held to its masks and to one dict of metrics an epoch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.data import AnyBatches
from forcetune.names import check_metric_name
from forcetune.training.evaluation import evaluate

Loop = Callable[..., Iterable[Mapping[str, float]]]  # (model, masks, training, validation, trial)


class UserTrainingLoop:
    """Iterating yields epoch (from 1) and what the loop says of it, for the epochs that are left.

    Raises ValueError where a pruned weight is not 0 after an epoch, where the loop ends before its epochs, or says
    something that is no number.
    """

    def __init__(self, loop: Iterable[Mapping[str, float]], model: nn.Module, masks: dict[str, Tensor], epochs: int):
        self._loop = loop
        self._model = model
        self._weights = dict(model.named_parameters())
        self._masks = masks
        self._epochs = epochs
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, float]]:
        loop = iter(self._loop)
        while self.epoch < self._epochs:
            told = next(loop, None)
            if told is None:
                raise ValueError(f"the training loop ended after {self.epoch} of {self._epochs} epochs")
            self._refuse_moved()
            self.epoch += 1
            yield {"epoch": self.epoch, **{check_metric_name(name): float(value) for name, value in told.items()}}

    def accuracy(self, batches: AnyBatches) -> float:
        """Share of the images in these batches that the network puts in their class."""
        return evaluate(self._model, batches)["val_accuracy"]

    @property
    def resumable(self) -> bool:
        """Whether the loop can say what the rest of it depends on."""
        return hasattr(self._loop, "state_dict") and hasattr(self._loop, "load_state_dict")

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and the loop's own state."""
        return {"epoch": self.epoch, "loop": self._loop.state_dict()}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state` was taken."""
        self._loop.load_state_dict(state["loop"])  # type: ignore[attr-defined]
        self.epoch = state["epoch"]

    @torch.no_grad()
    def _refuse_moved(self) -> None:
        for name, mask in self._masks.items():
            moved = int((self._weights[name][~mask] != 0).sum())
            if moved:
                raise ValueError(
                    f"the training loop moved {moved} pruned weights of {name} away from 0; hold them with "
                    "forcetune.training.hold(optimizer, model, masks), or put them back after every step"
                )
