"""Training a pruned network: one dict of metrics an epoch."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.data import AnyBatches
from forcetune.names import resolve
from forcetune.training.average import Average, rungs
from forcetune.training.captured import take_step
from forcetune.training.evaluation import Metric, evaluate
from forcetune.training.masked import Masked
from forcetune.training.part import CompactedNetwork
from forcetune.training.step import Loss, Precision, Recipe

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
    weights lie in memory in the order that is quicker; `model` has its weights after each epoch. precision: `bf16`
    (torch's autocast) or `float32`; None: bf16 on a GPU. compiled: by torch.compile, in the first epoch's
    compile_seconds. architecture: equal for models that compute the same from the same weights; on a GPU their
    trainings share one captured step, so that one must end before the next begins.

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
        precision: Precision | None = None,
        compiled: bool = False,
        architecture: Hashable = None,
    ) -> None:
        Masked(model, masks)
        self._part = CompactedNetwork(model, masks, input_shape)
        precision = precision or ("bf16" if next(model.parameters()).is_cuda else "float32")
        recipe = Recipe(optimizer, momentum, weight_decay, clip_norm, loss, precision, compiled)
        self._step = take_step(self._part, recipe, architecture)
        self._model = self._part.network
        self._training = training
        self._validation = validation
        self._epochs = epochs
        self._lr = lr
        self._factor = LR_SCHEDULES[lr_schedule]
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
            if self._step.compile_seconds:  # in this epoch
                measured["compile_seconds"] = self._step.compile_seconds
                self._step.compile_seconds = 0.0
            self.epoch += 1
            averaged = self._evaluate_average() if self.epoch in self._rungs else {}
            self._part.write_back()
            yield {"epoch": self.epoch, "train_loss": train_loss, **measured, **averaged}

    def accuracy(self, batches: AnyBatches) -> float:
        """Share of the images in these batches that the network puts in their class."""
        return evaluate(self._model, batches, self._loss, autocast=self._step.autocast)["val_accuracy"]

    @property
    def share(self) -> float:
        """Of the network's multiply-adds, those that are trained."""
        return self._part.share

    def state_dict(self) -> dict[str, Any]:
        """The model's and the optimizer's state, the place in the data's order, and torch's generators."""
        return {
            "epoch": self.epoch,
            "model": self._part.model.state_dict(),
            "optimizer": self._part.grow_optimizer(self._step.optimizer.state_dict()),
            "average": self._average.state_dict(self._part.grow) if self._average else None,
            "order": self._training.state(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state` was taken, the same networks and data given."""
        self._part.load(state["model"])
        self._step.load_optimizer(self._part.shrink_optimizer(state["optimizer"]))
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
            losses.append(self._step(inputs, targets, self._lr * self._factor(step / total)))
            if self._average:
                self._average.update()
        return float(torch.stack(losses).mean())

    def _evaluate(self) -> dict[str, float]:
        return evaluate(self._model, self._validation, self._loss, self._metrics, self._step.autocast)

    def _evaluate_average(self) -> dict[str, float]:
        assert self._average is not None
        with self._average.in_force():
            measured = {f"ema_{name}": value for name, value in self._evaluate().items()}
        if self.epoch == max(self._rungs):
            self._average = None  # nobody asks for it again
        return measured
