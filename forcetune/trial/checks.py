"""The checks of a trial before it runs: whether it can run, which metrics it reports, and what it costs."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any, cast

import torch

from forcetune import data, models, pruning, training
from forcetune.errors import InputError
from forcetune.names import RUN_ID_PATTERN
from forcetune.study import CONTROLS, METRICS, RULE_METRICS, STATIC_METRICS, Task, Trial
from forcetune.trial.preparation import PreparedTrial, derive_seed, measure_pruned, prepare
from forcetune.trial.trial_run import TrialRun, make_rule, resolve_metrics


def check(trial: Trial) -> dict[str, Any]:
    """Load the data, build the model and count the prunable weights, without pruning.

    Args:
        trial: The trial.

    Returns:
        The names `dataset` and `model`, the numbers of `training` and `validation` samples, the `input_shape`, the
        numbers of `classes` and of `prunable` weights, and the multiply-adds `macs` of the dense network.

    Raises:
        InputError: The fields do not fit together, or name something that does not exist.
    """
    dataset = data.load(trial.dataset, trial.data_root)
    training_split, validation_split = dataset.split(0, trial.train_samples)
    if len(training_split) < 2:
        raise InputError(
            f"train_samples {trial.train_samples} leaves only {len(training_split)} for training; allowed: 3 or more"
        )
    model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width)
    models.check_training(model, dataset.input_shape, dataset.classes)
    prunable = pruning.prunable(model)
    weights = sum(weight.numel() for weight in prunable.values())
    if int(weights * trial.density) < 1:
        raise InputError(
            f"density {trial.density} keeps none of the {weights} prunable weights of {trial.model}; "
            f"allowed: at least {1 / weights:.2g}"
        )
    if trial.small_dense and not trial.width:
        models.default_width(trial.model)
    if trial.layers_from and not RUN_ID_PATTERN.fullmatch(trial.layers_from):
        pruning.layer_densities(pruning.load_masks(trial.layers_from), prunable)
    return {
        "dataset": trial.dataset,
        "model": trial.model if trial.width is None else f"{trial.model} of width {trial.width}",
        "training": len(training_split),
        "validation": len(validation_split),
        "input_shape": dataset.input_shape,
        "classes": dataset.classes,
        "prunable": weights,
        "macs": sum(pruning.dense_macs(model, dataset.input_shape).values()),
    }


def check_trials(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Check trials, each combination of data and network once.

    Args:
        trials: The trials.

    Returns:
        For each trial what `check` returns, of the first trial with the same data and network.

    Raises:
        InputError: A check fails.
    """
    summary_by_network: dict[tuple[object, ...], dict[str, Any]] = {}
    summaries = []
    for trial in trials:
        network = trial.dataset, trial.data_root, trial.train_samples, trial.model, trial.width
        summaries.append(summary_by_network.get(network) or summary_by_network.setdefault(network, check(trial)))
    return summaries


def check_saliency(trial: Trial) -> None:
    """Check that a trial's saliency batches can be drawn and scored.

    A class-balanced batch needs enough training samples of each class. A batch of one sample needs a network that runs
    on it in training mode.

    Args:
        trial: The trial.

    Raises:
        InputError: The batches cannot be drawn or scored.
    """
    dataset = data.load(trial.dataset, trial.data_root)
    training_split, _ = dataset.split(derive_seed(trial, "split"), trial.train_samples)
    dataset.batches(training_split, trial.saliency_batch_size, 0, trial.saliency_samples_per_class)
    if (
        trial.saliency_batch_size == 1
        and not trial.saliency_samples_per_class
        and pruning.method_row(trial.method).mode == "train"
    ):
        model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width).train()
        try:
            model(torch.zeros(1, *dataset.input_shape))
        except ValueError as error:  # batch norm raises it
            raise InputError(
                f"saliency_batch_size 1: {trial.model} cannot process a single sample ({error})"
            ) from error


def check_rule(trial: Trial, task: Task, count_steps: Callable[[Trial], int] | None = None) -> None:
    """Check that a trial can follow the rule of its method; a method that changes no masks in training passes.

    Args:
        trial: The trial.
        task: The part of the study that its trials share.
        count_steps: A function of a trial that returns the steps of its epochs; None for `count_epoch_steps`.

    Raises:
        InputError: The training is too short for the rule, or has a field or a loop that does not go with it; or the
            user's rule fails.
    """
    row = pruning.method_row(trial.method)
    if row.rule is None:
        return
    if task.train:
        raise InputError(
            f"{trial.method} changes the masks while it trains, which the training loop {task.train} of your own does "
            "not do; allowed: a method that prunes at initialization, or no `train:`"
        )
    refused = CONTROLS if row.starts_dense else ("small_dense",)
    if controls := [name for name in refused if getattr(trial, name)]:
        raise InputError(
            f"{controls[0]} needs masks before training, and {trial.method} has its masks only at the end; allowed: "
            f"{controls[0]} with a method that prunes at initialization (`when: {{method: [...]}}`)"
        )
    with _refuse_errors("method", trial.method):
        rule = make_rule(trial, (count_steps or count_epoch_steps)(trial))
    if row.has_levels and isinstance(rule, pruning.ShrinkingRule):
        _check_levels(trial, rule)


