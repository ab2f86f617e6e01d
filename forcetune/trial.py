"""One trial from its fields to its metrics: data, model, masks, training; no Ray, no MLflow."""

import hashlib
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forcetune import data, models, pruning, training
from forcetune.errors import InputError
from forcetune.spec import Trial

EVALUATION_BATCH = 1024


@dataclass
class Prepared:
    """A pruned network, ready to train; `metrics` are those known before training."""

    trial: Trial
    dataset: data.AnyDataset
    training: Any  # the part of the data set to train on, and that to validate on
    validation: Any
    model: nn.Module
    masks: dict[str, Tensor]
    metrics: dict[str, float]

    @property
    def collapsed(self) -> str | None:
        """Why whatever is trained would give every image the same answer; None where a path is left."""
        if not self.metrics["collapsed"]:
            return None
        empty = [name for name, mask in self.masks.items() if not mask.any()]
        layers = f"; layers without a weight: {', '.join(empty)}" if empty else "; no layer is empty"
        return f"no path of kept weights leads from input to output{layers}"


def run(trial: Trial) -> Iterator[dict[str, float]]:
    """Prune, train and yield one dict of metrics an epoch, those known before training in each of them.

    Seeds torch's global generator, which dropout draws from.

    Raises InputError where the fields do not fit together, training.Diverged where the loss does.
    """
    yield from Underway(prepare(trial))


def prepare(trial: Trial, fetch_masks: Callable[[str], str | Path] = Path) -> Prepared:
    """Draw the split and the initial weights, find the masks and say what is left of the network.

    fetch_masks: from the field `layers_from` to the file of masks that it names.
    """
    ground = _Ground(trial)
    dataset, build = ground.dataset, ground.build
    model = build(trial.width)
    batches = _Counted(
        dataset.batches(ground.training, trial.saliency_batch_size, stream(trial, "saliency"), trial.balanced)
    )
    torch.manual_seed(stream(trial, "saliency dropout"))
    started = time.perf_counter()
    masks = _find_masks(trial, model, batches, fetch_masks)
    seconds = time.perf_counter() - started
    metrics = pruning.diagnose(model, masks, dataset.input_shape)
    if trial.small_dense:
        model, masks, metrics = _small_dense(trial, build, metrics, dataset.input_shape)
    if trial.reinit:
        model = build(_width(trial, metrics), "reinit")
    reads_data = pruning.method_row(trial.method).data
    metrics |= {"prune_seconds": seconds, "saliency_samples": batches.samples if reads_data else 0}
    return Prepared(trial, dataset, ground.training, ground.validation, model, masks, metrics)


def resume(trial: Trial, state: dict[str, Any]) -> "Underway":
    """The trial as it was when `Underway.state_dict` gave this state, without pruning anew."""
    ground = _Ground(trial)
    masks = {name: mask.to(ground.device) for name, mask in state["masks"].items()}
    model = ground.build(_width(trial, state["metrics"]))
    underway = Underway(
        Prepared(trial, ground.dataset, ground.training, ground.validation, model, masks, state["metrics"])
    )
    underway.load_state_dict(state)
    return underway


