"""A trial in training, which yields one dict of metrics an epoch and has a state from which it goes on."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch

from forcetune import pruning, training
from forcetune.errors import InputError
from forcetune.names import resolve
from forcetune.study import COST_METRICS, Task, Trial
from forcetune.trial.preparation import (
    PreparedTrial,
    TrialContext,
    derive_seed,
    find_trained_width,
    measure_pruned,
    prepare,
)


def run(trial: Trial, task: Task | None = None) -> Iterator[dict[str, float]]:
    """Prune and train a network, and yield the metrics of each epoch.

    Torch's global generator, which dropout draws from, is seeded.

    Args:
        trial: The trial.
        task: The part of the study that its trials share; None for the default task.

    Yields:
        One dict of metrics an epoch, with the static metrics in each of them.

    Raises:
        InputError: The fields do not fit together.
        training.Diverged: The training loss is not finite.
    """
    trial_run = TrialRun(prepare(trial, task))
    for metrics in trial_run:
        yield {**trial_run.prepared.metrics, **metrics}


def resume(
    trial: Trial, state: dict[str, Any], task: Task | None = None, group: training.ProcessGroup | None = None
) -> "TrialRun":
    """Take up a trial where `TrialRun.state_dict` returned a state, without pruning anew.

    Args:
        trial: The trial.
        state: The state.
        task: The part of the study that its trials share; None for the default task.
        group: The processes that train the trial together; None where this process is the only one.

    Returns:
        The trial, which goes on with the next epoch.
    """
    context = TrialContext(trial)
    masks = {name: mask.to(context.device) for name, mask in state["masks"].items()}
    model = context.build(find_trained_width(trial, state["metrics"]))
    prepared = PreparedTrial(
        trial, task or Task(), context.dataset, context.training, context.validation, model, masks, state["metrics"]
    )
    trial_run = TrialRun(prepared, group)
    trial_run.load_state_dict(state)
    return trial_run


class TrialRun:
    """A prepared trial in training.

    Iterating trains the network and yields one dict for each epoch that is left, with the metrics of that epoch alone;
    the static metrics stay on the prepared trial. A trial that is not trained yields one dict, of epoch 0, with the
    metrics of a random guess: the accuracy 1 / classes and the loss log(classes). Metrics of the user's own are then
    those of the untrained network.

    Where several processes train a trial, each has a `TrialRun` of it, and all are iterated at the same time. The first
    one measures; the others yield the training loss alone.

    Args:
        prepared: The trial before training.
        group: The processes that train the trial together; None where this process is the only one.

    Raises:
        InputError: Batch norm is not to be synchronised, but there is only one process.
    """

    def __init__(self, prepared: PreparedTrial, group: training.ProcessGroup | None = None) -> None:
        self.prepared = prepared
        self._group = group
        self._seconds = 0.0  # of training, earlier processes included
        torch.manual_seed(derive_seed(prepared.trial, "dropout"))
        self._validation = prepared.validation_batches()
        self._changes = _make_changes(prepared)
        self._training = self._make_user_training() if prepared.task.train else self._make_masked_training()
        if not self._changes:
            macs_fraction = self._training.macs_fraction if isinstance(self._training, training.Training) else 1.0
            prepared.metrics["trained_macs_fraction"] = macs_fraction

    def __iter__(self) -> Iterator[dict[str, float]]:
        if self._training.epoch == 0 and self.prepared.untrained_outcome:
            yield self._guess_metrics()
            return
        earlier_seconds, started = self._seconds, time.perf_counter()
        for metrics in self._training:
            started += metrics.get("compile_seconds", 0.0)
            self._seconds = earlier_seconds + time.perf_counter() - started
            epoch_metrics = {**metrics, "train_seconds": self._seconds}
            if metrics["epoch"] == self.total_epochs and not (self._group and self._group.rank):
                epoch_metrics |= self._measure_final()
            yield epoch_metrics

    def _measure_final(self) -> dict[str, float]:
        """Return what is measured after the last epoch; where a rule has changed the masks, the static metrics too."""
        metrics: dict[str, float] = {}
        if self.prepared.task.tested:
            metrics["test_accuracy"] = self._training.accuracy(self.prepared.test_batches())
        if self._changes and isinstance(self._training, training.Training):
            prepared = self.prepared
            prepared.masks = self._changes.masks
            metrics |= pruning.diagnose(prepared.model, prepared.masks, prepared.dataset.input_shape)
            metrics["trained_macs_fraction"] = self._training.macs_fraction
            if prepared.task.measure:
                metrics |= measure_pruned(prepared)
            prepared.metrics |= metrics
        return metrics

    @property
    def total_epochs(self) -> int:
        """The number of epochs, those of all levels of a lottery ticket included."""
        return self._training.total_epochs

    @property
    def masks(self) -> pruning.Masks:
        """The masks as they are now."""
        return self._changes.masks if self._changes else self.prepared.masks

    @property
    def has_rule(self) -> bool:
        """Whether a rule changes the masks."""
        return self._changes is not None

    @property
    def trail(self) -> list[dict[str, Any]]:
        """The changes of the masks so far, as `training.ChangingMasks` lists them; none without a rule."""
        return self._changes.trail if self._changes else []

    def pack_weights(self) -> bytes:
        """Return the network and its masks as they are now, as the content of a file; see `pruning.pack_network`.

        After the last epoch the weights are those that the metrics of that epoch were measured on: not averaged, and
        without the dense weights that some rules keep underneath.
        """
        prepared = self.prepared
        architecture = pruning.Architecture(
            model=prepared.trial.model,
            width=find_trained_width(prepared.trial, prepared.metrics),
            input_shape=tuple(prepared.dataset.input_shape),
            classes=prepared.dataset.classes,
        )
        return pruning.pack_network(prepared.model, self.masks, architecture)

    @property
    def is_resumable(self) -> bool:
        """Whether the training has a `state_dict`, which a loop of the user's own may lack."""
        return isinstance(self._training, training.Training) or self._training.is_resumable

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors from which `resume` goes on as if the training had not stopped.

        Call it between two epochs.
        """
        return {
            "masks": self.prepared.masks,
            "metrics": self.prepared.metrics,
            "seconds": self._seconds,
            "training": self._training.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned, with the masks and the metrics of that state."""
        self._seconds = state["seconds"]
        self._training.load_state_dict(state["training"])

    def _make_masked_training(self) -> training.Training:
        trial, task, shape = self.prepared.trial, self.prepared.task, self.prepared.dataset.input_shape
        batches, make = self.prepared.training_batches(), self._find_training()
        if self._group:
            batches = batches.share(self._group.rank, self._group.size)
        return make(
            self.prepared.model,
            self.prepared.masks,
            batches,
            self._validation,
            **{**trial.loop_arguments, "epochs": _plan_epochs(trial, self.prepared.metrics)},
            loss=training.find_loss(task.loss),
            metrics=resolve_metrics(task),
            input_shape=shape,
            compiled=task.compiled,
            architecture=(
                trial.model,
                find_trained_width(trial, self.prepared.metrics),
                shape,
                self.prepared.dataset.classes,
            ),
        )

    def _find_training(self) -> Callable[..., training.Training]:
        """Return the class of the training, with the arguments that it alone has."""
        trial = self.prepared.trial
        if self._changes:
            return partial(training.RuledTraining, changes=self._changes)
        if self._group:
            return partial(
                training.ParallelTraining,
                group=self._group,
                seed=derive_seed(trial, "dropout"),
                shares_norms=trial.sync_batch_norm,
            )
        if not trial.sync_batch_norm:
            raise InputError(
                "sync_batch_norm false: only a trial of several processes (`resources.processes` of its study) can be "
                "trained so, since each of them then normalizes its share of a batch"
            )
        return training.Training

    def _make_user_training(self) -> training.UserTrainingLoop:
        """Start the user's loop on the pruned network; it is a generator, or another iterable over its epochs."""
        model, masks, trial = self.prepared.model, self.prepared.masks, self.prepared.trial
        make_loop = resolve(str(self.prepared.task.train), {}, "train")
        training.Masked(model, masks)  # pruned weights are 0 from the start
        loop = make_loop(model, masks, self.prepared.training_batches(), self._validation, trial.fields())
        return training.UserTrainingLoop(loop, model, masks, trial.epochs)

    def _guess_metrics(self) -> dict[str, float]:
        prepared, task = self.prepared, self.prepared.task
        if self._changes:  # its static metrics would follow at the end
            starting_metrics = pruning.diagnose(prepared.model, prepared.masks, prepared.dataset.input_shape)
            prepared.metrics = {**starting_metrics, **prepared.metrics}
        classes = prepared.dataset.classes
        loss = math.log(classes)
        metrics = {"epoch": 0, "train_loss": loss, "val_loss": loss, "val_accuracy": 1 / classes}
        metrics |= dict.fromkeys(COST_METRICS, 0.0)
        if task.tested:
            metrics["test_accuracy"] = 1 / classes
        if task.metrics:
            training.Masked(prepared.model, prepared.masks)
            user_metrics = training.evaluate(prepared.model, self._validation, metrics=resolve_metrics(task))
            metrics = {**user_metrics, **metrics}
        return metrics


