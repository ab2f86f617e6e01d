"""A training loop of the user's own: its masks are checked, and it yields one dict of metrics an epoch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.data import AnyBatches
from forcetune.names import check_metric_name
from forcetune.training.evaluation import evaluate

TrainingLoop = Callable[..., Iterable[Mapping[str, float]]]  # of (model, masks, training, validation, trial)


class UserTrainingLoop:
    """A training loop of the user's own, checked after every epoch.

    Iterating yields, for each epoch that is left, `epoch` (from 1) and the metrics that the loop yields.

    Args:
        loop: The user's loop, which yields one mapping of metrics an epoch.
        model: The network that the loop trains.
        masks: Its masks, by parameter name.
        epochs: The number of epochs of the training.

    Attributes:
        epoch: The last complete epoch.
        total_epochs: The number of epochs.

    Raises:
        ValueError: While iterating, where a pruned weight is not 0 after an epoch, the loop ends before its epochs, or
            a metric is not a number.
    """

    def __init__(self, loop: Iterable[Mapping[str, float]], model: nn.Module, masks: dict[str, Tensor], epochs: int):
        self._loop = loop
        self._model = model
        self._weights = dict(model.named_parameters())
        self._masks = masks
        self.epoch = 0
        self.total_epochs = epochs

    def __iter__(self) -> Iterator[dict[str, float]]:
        loop = iter(self._loop)
        while self.epoch < self.total_epochs:
            metrics = next(loop, None)
            if metrics is None:
                raise ValueError(f"the training loop ended after {self.epoch} of {self.total_epochs} epochs")
            self._check_pruned_weights()
            self.epoch += 1
            yield {"epoch": self.epoch, **{check_metric_name(name): float(value) for name, value in metrics.items()}}

    def accuracy(self, batches: AnyBatches) -> float:
        """Return the fraction of the images in these batches that the network puts in their class, 0 to 1."""
        return evaluate(self._model, batches)["val_accuracy"]

    @property
    def is_resumable(self) -> bool:
        """Whether the loop has `state_dict` and `load_state_dict`, so that it can go on in another process."""
        return hasattr(self._loop, "state_dict") and hasattr(self._loop, "load_state_dict")

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the state of the user's loop."""
        return {"epoch": self.epoch, "loop": self._loop.state_dict()}  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state_dict` returned this state."""
        self._loop.load_state_dict(state["loop"])  # type: ignore[attr-defined]
        self.epoch = state["epoch"]

    @torch.no_grad()
    def _check_pruned_weights(self) -> None:
        for name, mask in self._masks.items():
            moved = int((self._weights[name][~mask] != 0).sum())
            if moved:
                raise ValueError(
                    f"the training loop changed {moved} pruned weights of {name} from 0; use "
                    "forcetune.training.hold(optimizer, model, masks), or set them to 0 after every step"
                )