class _Ground:
    """What the trial stands on before any mask: its device, its data and the way to build its network."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dataset = data.load(trial.dataset, trial.data_root).to(self.device)
        self.training, self.validation = self.dataset.split(stream(trial, "split"), trial.train_samples)

    def build(self, width: int | None, purpose: str = "weights") -> nn.Module:
        seed = stream(self._trial, purpose)
        model = models.build(self._trial.model, self.dataset.input_shape, self.dataset.classes, width, seed)
        return model.to(self.device)


def _width(trial: Trial, metrics: dict[str, float]) -> int | None:
    """Of the network that is trained: that of `small_dense` where the trial has it."""
    return int(metrics.get("dense_width", 0)) or trial.width


def _find_masks(
    trial: Trial, model: nn.Module, batches: Iterable[pruning.Batch], fetch_masks: Callable[[str], str | Path]
) -> dict[str, Tensor]:
    masks = pruning.find_masks(
        model,
        batches,
        trial.method,
        trial.density,
        trial.iterations,
        trial.schedule,
        trial.batches_per_step,
        trial.saliency_loss,
        stream(trial, "mask"),
        invert=trial.invert,
        layer_masks=pruning.load_masks(fetch_masks(trial.layers_from)) if trial.layers_from else None,
        options=trial.options,
    )
    return pruning.shuffled(masks, stream(trial, "shuffle")) if trial.shuffle else masks


def _small_dense(
    trial: Trial, build: Callable[[int], nn.Module], pruned: dict[str, float], input_shape: tuple[int, ...]
) -> tuple[nn.Module, dict[str, Tensor], dict[str, float]]:
    """The dense network whose width gives the number of weights, or of multiply-adds, nearest to the pruned one's.

    Its densities and fractions are of the network that was pruned, so that both lie on one axis.
    """

    @cache
    def size(width: int) -> tuple[int, int]:
        model = build(width)
        weights = sum(weight.numel() for weight in pruning.prunable(model).values())
        return weights, sum(pruning.dense_macs(model, input_shape).values())

    own = trial.width or models.own_width(trial.model)
    full_weights, full_macs = size(own)
    which = 0 if trial.small_dense == "parameters" else 1
    budget = pruned["density"] * full_weights if which == 0 else pruned["macs"]
    above = bisect_left(range(1, own), budget, key=lambda width: size(width)[which]) + 1
    width = min([max(above - 1, 1), above], key=lambda width: abs(size(width)[which] - budget))
    model = build(width)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in pruning.prunable(model).items()}
    weights, macs = size(width)
    density = weights / full_weights
    metrics = {
        **pruning.diagnose(model, masks, input_shape),
        "density": density,
        "sparsity": 1 - density,
        "effective_density": density,
        "macs": macs,
        "macs_fraction": macs / full_macs,
        "dense_width": width,
    }
    return model, masks, metrics


class Underway:
    """A prepared trial in training; iterating trains it and yields one dict of metrics an epoch that is left.

    A collapsed one is not trained where the trial says `screen`: its one dict has epoch 0 and what guessing
    gives, the chance accuracy 1 / classes and the loss log(classes).
    """

    def __init__(self, prepared: Prepared) -> None:
        trial, dataset = prepared.trial, prepared.dataset
        self.prepared = prepared
        self._seconds = 0.0  # of training, in earlier processes too
        torch.manual_seed(stream(trial, "dropout"))
        self._training = training.Training(
            prepared.model,
            prepared.masks,
            dataset.batches(prepared.training, trial.batch_size, stream(trial, "order")),
            dataset.batches(prepared.validation, EVALUATION_BATCH),
            epochs=trial.epochs,
            lr=trial.lr,
            lr_schedule=trial.lr_schedule,
            momentum=trial.momentum,
            weight_decay=trial.weight_decay,
            clip_norm=trial.clip_norm,
        )

    def __iter__(self) -> Iterator[dict[str, float]]:
        if self.prepared.collapsed and self.prepared.trial.screen:
            yield {**self.prepared.metrics, **self._untrained()}
            return
        before, started = self._seconds, time.perf_counter()
        for metrics in self._training:
            self._seconds = before + time.perf_counter() - started
            yield {**self.prepared.metrics, **metrics, "train_seconds": self._seconds}

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

    def _untrained(self) -> dict[str, float]:
        classes = self.prepared.dataset.classes
        loss = math.log(classes)
        return {
            "epoch": 0,
            "train_loss": loss,
            "val_loss": loss,
            "val_accuracy": 1 / classes,
            "train_seconds": 0.0,
        }


def check(trial: Trial) -> dict[str, object]:
    """Load the data, build the model and count what is prunable, without pruning; raises InputError."""
    dataset = data.load(trial.dataset, trial.data_root)
    train_part, validation_part = dataset.split(0, trial.train_samples)
    model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width)
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
    }


def check_saliency(trial: Trial) -> None:
    """Raise InputError where the training split has too few samples of a class for a class-balanced saliency batch."""
    dataset = data.load(trial.dataset, trial.data_root)
    train_part, _ = dataset.split(stream(trial, "split"), trial.train_samples)
    dataset.batches(train_part, trial.saliency_batch_size, 0, trial.balanced)


def stream(trial: Trial, purpose: str) -> int:
    """A seed of its own for each thing that the trial's seed draws, so that none moves another."""
    return int.from_bytes(hashlib.sha256(f"{trial.seed} {purpose}".encode()).digest()[:7], "big")


class _Counted:
    """Batches that count the samples taken from them."""

    def __init__(self, batches: Iterable[pruning.Batch]) -> None:
        self._batches = batches
        self.samples = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self._batches:
            self.samples += len(targets)
            yield inputs, targets
