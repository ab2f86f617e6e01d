"""The training of a pruned network, which yields one dict of metrics an epoch."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.data import AnyBatches
from forcetune.names import resolve
from forcetune.training.average import Average, find_rungs
from forcetune.training.captured import make_step
from forcetune.training.cost import TrainingCost, stretch_epochs
from forcetune.training.evaluation import Metric, evaluate
from forcetune.training.layout import restore_forwards
from forcetune.training.levels import Levels
from forcetune.training.masked import Masked
from forcetune.training.part import CompactedNetwork
from forcetune.training.step import Loss, Precision, Recipe, Step

LRSchedule = Callable[[float], float]  # of the progress of a training, 0 to 1: a factor of the first learning rate


class Diverged(ArithmeticError):
    """The error of a training whose loss is no longer a finite number."""


def _cosine(progress: float) -> float:
    """Return half a cosine, from 1 to 0 [1608.03983]."""
    return (1 + math.cos(math.pi * progress)) / 2


def _step(progress: float) -> float:
    """Return 1 for half of the steps, then a tenth, and a hundredth after three quarters."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def _constant(progress: float) -> float:
    return 1.0


LR_SCHEDULES: dict[str, LRSchedule] = {"cosine": _cosine, "step": _step, "constant": _constant}
TRAINING_LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}


def find_loss(name: str) -> Loss:
    """Return a training loss by its name.

    Args:
        name: A row of TRAINING_LOSSES, or `package.module:function` of the user's own.

    Returns:
        A function of logits (N, classes) and classes (N,) that returns their mean loss.

    Raises:
        InputError: No such loss is found.
    """
    loss: Loss = resolve(name, TRAINING_LOSSES, "loss")
    return loss


