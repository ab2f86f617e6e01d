"""What can be said of a trial before it runs: whether it can, what it would report, and what it costs."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch

from forcetune import data, models, pruning, training
from forcetune.errors import InputError
from forcetune.spec import BEFORE, METRICS, Task, Trial
from forcetune.trial.preparation import PreparedTrial, measured, prepare, stream
from forcetune.trial.trial_run import TrialRun, own_metrics


def check(trial: Trial) -> dict[str, Any]:
    """Load the data, build the model and count what is prunable, without pruning; raises InputError."""
    dataset = data.load(trial.dataset, trial.data_root)
    train_part, validation_part = dataset.split(0, trial.train_samples)
    if len(train_part) < 2:
        raise InputError(
            f"train_samples {trial.train_samples}: leaves {len(train_part)} to train on; allowed: 3 or more"
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
        models.own_width(trial.model)
    if trial.layers_from and trial.layers_from.endswith(".npz"):
        pruning.layer_densities(pruning.load_masks(trial.layers_from), prunable)
    return {
        "dataset": trial.dataset,
        "model": trial.model if trial.width is None else f"{trial.model} of width {trial.width}",
        "training": len(train_part),
        "validation": len(validation_part),
        "input_shape": dataset.input_shape,
        "classes": dataset.classes,
        "prunable": weights,
        "macs": sum(pruning.dense_macs(model, dataset.input_shape).values()),
    }


def check_each(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """What `check` says of each of them; the network and the data that some share are looked at once."""
    known: dict[tuple[object, ...], dict[str, Any]] = {}
    found = []
    for trial in trials:
        network = trial.dataset, trial.data_root, trial.train_samples, trial.model, trial.width
        found.append(known.get(network) or known.setdefault(network, check(trial)))
    return found


def check_saliency(trial: Trial) -> None:
    """Raise InputError where a saliency batch cannot be had, or scored.

    Class-balanced ones need enough training samples of each class; one of a single sample a network that takes it.
    """
    dataset = data.load(trial.dataset, trial.data_root)
    train_part, _ = dataset.split(stream(trial, "split"), trial.train_samples)
    dataset.batches(train_part, trial.saliency_batch_size, 0, trial.balanced)
    if trial.saliency_batch_size == 1 and not trial.balanced and pruning.method_row(trial.method).mode == "train":
        model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width).train()
        try:
            model(torch.zeros(1, *dataset.input_shape))
        except ValueError as error:  # batch norm's
            raise InputError(f"saliency_batch_size 1: {trial.model} cannot be fed a single sample ({error})") from error


def reported(trial: Trial, task: Task) -> tuple[list[str], list[str]]:
    """The metrics that a trial has before training, and all, but for those of a `train` loop of the user's own.

    Each of the user's functions is called once, on an untrained network and a batch. Raises InputError where one
    fails.
    """
    before, after = list(BEFORE), list(METRICS)
    if task.measure or task.metrics:
        prepared = prepare(trial)
    if task.measure:
        with _blamed("measure", task.measure):
            before += measured(replace(prepared, task=task))
    if task.metrics:
        training.Masked(prepared.model, prepared.masks)
        batch = _few(prepared, 1).validation_batches()
        with _blamed("metrics", ", ".join(task.metrics)):
            after += training.evaluate(prepared.model, batch, metrics=own_metrics(task))
    return before, list(dict.fromkeys([*after, *before]))


def seconds_an_epoch(prepared: PreparedTrial, steps: int) -> float:
    """What an epoch and its validation take, reckoned from so many steps of each; trains the network a little."""
    # the first epoch is for what is set up only once; at this learning rate nothing diverges
    trial = prepared.trial.model_copy(update={"epochs": 2, "lr": 1e-9})
    few = _few(replace(prepared, trial=trial), steps)
    epochs = iter(TrialRun(few))
    next(epochs)
    started = time.perf_counter()
    next(epochs)
    both = time.perf_counter() - started
    validation, started = few.validation_batches(), time.perf_counter()
    training.evaluate(prepared.model, validation, metrics=own_metrics(prepared.task))
    validating = time.perf_counter() - started
    whole, part = len(prepared.training_batches()), len(few.training_batches())
    return max(both - validating, 0) / part * whole + validating / len(validation) * len(prepared.validation_batches())


@contextmanager
def _blamed(place: str, functions: str) -> Iterator[None]:
    """What a function of the user's raises is refused input."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{place}: {functions} raised {type(error).__name__}: {error}") from error


def _few(prepared: PreparedTrial, batches: int) -> PreparedTrial:
    """The same with passes that end after so many batches."""
    return replace(prepared, dataset=cast(data.AnyDataset, _Few(prepared.dataset, batches)))


class _Few:
    """A data set whose passes end after so many batches."""

    def __init__(self, dataset: data.AnyDataset, batches: int) -> None:
        self._dataset = dataset
        self._batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def batches(self, *asked: Any) -> "_FewBatches":
        return _FewBatches(self._dataset.batches(*asked), self._batches)


class _FewBatches:
    """The first of some batches."""

    def __init__(self, batches: data.AnyBatches, most: int) -> None:
        self._batches = batches
        self._most = most

    def __len__(self) -> int:
        return min(len(self._batches), self._most)

    def __iter__(self) -> Iterator[pruning.Batch]:
        return islice(self._batches, self._most)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)
