"""Training a pruned network: one dict of metrics an epoch."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.data import AnyBatches
from forcetune.training.masked import Masked

Schedule = Callable[[float], float]


class Diverged(ArithmeticError):
    """The training loss is no longer a finite number."""


def _cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 [1608.03983]."""
    return (1 + math.cos(math.pi * progress)) / 2


def _step(progress: float) -> float:
    """A tenth after half of the steps, a hundredth after three quarters."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def _constant(progress: float) -> float:
    return 1.0


LR_SCHEDULES: dict[str, Schedule] = {"cosine": _cosine, "step": _step, "constant": _constant}


class Training:
    """SGD on the weights that `masks` keep; pruned weights are exactly 0 after every step.

    Iterating yields after each epoch that is left: epoch (from 1), train_loss (mean over the epoch), val_loss,
    val_accuracy (0..1); raises Diverged where the training loss of an epoch is not finite. The learning rate
    follows `lr_schedule` step by step; `clip_norm` bounds the gradient's 2-norm. Between two epochs `state_dict`
    is all that the rest depends on: what loads it goes on as if it had never stopped.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: dict[str, Tensor],
        training: AnyBatches,
        validation: AnyBatches,
        *,
        epochs: int,
        lr: float,
        lr_schedule: str = "cosine",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        clip_norm: float | None = None,
    ) -> None:
        self._model = model
        self._held = Masked(model, masks)
        self._optimizer = torch.optim.SGD(model.parameters(), lr, momentum=momentum, weight_decay=weight_decay)
        self._training = training
        self._validation = validation
        self._epochs = epochs
        self._lr = lr
        self._factor = LR_SCHEDULES[lr_schedule]
        self._clip_norm = clip_norm
        self.epoch = 0  # the last one that is complete

    def __iter__(self) -> Iterator[dict[str, float]]:
        while self.epoch < self._epochs:
            train_loss = self._pass()
            if not math.isfinite(train_loss):
                raise Diverged(f"the training loss became {train_loss} in epoch {self.epoch + 1}")
            measured = evaluate(self._model, self._validation)
            self.epoch += 1
            yield {"epoch": self.epoch, "train_loss": train_loss, **measured}

    def state_dict(self) -> dict[str, Any]:
        """The model's and the optimizer's state, the place in the data's order, and torch's generators."""
        return {
            "epoch": self.epoch,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "order": self._training.state(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state` was taken, the same networks and data given."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._training.restore(state["order"])
        cpu, *cuda = state["generators"]
        torch.set_rng_state(cpu)
        if len(cuda) == torch.cuda.device_count():  # else it was taken on another machine
            torch.cuda.set_rng_state_all(cuda)
        self.epoch = state["epoch"]

    def _pass(self) -> float:
        """One epoch; its mean loss."""
        self._model.train()
        losses = []
        total = self._epochs * len(self._training)
        for step, (inputs, targets) in enumerate(self._training, self.epoch * len(self._training)):
            self._optimizer.param_groups[0]["lr"] = self._lr * self._factor(step / total)
            loss = functional.cross_entropy(self._model(inputs), targets)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._held.gradients()
            if self._clip_norm is not None:
                nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
            self._optimizer.step()
            self._held.weights()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())


@torch.no_grad()
def evaluate(model: nn.Module, batches: AnyBatches) -> dict[str, float]:
    """val_loss and val_accuracy in eval mode; no batch waits for the one before it."""
    model.eval()
    losses, hits, count = [], [], 0
    for inputs, targets in batches:
        logits = model(inputs)
        losses.append(functional.cross_entropy(logits, targets, reduction="sum"))
        hits.append((logits.argmax(1) == targets).sum())
        count += len(targets)
    return {
        "val_loss": float(torch.stack(losses).sum()) / count,
        "val_accuracy": int(torch.stack(hits).sum()) / count,
    }
