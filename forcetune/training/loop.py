"""Training a pruned network: one dict of metrics an epoch."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from forcetune.data import AnyBatches
from forcetune.names import resolve
from forcetune.training.average import Average, rungs
from forcetune.training.masked import Masked
from forcetune.training.part import Part

Schedule = Callable[[float], float]
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (N, classes) and classes (N,), their mean
Metric = Callable[[Tensor, Tensor], float | Mapping[str, float]]  # the same, of a whole validation split


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


def _sgd(weights: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> Optimizer:
    return SGD(weights, lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def _adamw(weights: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Decoupled weight decay [1711.05101]; `momentum` is the first beta."""
    return AdamW(weights, lr, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": _sgd, "adamw": _adamw}
LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}


def find_loss(name: str) -> Loss:
    """The row of LOSSES, or the user's `package.module:function`. Raises InputError."""
    found: Loss = resolve(name, LOSSES, "loss")
    return found


class Training:
    """Trains the weights that `masks` keep; pruned weights are exactly 0 after every step.

    Iterating yields after each epoch that is left: epoch (from 1), train_loss (mean over the epoch) and what
    `evaluate` measures; at the `rungs` also what it measures of the averaged weights, `ema_` before each name.

    input_shape: of one sample; where it is given, and it pays, the network without its dead channels is trained, and
    `model` has its weights after each epoch.

    Raises Diverged where the training loss of an epoch is not finite. The learning rate follows `lr_schedule` step
    by step; `clip_norm` bounds the gradient's 2-norm. Between two epochs `state_dict` is all that the rest depends
    on: what loads it goes on as if it had never stopped.
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
        optimizer: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        clip_norm: float | None = None,
        loss: Loss = functional.cross_entropy,
        metrics: Mapping[str, Metric] | None = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        Masked(model, masks)
        self._part = Part(model, masks, input_shape)
        self._model = self._part.network
        self._held = Masked(self._model, self._part.masks)
        self._optimizer = OPTIMIZERS[optimizer](self._model.parameters(), lr, momentum, weight_decay)
        self._training = training
        self._validation = validation
        self._epochs = epochs
        self._lr = lr
        self._factor = LR_SCHEDULES[lr_schedule]
        self._clip_norm = clip_norm
        self._loss = loss
        self._metrics = metrics or {}
        self._rungs = rungs(epochs, lr_schedule)
        self._average = Average(self._model, len(training)) if self._rungs else None
        self.epoch = 0  # the last one that is complete

    def __iter__(self) -> Iterator[dict[str, float]]:
        while self.epoch < self._epochs:
            train_loss = self._pass()
            if not math.isfinite(train_loss):
                raise Diverged(f"the training loss became {train_loss} in epoch {self.epoch + 1}")
            measured = self._evaluate()
            self.epoch += 1
            averaged = self._evaluate_average() if self.epoch in self._rungs else {}
            self._part.write_back()
            yield {"epoch": self.epoch, "train_loss": train_loss, **measured, **averaged}

    @property
    def share(self) -> float:
        """Of the network's multiply-adds, those that are trained."""
        return self._part.share

    def state_dict(self) -> dict[str, Any]:
        """The model's and the optimizer's state, the place in the data's order, and torch's generators."""
        return {
            "epoch": self.epoch,
            "model": self._part.model.state_dict(),
            "optimizer": self._part.grow_optimizer(self._optimizer.state_dict()),
            "average": self._average.state_dict(self._part.grow) if self._average else None,
            "order": self._training.state(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state` was taken, the same networks and data given."""
        self._part.load(state["model"])
        self._optimizer.load_state_dict(self._part.shrink_optimizer(state["optimizer"]))
        if state["average"] is None:  # the last rung is passed
            self._average = None
        elif self._average:
            self._average.load_state_dict(state["average"], self._part.shrink)
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
            loss = self._loss(self._model(inputs), targets)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._held.gradients()
            if self._clip_norm is not None:
                nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
            self._optimizer.step()
            self._held.weights()
            if self._average:
                self._average.update()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _evaluate(self) -> dict[str, float]:
        return evaluate(self._model, self._validation, self._loss, self._metrics)

    def _evaluate_average(self) -> dict[str, float]:
        assert self._average is not None
        with self._average.in_force():
            measured = {f"ema_{name}": value for name, value in self._evaluate().items()}
        if self.epoch == max(self._rungs):
            self._average = None  # nobody asks for it again
        return measured


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: AnyBatches,
    loss: Loss = functional.cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """val_loss, val_accuracy and `val_` with the name of each metric, in eval mode; no batch waits for another.

    metrics: functions of all logits (N, classes) and classes (N,), on the CPU. One returns a number, or several by
    name, which take the place of its own.
    """
    model.eval()
    losses, hits, count = [], [], 0
    seen: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in batches:
        logits = model(inputs)
        losses.append(loss(logits, targets) * len(targets))
        hits.append((logits.argmax(1) == targets).sum())
        count += len(targets)
        if metrics:
            seen.append((logits, targets))
    return {
        "val_loss": float(torch.stack(losses).sum()) / count,
        "val_accuracy": int(torch.stack(hits).sum()) / count,
        **(_measured(metrics, seen) if metrics else {}),
    }


def _measured(metrics: Mapping[str, Metric], seen: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    logits, targets = (torch.cat(parts).cpu() for parts in zip(*seen, strict=True))
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric(logits, targets)
        several = value if isinstance(value, Mapping) else {name: value}
        found |= {f"val_{own}": float(number) for own, number in several.items()}
    return found