def check_channels(trial: Trial) -> tuple[float, float]:
    """Check that a network has whole channels to cut.

    Args:
        trial: The trial.

    Returns:
        The lowest density, at which one channel is left in each layer: as it is, and rounded up to two digits.

    Raises:
        InputError: The network cannot be traced, or has no channel that may be cut.
    """
    dataset = data.load(trial.dataset, trial.data_root)
    model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width)
    weights = {name: weight.detach() for name, weight in pruning.prunable(model).items()}
    channels = pruning.NetworkChannels(model, weights, dataset.input_shape)
    return channels.smallest_count / channels.total, channels.smallest_density


def count_epoch_steps(trial: Trial) -> int:
    """Return the number of optimizer steps of an epoch of a trial."""
    dataset = data.load(trial.dataset, trial.data_root)
    training_split, _ = dataset.split(derive_seed(trial, "split"), trial.train_samples)
    return len(dataset.batches(training_split, trial.batch_size, 0))


def _check_levels(trial: Trial, rule: pruning.ShrinkingRule) -> None:
    """Raise InputError where a level would prune nothing, and train the same network once more."""
    dataset = data.load(trial.dataset, trial.data_root)
    model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width)
    total = sum(weight.numel() for weight in pruning.prunable(model).values())
    counts = [total, *(rule.count_after(step, total) for step in rule.event_steps)]
    if any(before <= after for before, after in pairwise(counts)):
        raise InputError(
            f"iterations {trial.iterations}: some of the prunings from {total} to {counts[-1]} weights would "
            "remove none, and the level after it would train the same network; allowed: fewer iterations"
        )


def find_reported_metrics(trial: Trial, task: Task) -> tuple[list[str], list[str]]:
    """Find the names of the metrics that a trial reports, except those of a `train` loop of the user's own.

    The function `measure` is called once, on the untrained network. The functions `metrics` are called once, on the
    untrained network's outputs for one batch.

    Args:
        trial: The trial.
        task: The part of the study with the user's functions.

    Returns:
        The names of the static metrics, and the names of all metrics.

    Raises:
        InputError: A function of the user's own fails.
    """
    static_metrics = list(STATIC_METRICS)
    all_metrics = [name for name in METRICS if name not in RULE_METRICS]
    if task.measure or task.metrics:
        prepared = prepare(trial)
    if task.measure:
        with _refuse_errors("measure", task.measure):
            static_metrics += measure_pruned(replace(prepared, task=task))
    if task.metrics:
        training.Masked(prepared.model, prepared.masks)
        batch = _limit_batches(prepared, 1).validation_batches()
        with _refuse_errors("metrics", ", ".join(task.metrics)):
            all_metrics += training.evaluate(prepared.model, batch, metrics=resolve_metrics(task))
    return static_metrics, list(dict.fromkeys([*all_metrics, *static_metrics]))


def measure_epoch_seconds(prepared: PreparedTrial, steps: int, processes: int = 1) -> float:
    """Estimate the time of an epoch and its validation from a few steps of each. The network is trained by them.

    Args:
        prepared: A trial before training.
        steps: The number of training steps, and of validation batches, that are timed.
        processes: The number of processes that share each training step; what they exchange counts as no time.

    Returns:
        The estimate, in seconds.
    """
    # The first epoch is not timed, since it includes what is set up only once. At this learning rate nothing diverges.
    # A method that changes the masks would change none in so few steps.
    method = "random" if pruning.method_row(prepared.trial.method).rule else prepared.trial.method
    changes = {"epochs": 2, "lr": 1e-9, "method": method, "sync_batch_norm": True}
    trial = prepared.trial.model_copy(update=changes)
    limited = _limit_batches(replace(prepared, trial=trial), steps)
    epochs = iter(TrialRun(limited))
    next(epochs)
    started = time.perf_counter()
    next(epochs)
    epoch_seconds = time.perf_counter() - started
    validation, started = limited.validation_batches(), time.perf_counter()
    training.evaluate(prepared.model, validation, metrics=resolve_metrics(prepared.task))
    validation_seconds = time.perf_counter() - started
    all_steps, timed_steps = len(prepared.training_batches()), len(limited.training_batches())
    return (  # scaled from the timed batches to all of them
        max(epoch_seconds - validation_seconds, 0) / timed_steps * all_steps / processes
        + validation_seconds / len(validation) * len(prepared.validation_batches())
    )


@contextmanager
def _refuse_errors(field: str, functions: str) -> Iterator[None]:
    """Turn the error of a user's function into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{field}: {functions} raised {type(error).__name__}: {error}") from error


def _limit_batches(prepared: PreparedTrial, limit: int) -> PreparedTrial:
    """Return the trial with passes over its data that end after this number of batches."""
    return replace(prepared, dataset=cast(data.AnyDataset, _LimitedDataset(prepared.dataset, limit)))


class _LimitedDataset:
    """A data set whose passes end after a given number of batches."""

    def __init__(self, dataset: data.AnyDataset, limit: int) -> None:
        self._dataset = dataset
        self._limit = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def batches(self, *arguments: Any) -> "_LimitedBatches":
        return _LimitedBatches(self._dataset.batches(*arguments), self._limit)


class _LimitedBatches:
    """The first batches of each pass."""

    def __init__(self, batches: data.AnyBatches, limit: int) -> None:
        self._batches = batches
        self._limit = limit

    def __len__(self) -> int:
        return min(len(self._batches), self._limit)

    def __iter__(self) -> Iterator[pruning.Batch]:
        return islice(self._batches, self._limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)
