"""A trial before training: its data, its network, its masks and its static metrics."""

import hashlib
import inspect
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
from forcetune.study import METRICS, PLANNED_METRICS, Task, Trial
from forcetune.trial.reuse import find_pruning_cache

EVALUATION_BATCH_SIZE = 1024  # images


@dataclass
class PreparedTrial:
    """A trial whose network is pruned and ready to train.

    Attributes:
        trial: The trial.
        task: The part of the study that its trials share.
        dataset: The data set, on the device of the network.
        training: The split to train on.
        validation: The split to validate on.
        model: The network, before training.
        masks: A bool tensor for each prunable weight, by its name; True keeps.
        metrics: The static metrics; where a rule changes the masks, those of PLANNED_METRICS until training ends.
    """

    trial: Trial
    task: Task
    dataset: data.AnyDataset
    training: Any
    validation: Any
    model: nn.Module
    masks: dict[str, Tensor]
    metrics: dict[str, float]

    @property
    def collapse_reason(self) -> str | None:
        """The reason why the network gives the same outputs for every image; None where a path of weights is left."""
        if not self.metrics.get("collapsed"):
            return None
        empty = [name for name, mask in self.masks.items() if not mask.any()]
        layers = f"; layers without a weight: {', '.join(empty)}" if empty else "; no layer is empty"
        return f"no path of kept weights leads from input to output{layers}"

    @property
    def untrained_outcome(self) -> tuple[str, str] | None:
        """The outcome of a trial that is not trained, `collapsed` or `infeasible`, and its reason; None for others."""
        if self.collapse_reason and self.trial.screen:
            return "collapsed", self.collapse_reason
        violation = self.task.find_violation(self.metrics, is_complete="collapsed" in self.metrics)
        return ("infeasible", violation) if violation else None

    @property
    def outcome(self) -> tuple[str, str | None]:
        """The outcome of a trial that has ended without an error, and its reason."""
        return self.untrained_outcome or ("trained", None)

    def training_batches(self) -> data.AnyBatches:
        """Return the training batches, in the order that the trial's seed draws."""
        return self.dataset.batches(self.training, self.trial.batch_size, derive_seed(self.trial, "order"))

    def test_batches(self) -> data.AnyBatches:
        """Return the test images in order."""
        return self.dataset.batches(self.dataset.test, EVALUATION_BATCH_SIZE)

    def validation_batches(self) -> data.AnyBatches:
        """Return the validation images in order."""
        return self.dataset.batches(self.validation, EVALUATION_BATCH_SIZE)


def prepare(trial: Trial, task: Task | None = None, fetch_masks: Callable[[str], str | Path] = Path) -> PreparedTrial:
    """Draw the split and the initial weights, find the masks and compute the static metrics.

    Args:
        trial: The trial.
        task: The part of the study that its trials share; None for the default task.
        fetch_masks: A function of the field `layers_from` that returns the file of the masks that it names.

    Returns:
        The trial with its pruned network.

    Raises:
        InputError: The fields do not fit together.
    """
    task = task or Task()
    context = TrialContext(trial)
    dataset, build = context.dataset, context.build
    model = build(trial.width)
    batches = _CountedBatches(
        dataset.batches(
            context.training,
            trial.saliency_batch_size,
            derive_seed(trial, "saliency"),
            trial.saliency_samples_per_class,
        )
    )
    torch.manual_seed(derive_seed(trial, "saliency dropout"))
    pruning_cache = find_pruning_cache(trial, model)
    before = (pruning_cache.reused_steps, pruning_cache.saved_seconds) if pruning_cache else (0, 0.0)
    started = time.perf_counter()
    row = pruning.method_row(trial.method)
    if row.starts_dense:
        masks = pruning.dense_masks(model)
    else:
        masks = _find_masks(trial, model, batches, dataset.input_shape, fetch_masks, pruning_cache)
    seconds = time.perf_counter() - started
    reused_steps, saved_seconds = (
        (pruning_cache.reused_steps - before[0], pruning_cache.saved_seconds - before[1]) if pruning_cache else before
    )
    metrics = _plan_metrics(trial, masks) if row.rule else pruning.diagnose(model, masks, dataset.input_shape)
    if trial.small_dense:
        model, masks, metrics = _make_small_dense(trial, build, metrics, dataset.input_shape)
    if trial.reinit:
        model = build(find_trained_width(trial, metrics), "reinit")
    metrics |= {
        "saliency_samples": batches.samples if row.data else 0,
        "prune_seconds": seconds + saved_seconds,
        "steps_reused": reused_steps,
    }
    prepared = PreparedTrial(trial, task, dataset, context.training, context.validation, model, masks, metrics)
    if task.measure and not row.rule:
        metrics |= measure_pruned(prepared)
    return prepared


def _plan_metrics(trial: Trial, masks: dict[str, Tensor]) -> dict[str, float]:
    """Return the metrics that the masks have in the end, where a rule changes them; a bound of those of channels."""
    total = sum(mask.numel() for mask in masks.values())
    density = int(total * trial.density) / total
    return dict(zip(PLANNED_METRICS, (density, 1 - density), strict=True))


