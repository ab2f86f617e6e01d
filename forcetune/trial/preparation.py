"""A trial before training: its data, its network, its masks, and what is known of them."""

import hashlib
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
from forcetune.names import check_metric_name, resolve
from forcetune.spec import METRICS, Task, Trial
from forcetune.trial.reuse import find_pruning_cache

EVALUATION_BATCH = 1024


@dataclass
class PreparedTrial:
    """A pruned network, ready to train; `metrics` are those known before training."""

    trial: Trial
    task: Task
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

    @property
    def untrained(self) -> tuple[str, str] | None:
        """Outcome and reason of a trial that is not trained, `collapsed` or `infeasible`; None where it is to be."""
        if self.collapsed and self.trial.screen:
            return "collapsed", self.collapsed
        broken = self.task.broken(self.metrics)
        return ("infeasible", broken) if broken else None

    def training_batches(self) -> data.AnyBatches:
        """Those that a training begins with."""
        return self.dataset.batches(self.training, self.trial.batch_size, stream(self.trial, "order"))

    def test_batches(self) -> data.AnyBatches:
        """The test images in order."""
        return self.dataset.batches(self.dataset.test, EVALUATION_BATCH)

    def validation_batches(self) -> data.AnyBatches:
        """The validation images in order."""
        return self.dataset.batches(self.validation, EVALUATION_BATCH)


def prepare(trial: Trial, task: Task | None = None, fetch_masks: Callable[[str], str | Path] = Path) -> PreparedTrial:
    """Draw the split and the initial weights, find the masks and say what is left of the network.

    fetch_masks: from the field `layers_from` to the file of masks that it names.
    """
    task = task or Task()
    ground = TrialContext(trial)
    dataset, build = ground.dataset, ground.build
    model = build(trial.width)
    batches = _Counted(
        dataset.batches(ground.training, trial.saliency_batch_size, stream(trial, "saliency"), trial.balanced)
    )
    torch.manual_seed(stream(trial, "saliency dropout"))
    trail = find_pruning_cache(trial, model)
    before = (trail.reused, trail.seconds) if trail else (0, 0.0)
    started = time.perf_counter()
    masks = _find_masks(trial, model, batches, fetch_masks, trail)
    seconds = time.perf_counter() - started
    reused, spared = (trail.reused - before[0], trail.seconds - before[1]) if trail else before
    metrics = pruning.diagnose(model, masks, dataset.input_shape)
    if trial.small_dense:
        model, masks, metrics = _small_dense(trial, build, metrics, dataset.input_shape)
    if trial.reinit:
        model = build(width_of(trial, metrics), "reinit")
    reads_data = pruning.method_row(trial.method).data
    metrics |= {
        "saliency_samples": batches.samples if reads_data else 0,
        "prune_seconds": seconds + spared,
        "steps_reused": reused,
    }
    prepared = PreparedTrial(trial, task, dataset, ground.training, ground.validation, model, masks, metrics)
    if task.measure:
        metrics |= measured(prepared)
    return prepared


class TrialContext:
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


def width_of(trial: Trial, metrics: dict[str, float]) -> int | None:
    """Of the network that is trained: that of `small_dense` where the trial has it."""
    return int(metrics.get("dense_width", 0)) or trial.width


def _find_masks(
    trial: Trial,
    model: nn.Module,
    batches: Iterable[pruning.Batch],
    fetch_masks: Callable[[str], str | Path],
    trail: pruning.PruningCache | None,
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
        trail=trail,
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


def measured(prepared: PreparedTrial) -> dict[str, float]:
    """What the user's function says of the pruned network, cut down to what is left of it, before training."""
    name, shape = str(prepared.task.measure), prepared.dataset.input_shape
    model = prepared.model
    example = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    device = next(model.parameters()).device
    told = resolve(name, {}, "measure")(training.compact(model, prepared.masks, shape), example.to(device))
    if taken := [metric for metric in told if metric in METRICS]:
        raise InputError(f"measure: {name} returns {taken[0]}, which forcetune measures itself; give it another name")
    return {check_metric_name(metric): float(value) for metric, value in told.items()}


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