def _plan_epochs(trial: Trial, metrics: dict[str, float]) -> int:
    """Return the epochs of a training, or of its first level, before dead channels are cut out.

    At equal compute a small dense network trains longer, and the levels of a lottery ticket share the operations.
    """
    if not trial.equal_compute:
        return trial.epochs
    levels = trial.total_epochs // trial.epochs
    return training.stretch_epochs(trial.epochs, metrics["macs_fraction"] if trial.small_dense else levels)


def make_rule(trial: Trial, steps_per_epoch: int) -> pruning.TrainingRule | None:
    """Return the rule that changes the masks of a trial in training; None for a method that has none.

    Args:
        trial: The trial.
        steps_per_epoch: The number of optimizer steps of an epoch.

    Raises:
        InputError: The rule cannot be followed in a training of this length.
    """
    row = pruning.method_row(trial.method)
    if row.rule is None:
        return None
    schedule = resolve(trial.schedule, pruning.SCHEDULES, "schedule")
    options = {**row.rule_options, **trial.rule_options}
    return row.rule(
        pruning.RulePlan(trial.density, _plan_epochs(trial, {}) * steps_per_epoch, trial.iterations, schedule, options)
    )


def _make_changes(prepared: PreparedTrial) -> training.ChangingMasks | None:
    """Return the rule that changes the masks, with the batches that it scores weights on; None without a rule."""
    trial, dataset = prepared.trial, prepared.dataset
    if pruning.method_row(trial.method).rule is None:
        return None
    rule = make_rule(trial, len(prepared.training_batches()))
    assert rule
    loss = resolve(trial.saliency_loss, pruning.SALIENCY_LOSSES, "loss")

    def score(
        model: torch.nn.Module, masks: pruning.Masks, step: int, saliency: pruning.Saliency
    ) -> dict[str, torch.Tensor]:
        seed = derive_seed(trial, f"saliency at step {step}")
        batches = dataset.batches(prepared.training, trial.saliency_batch_size, seed, trial.saliency_samples_per_class)
        taken = list(islice(batches, trial.batches_per_step))
        return pruning.score_network(model, masks, taken, saliency, loss, seed)

    return training.ChangingMasks(rule, score, derive_seed(trial, "rule"))


def resolve_metrics(task: Task) -> dict[str, training.Metric]:
    """Return the functions of the field `metrics`, by their names without the module."""
    return {name.rpartition(":")[2]: resolve(name, {}, "metrics") for name in task.metrics}