class Training:
    """The training of the weights that `masks` keep; pruned weights are exactly 0 after every step.

    Iterating yields, after each epoch that is left, `epoch` (from 1), `train_loss` (the mean over the epoch's steps)
    and what `evaluate` measures. At the rungs (`find_rungs`) it adds what `evaluate` measures of the averaged weights,
    with `ema_` before each name, and where `input_shape` is given the floating-point operations so far
    (`TrainingCost`). Between two epochs `state_dict` is all that the later epochs depend on: a training that loads it
    continues as if it had never stopped. `RuledTraining` is a training whose masks a rule changes, `ParallelTraining`
    one in several processes.

    Args:
        model: The network. It has the trained weights after each epoch.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        training: The batches of an epoch.
        validation: The batches that `evaluate` measures.
        epochs: The number of epochs.
        lr: The learning rate of the first step.
        lr_schedule: A row of LR_SCHEDULES, which sets the learning rate step by step.
        optimizer: A row of OPTIMIZERS.
        momentum: The momentum of SGD, or the first beta of AdamW.
        weight_decay: The weight decay of the optimizer.
        clip_norm: The bound on the 2-norm of the gradient; None for no bound.
        loss: A function of logits (N, classes) and classes (N,) that returns their mean loss.
        metrics: Functions that `evaluate` calls, by name.
        input_shape: The shape of one sample, without the batch. Where it is given, weights are put in the memory order
            that is quicker, and the network is trained without its dead channels where that saves enough.
        precision: `bf16` (torch's autocast) or `float32`; None takes bf16 on a GPU and float32 elsewhere.
        compiled: Whether torch.compile compiles the network. The first epoch's metrics then have `compile_seconds`.
        architecture: A value that is equal for models that compute the same from the same weights. On a GPU their
            trainings share one captured step, so one training must end before the next begins.
        equal_compute: Whether `epochs` are those of the dense network, whose operations a network without its dead
            channels may use up in more epochs (`stretch_epochs`).

    Attributes:
        epoch: The last complete epoch.
        keeps_dense_weights: Whether pruned weights stay underneath and are trained.
        may_cut: Whether dead channels may be cut out.

    Raises:
        Diverged: While iterating, where the training loss of an epoch is not finite.
    """

    keeps_dense_weights = False
    may_cut = True

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
        equal_compute: bool = False,
    ) -> None:
        if not self.keeps_dense_weights:
            Masked(model, masks)
        self._compacted = CompactedNetwork(model, masks, input_shape, is_cut=self.may_cut)
        precision = precision or ("bf16" if next(model.parameters()).is_cuda else "float32")
        self._recipe = Recipe(
            optimizer, momentum, weight_decay, clip_norm, loss, precision, compiled, self.keeps_dense_weights
        )
        self._step = self._make_step(architecture)
        self._model = self._compacted.network
        self._cost = TrainingCost(model, masks, input_shape) if input_shape else None
        self._training = training
        self._validation = validation
        if equal_compute:
            epochs = stretch_epochs(epochs, self._compacted.macs_fraction)
        self._levels = Levels(epochs, len(training))
        self._lr = lr
        self._lr_factor = LR_SCHEDULES[lr_schedule]
        self._loss = loss
        self._metrics = metrics or {}
        self._rungs = find_rungs(epochs, lr_schedule)
        self._average = Average(self._model, len(training)) if self._rungs else None
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, float]]:
        while self.epoch < self.total_epochs:
            train_loss = self._train_epoch()
            if not math.isfinite(train_loss):
                raise Diverged(f"the training loss became {train_loss} in epoch {self.epoch + 1}")
            measured = self._evaluate()
            if self._step.compile_seconds:  # the network was compiled in this epoch
                measured["compile_seconds"] = self._step.compile_seconds
                self._step.compile_seconds = 0.0
            self.epoch += 1
            averaged = self._evaluate_average() if self.epoch in self._rungs else {}
            self._compacted.write_back()
            cost = self._cost.metrics() if self._cost else {}
            if self.epoch == self.total_epochs:
                for network in {self._model, self._compacted.model}:
                    restore_forwards(network)
            yield {"epoch": self.epoch, "train_loss": train_loss, **measured, **averaged, **cost}

    def accuracy(self, batches: AnyBatches) -> float:
        """Return the fraction of the images in these batches that the network puts in their class, 0 to 1."""
        return evaluate(self._model, batches, self._loss, autocast=self._step.autocast)["val_accuracy"]

    @property
    def macs_fraction(self) -> float:
        """The fraction of the network's multiply-adds that is trained, 0 to 1."""
        return self._compacted.macs_fraction

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the model, the optimizer, the average, the order of the data and torch's generators."""
        return {
            "epoch": self.epoch,
            "model": self._compacted.model.state_dict(),
            "optimizer": self._compacted.grow_optimizer(self._step.optimizer.state_dict()),
            "average": self._average.state_dict(self._compacted.grow) if self._average else None,
            "order": self._training.state(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            **({"cost": (self._cost.executed, self._cost.sparse)} if self._cost else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state_dict` returned this state.

        Args:
            state: The state, of a training with the same arguments.
        """
        self._compacted.load(state["model"])
        if self._cost and "cost" in state:
            self._cost.executed, self._cost.sparse = state["cost"]
        self._step.load_optimizer(self._compacted.shrink_optimizer(state["optimizer"]))
        if state["average"] is None:  # the training is past its last rung
            self._average = None
        elif self._average:
            self._average.load_state_dict(state["average"], self._compacted.shrink)
        self._training.restore(state["order"])
        cpu, *cuda = state["generators"]
        torch.set_rng_state(cpu)
        if len(cuda) == torch.cuda.device_count():  # else the state is from another machine
            torch.cuda.set_rng_state_all(cuda)
        self.epoch = state["epoch"]

    @property
    def total_epochs(self) -> int:
        """The number of epochs, those of all levels included."""
        return self._levels.total_epochs

    def _train_epoch(self) -> float:
        """Train for one epoch and return its mean loss."""
        self._begin_epoch()
        position, skipped = self._levels.locate(self.epoch)
        first_step = self._levels.count_steps(self.epoch)
        self._model.train()
        losses = []
        for index, (inputs, targets) in enumerate(islice(self._training, skipped, None)):
            lr = self._lr * self._lr_factor((position + index) / self._levels.steps)
            losses.append(self._take_step(first_step + index + 1, inputs, targets, lr))
            if self._average:
                self._average.update()
        return float(torch.stack(losses).mean())

    def _make_step(self, architecture: Hashable) -> Step:
        return make_step(self._compacted, self._recipe, architecture)

    def _begin_epoch(self) -> None:
        """Prepare an epoch; a training with a rule, or in several processes, has something to do here."""

    def _take_step(self, step: int, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Do step number `step` of all levels, counted from 1; return the loss."""
        self._add_cost(len(targets))
        return self._step(inputs, targets, lr)

    def _add_cost(self, samples: int, has_dense_gradient: bool = False) -> None:
        if self._cost:
            self._cost.add_step(samples, self._compacted.macs_fraction, has_dense_gradient)

    def _evaluate(self) -> dict[str, float]:
        return evaluate(self._model, self._validation, self._loss, self._metrics, self._step.autocast)

    def _evaluate_average(self) -> dict[str, float]:
        assert self._average is not None
        with self._average.swap_in():
            measured = {f"ema_{name}": value for name, value in self._evaluate().items()}
        if self.epoch == max(self._rungs):
            self._average = None  # no later epoch is a rung
        return measured
