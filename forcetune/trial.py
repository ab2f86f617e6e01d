"""One trial from its fields to its metrics: data, model, masks, training; no Ray, no MLflow."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forcetune import data, models, pruning, training
from forcetune.data import Batches, Dataset, Images
from forcetune.errors import InputError
from forcetune.spec import Trial

EVALUATION_BATCH = 1024


@dataclass
class Prepared:
    """A pruned network, ready to train; `metrics` are those known before training."""

    trial: Trial
    dataset: Dataset
    training: Images
    validation: Images
    model: nn.Module
    masks: dict[str, Tensor]
    metrics: dict[str, float]

    @property
    def collapsed(self) -> bool:
        """No path leads from input to output: whatever is trained, every image gets the same answer."""
        return bool(self.metrics["collapsed"])


def run(trial: Trial) -> Iterator[dict[str, float]]:
    """Prune, train and yield one dict of metrics an epoch, those known before training in each of them.

    Seeds torch's global generator, which dropout draws from.

    Raises InputError where the fields do not fit together, training.Diverged where the loss does.
    """
    yield from train(prepare(trial))


def prepare(trial: Trial) -> Prepared:
    """Draw the split and the initial weights, find the masks and say what is left of the network."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = data.load(trial.dataset, trial.data_root).to(device)
    train_images, validation_images = dataset.split(stream(trial, "split"), trial.train_samples)
    model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width, stream(trial, "weights")).to(
        device
    )
    batches = _Counted(Batches(dataset, train_images, trial.saliency_batch_size, stream(trial, "saliency")))
    torch.manual_seed(stream(trial, "saliency dropout"))
    started = time.perf_counter()
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
    )
    seconds = time.perf_counter() - started
    metrics = pruning.diagnose(model, masks, dataset.input_shape)
    reads_data = pruning.method_row(trial.method).data
    metrics |= {"prune_seconds": seconds, "saliency_samples": batches.samples if reads_data else 0}
    return Prepared(trial, dataset, train_images, validation_images, model, masks, metrics)


def train(prepared: Prepared) -> Iterator[dict[str, float]]:
    """Train a prepared network; one dict of metrics an epoch.

    A collapsed one is not trained where the trial says `screen`: its one dict has epoch 0 and what guessing
    gives, the chance accuracy 1 / classes and the loss log(classes).
    """
    trial, dataset = prepared.trial, prepared.dataset
    if prepared.collapsed and trial.screen:
        chance = math.log(dataset.classes)
        yield {
            **prepared.metrics,
            "epoch": 0,
            "train_loss": chance,
            "val_loss": chance,
            "val_accuracy": 1 / dataset.classes,
            "train_seconds": 0.0,
        }
        return
    torch.manual_seed(stream(trial, "dropout"))
    started = time.perf_counter()
    for metrics in training.train(
        prepared.model,
        prepared.masks,
        Batches(dataset, prepared.training, trial.batch_size, stream(trial, "order")),
        Batches(dataset, prepared.validation, EVALUATION_BATCH),
        epochs=trial.epochs,
        lr=trial.lr,
        lr_schedule=trial.lr_schedule,
        momentum=trial.momentum,
        weight_decay=trial.weight_decay,
        clip_norm=trial.clip_norm,
    ):
        yield {**prepared.metrics, **metrics, "train_seconds": time.perf_counter() - started}


def check(trial: Trial) -> dict[str, object]:
    """Load the data, build the model and count what is prunable, without pruning; raises InputError."""
    dataset = data.load(trial.dataset, trial.data_root)
    train_images, validation_images = dataset.split(0, trial.train_samples)
    model = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width)
    weights = sum(weight.numel() for weight in pruning.prunable(model).values())
    if int(weights * trial.density) < 1:
        raise InputError(
            f"density {trial.density} keeps none of the {weights} prunable weights of {trial.model}; "
            f"allowed: at least {1 / weights:.2g}"
        )
    return {
        "dataset": trial.dataset,
        "model": trial.model if trial.width is None else f"{trial.model} of width {trial.width}",
        "training": len(train_images),
        "validation": len(validation_images),
        "input_shape": dataset.input_shape,
        "classes": dataset.classes,
        "prunable": weights,
    }


def stream(trial: Trial, purpose: str) -> int:
    """A seed of its own for each thing that the trial's seed draws, so that none moves another."""
    return int.from_bytes(hashlib.sha256(f"{trial.seed} {purpose}".encode()).digest()[:7], "big")


class _Counted:
    """Batches that count the samples taken from them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.samples = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self._batches:
            self.samples += len(targets)
            yield inputs, targets
