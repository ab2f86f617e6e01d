"""The METHODS table and `find_masks`, the loop that turns a saliency and a schedule into masks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.errors import InputError
from forcetune.names import resolve
from forcetune.pruning.masks import Masks, keep_largest
from forcetune.pruning.network import Batch, Loss, Network, Weights, untouched
from forcetune.pruning.saliency import (
    connection_sensitivity,
    gradient_flow,
    magnitude,
    random,
    squared_gradient,
    synaptic_flow,
)
from forcetune.pruning.schedules import SCHEDULES, weight_counts


@dataclass(frozen=True)
class Method:
    """A saliency and a rule.

    score: from the network as it stands to a score a weight, high = keep
    iterative: scored and pruned in several steps along a schedule
    resurrect: a pruned weight may return at a later step
    data: reads batches
    mode: of the model while scoring (batch norm, dropout)
    """

    score: Callable[[Network], Weights]
    iterative: bool = False
    resurrect: bool = False
    data: bool = True
    mode: Literal["train", "eval"] = "train"


METHODS: dict[str, Method] = {
    "random": Method(random, data=False),
    "magnitude": Method(magnitude, data=False),
    "snip": Method(connection_sensitivity),
    "iter_snip": Method(connection_sensitivity, iterative=True),
    "force": Method(connection_sensitivity, iterative=True, resurrect=True),
    "grasp": Method(gradient_flow),
    "grasp_it": Method(squared_gradient, iterative=True),
    "synflow": Method(synaptic_flow, iterative=True, data=False, mode="eval"),
}

LOSSES: dict[str, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "nll_logits": functional.nll_loss,  # on raw logits, as the FORCE authors' scripts do
}


def method_row(name: str) -> Method:
    """The row of METHODS, or of the user's `package.module:object`: a Method, or a score function (one shot)."""
    found = resolve(name, METHODS, "method")
    return found if isinstance(found, Method) else Method(found)


def find_masks(
    model: nn.Module,
    batches: Iterable[Batch],
    method: str,
    density: float,
    iterations: int = 20,
    schedule: str = "exponential",
    batches_per_step: int = 1,
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
) -> Masks:
    """Prune a network at its initial weights: bool tensors by parameter name, in module order, True keeps.

    model: left exactly as it was: weights, gradients, buffers, mode; so is torch's random state
    batches: of (inputs, targets); every step takes the next `batches_per_step`, starting over at the end;
        may be empty where the method reads no data (synflow takes the shape of an input from the first)
    method: a row of METHODS or `package.module:object`
    density: fraction of the N prunable weights kept, 0 < density <= 1; exactly int(N * density) remain
    iterations, schedule: pruning steps and the density after each; one-shot methods ignore them
    loss: `cross_entropy`, `nll_logits`, or a function of (logits, targets) that returns the batch mean
    seed: what random methods draw from; the others draw nothing

    Raises InputError (a ValueError) for arguments out of range, a model without prunable layers, a density
    that keeps no weight, data missing or scores that are not finite.
    """
    steps = mask_steps(model, batches, method, density, iterations, schedule, batches_per_step, loss, seed)
    return deque(steps, maxlen=1).pop()


def mask_steps(
    model: nn.Module,
    batches: Iterable[Batch],
    method: str,
    density: float,
    iterations: int = 20,
    schedule: str = "exponential",
    batches_per_step: int = 1,
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
) -> Iterator[Masks]:
    """The masks after each pruning step; arguments as for `find_masks`, which returns the last of them.

    The model is as it was again once the iterator is used up or closed.
    """
    row = method_row(method)
    net = Network(model, loss if callable(loss) else resolve(loss, LOSSES, "loss"), seed)
    counts = _counts(net.total, density, iterations if row.iterative else 1, schedule, batches_per_step)
    with untouched(model), torch.enable_grad():
        feed = _Feed(batches)
        if not row.data:
            net.input_shape = feed.input_shape()
        model.train(row.mode == "train")
        for t, count in enumerate(counts, 1):
            net.batches = feed.take(batches_per_step, method) if row.data else ()
            scores = _flat(row.score(net), net, f"{method} step {t} of {len(counts)}")
            if not row.resurrect:
                scores = scores.masked_fill(~_flat_masks(net.masks), -torch.inf)
            net.masks = _like(keep_largest(scores, count), net.weights)
            yield net.masks


def _counts(total: int, density: float, iterations: int, schedule: str, batches_per_step: int) -> list[int]:
    if not 0 < density <= 1:
        raise InputError(f"density {density} is not a fraction of weights to keep; allowed: 0 < density <= 1")
    if iterations < 1 or batches_per_step < 1:
        raise InputError(f"iterations {iterations} and batches_per_step {batches_per_step}: each must be at least 1")
    if int(total * density) < 1:
        raise InputError(
            f"density {density} keeps none of the {total} prunable weights; allowed: at least {1 / total:.2g}"
        )
    return weight_counts(total, density, iterations, resolve(schedule, SCHEDULES, "schedule"))


class _Feed:
    """The batches in order, starting over at the end, through one iterator (restarting a loader is dear)."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        first = iter(batches)
        self._batches = cycle(first) if first is batches else self._again(first, batches)

    @staticmethod
    def _again(first: Iterator[Batch], batches: Iterable[Batch]) -> Iterator[Batch]:
        batch = None
        for batch in first:
            yield batch
        while batch is not None:
            batch = None  # a pass without a batch is the last: they do not come again
            for batch in batches:
                yield batch

    def take(self, count: int, method: str) -> list[Batch]:
        taken = list(islice(self._batches, count))
        if len(taken) < count:
            raise InputError(f"method {method!r} scores weights on data, and `batches` is empty")
        return taken

    def input_shape(self) -> tuple[int, ...] | None:
        first = next(self._batches, None)
        return None if first is None else tuple(first[0].shape[1:])


def _flat(scores: Weights, net: Network, where: str) -> Tensor:
    for name, weight in net.weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            raise InputError(f"{where}: the score of {name!r} must have the weight's shape {tuple(weight.shape)}")
        if not torch.isfinite(scores[name]).all():
            raise InputError(f"{where}: the scores of {name!r} are not finite")
    flat = torch.cat([scores[name].detach().flatten() for name in net.weights])
    return flat if flat.is_floating_point() else flat.double()  # whole numbers have no -inf for pruned weights


def _flat_masks(masks: Masks) -> Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


def _like(keep: Tensor, weights: Weights) -> Masks:
    parts = keep.split([weight.numel() for weight in weights.values()])
    return {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts, strict=True)}