class TrialContext:
    """The base of a trial, before any mask: its device, its data, and a function that builds its network."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dataset = data.load(trial.dataset, trial.data_root).to(self.device)
        self.training, self.validation = self.dataset.split(derive_seed(trial, "split"), trial.train_samples)

    def build(self, width: int | None, purpose: str = "weights") -> nn.Module:
        """Build the network of the trial, with initial weights from a seed for this purpose, on the device."""
        seed = derive_seed(self._trial, purpose)
        model = models.build(self._trial.model, self.dataset.input_shape, self.dataset.classes, width, seed)
        return model.to(self.device)


def find_trained_width(trial: Trial, metrics: dict[str, float]) -> int | None:
    """Return the width of the network that is trained: that of `small_dense` where the trial has it."""
    return int(metrics.get("dense_width", 0)) or trial.width


def _find_masks(
    trial: Trial,
    model: nn.Module,
    batches: Iterable[pruning.Batch],
    input_shape: tuple[int, ...],
    fetch_masks: Callable[[str], str | Path],
    pruning_cache: pruning.PruningCache | None,
) -> dict[str, Tensor]:
    masks = pruning.find_masks(
        model,
        batches,
        trial.method,
        trial.density,
        iterations=trial.iterations,
        schedule=trial.schedule,
        batches_per_step=trial.batches_per_step,
        loss=trial.saliency_loss,
        seed=derive_seed(trial, "mask"),
        invert=trial.invert,
        granularity=trial.granularity,
        layer_masks=pruning.load_masks(fetch_masks(trial.layers_from)) if trial.layers_from else None,
        options=trial.options,
        cache=pruning_cache,
    )
    if not trial.shuffle:
        return masks
    seed = derive_seed(trial, "shuffle")
    if trial.prunes_channels:
        return pruning.shuffle_channels(model, masks, input_shape, seed)
    return pruning.shuffled(masks, seed)


def _make_small_dense(
    trial: Trial, build: Callable[[int], nn.Module], pruned_metrics: dict[str, float], input_shape: tuple[int, ...]
) -> tuple[nn.Module, dict[str, Tensor], dict[str, float]]:
    """Build the dense network that is nearest to the pruned one in its number of weights, or of multiply-adds.

    Its densities and fractions are relative to the network that was pruned, so that both lie on one axis.
    """

    @cache
    def count_size(width: int) -> tuple[int, int]:
        model = build(width)
        weights = sum(weight.numel() for weight in pruning.prunable(model).values())
        return weights, sum(pruning.dense_macs(model, input_shape).values())

    full_width = trial.width or models.default_width(trial.model)
    full_weights, full_macs = count_size(full_width)
    size_index = 0 if trial.small_dense == "parameters" else 1
    budget = pruned_metrics["density"] * full_weights if size_index == 0 else pruned_metrics["macs"]
    first_above = bisect_left(range(1, full_width), budget, key=lambda width: count_size(width)[size_index]) + 1
    width = min([max(first_above - 1, 1), first_above], key=lambda width: abs(count_size(width)[size_index] - budget))
    model = build(width)
    masks = pruning.dense_masks(model)
    weights, macs = count_size(width)
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


def measure_pruned(prepared: PreparedTrial) -> dict[str, float]:
    """Call the user's `measure` on the pruned network, without its dead channels, and return its metrics.

    A function with further parameters gets by their names what `_find_further_arguments` has.
    """
    name, shape = str(prepared.task.measure), prepared.dataset.input_shape
    model = prepared.model
    example = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    device = _get_device(model)
    function = resolve(name, {}, "measure")
    further = _find_further_arguments(function, prepared)
    metrics = function(training.compact(model, prepared.masks, shape), example.to(device), **further)
    if reserved := [metric for metric in metrics if metric in METRICS]:
        raise InputError(
            f"measure: {name} returns {reserved[0]}, which forcetune measures itself; give it another name"
        )
    return {check_metric_name(metric): float(value) for metric, value in metrics.items()}


def _find_further_arguments(function: Callable[..., Any], prepared: PreparedTrial) -> dict[str, Any]:
    """Return the arguments of a user's `measure` for the parameters behind its first two, by their names.

    They are `dense` (the network before pruning), `network` (the pruned network at its full size) and `masks`.
    """
    try:
        names = [*inspect.signature(function).parameters][2:]
    except (TypeError, ValueError):  # of some functions written in C
        return {}
    available: dict[str, Callable[[], Any]] = {
        "dense": lambda: _build_dense(prepared),
        "network": lambda: prepared.model,
        "masks": lambda: prepared.masks,
    }
    return {name: available[name]() for name in names if name in available}


def _build_dense(prepared: PreparedTrial) -> nn.Module:
    """Build the network of a trial as it was before pruning, untrained, in eval mode, on the device."""
    trial, dataset = prepared.trial, prepared.dataset
    seed = derive_seed(trial, "weights")
    dense = models.build(trial.model, dataset.input_shape, dataset.classes, trial.width, seed)
    return dense.to(_get_device(prepared.model)).eval()


def _get_device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def derive_seed(trial: Trial, purpose: str) -> int:
    """Derive a seed for one purpose from a trial's seed, so that no purpose changes what another one draws.

    Args:
        trial: The trial.
        purpose: A name for what the seed draws.

    Returns:
        The first 7 bytes of the SHA-256 of the trial's seed and the purpose, as an integer.
    """
    return int.from_bytes(hashlib.sha256(f"{trial.seed} {purpose}".encode()).digest()[:7], "big")


class _CountedBatches:
    """Batches that count the samples taken from them."""

    def __init__(self, batches: Iterable[pruning.Batch]) -> None:
        self._batches = batches
        self.samples = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self._batches:
            self.samples += len(targets)
            yield inputs, targets
