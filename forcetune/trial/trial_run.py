"""A trial in training: one dict of metrics an epoch, and a state from which it goes on."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from forcetune import training
from forcetune.names import resolve
from forcetune.spec import Task, Trial
from forcetune.trial.preparation import PreparedTrial, TrialContext, prepare, stream, width_of


def run(trial: Trial, task: Task | None = None) -> Iterator[dict[str, float]]:
    """Prune, train and yield one dict of metrics an epoch, those known before training in each of them.

    Seeds torch's global generator, which dropout draws from.

    Raises InputError where the fields do not fit together, training.Diverged where the loss does.
    """
    yield from TrialRun(prepare(trial, task))


def resume(trial: Trial, state: dict[str, Any], task: Task | None = None) -> "TrialRun":
    """The trial as it was when `Underway.state_dict` gave this state, without pruning anew."""
    ground = TrialContext(trial)
    masks = {name: mask.to(ground.device) for name, mask in state["masks"].items()}
    model = ground.build(width_of(trial, state["metrics"]))
    prepared = PreparedTrial(
        trial, task or Task(), ground.dataset, ground.training, ground.validation, model, masks, state["metrics"]
    )
    trial_run = TrialRun(prepared)
    trial_run.load_state_dict(state)
    return trial_run


class TrialRun:
    """A prepared trial in training; iterating trains it and yields one dict of metrics an epoch that is left.

    One that is not to be trained yields one dict, of epoch 0, with what guessing gives: the chance accuracy
    1 / classes and the loss log(classes); metrics of the user's own are the untrained network's.
    """

    def __init__(self, prepared: PreparedTrial) -> None:
        self.prepared = prepared
        self._seconds = 0.0  # of training, in earlier processes too
        torch.manual_seed(stream(prepared.trial, "dropout"))
        self._validation = prepared.validation_batches()
        self._training = self._own_training() if prepared.task.train else self._masked_training()
        share = self._training.share if isinstance(self._training, training.Training) else 1.0
        prepared.metrics["trained_macs_fraction"] = share

    def __iter__(self) -> Iterator[dict[str, float]]:
        if self.prepared.untrained:
            yield {**self.prepared.metrics, **self._guessing()}
            return
        before, started = self._seconds, time.perf_counter()
        for metrics in self._training:
            started += metrics.get("compile_seconds", 0.0)
            self._seconds = before + time.perf_counter() - started
            told = {**self.prepared.metrics, **metrics, "train_seconds": self._seconds}
            if self.prepared.task.tested and metrics["epoch"] == self.prepared.trial.epochs:
                told["test_accuracy"] = self._training.accuracy(self.prepared.test_batches())
            yield told

    @property
    def resumable(self) -> bool:
        """Whether `state_dict` can be had: of a training loop of the user's own, where the loop has one."""
        return isinstance(self._training, training.Training) or self._training.resumable

    def state_dict(self) -> dict[str, Any]:
        """Between two epochs, plain data and tensors from which `resume` goes on as if nothing had happened."""
        return {
            "masks": self.prepared.masks,
            "metrics": self.prepared.metrics,
            "seconds": self._seconds,
            "training": self._training.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `resume` does once masks and metrics are back."""
        self._seconds = state["seconds"]
        self._training.load_state_dict(state["training"])

    def _masked_training(self) -> training.Training:
        trial, task, shape = self.prepared.trial, self.prepared.task, self.prepared.dataset.input_shape
        return training.Training(
            self.prepared.model,
            self.prepared.masks,
            self.prepared.training_batches(),
            self._validation,
            epochs=trial.epochs,
            lr=trial.lr,
            lr_schedule=trial.lr_schedule,
            optimizer=trial.optimizer,
            momentum=trial.momentum,
            weight_decay=trial.weight_decay,
            clip_norm=trial.clip_norm,
            loss=training.find_loss(task.loss),
            metrics=own_metrics(task),
            input_shape=shape,
            precision=trial.precision,
            compiled=task.compiled,
            architecture=(trial.model, width_of(trial, self.prepared.metrics), shape, self.prepared.dataset.classes),
        )

    def _own_training(self) -> training.UserTrainingLoop:
        """The user's loop on the pruned network: a generator, or whatever iterates over its epochs."""
        model, masks, trial = self.prepared.model, self.prepared.masks, self.prepared.trial
        loop = resolve(str(self.prepared.task.train), {}, "train")
        training.Masked(model, masks)  # pruned weights are 0 from the start
        told = loop(model, masks, self.prepared.training_batches(), self._validation, trial.fields())
        return training.UserTrainingLoop(told, model, masks, trial.epochs)

    def _guessing(self) -> dict[str, float]:
        prepared, task = self.prepared, self.prepared.task
        classes = prepared.dataset.classes
        loss = math.log(classes)
        told = {"epoch": 0, "train_loss": loss, "val_loss": loss, "val_accuracy": 1 / classes, "train_seconds": 0.0}
        if task.tested:
            told["test_accuracy"] = 1 / classes
        if task.metrics:
            training.Masked(prepared.model, prepared.masks)
            own = training.evaluate(prepared.model, self._validation, metrics=own_metrics(task))
            told = {**own, **told}
        return told


def own_metrics(task: Task) -> dict[str, training.Metric]:
    return {name.rpartition(":")[2]: resolve(name, {}, "metrics") for name in task.metrics}
