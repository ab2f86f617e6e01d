"""The METHODS table and `find_masks`, the loop that turns a saliency and a schedule into masks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from forcetune.errors import InputError
from forcetune.names import resolve
from forcetune.pruning.layers import (
    Rule,
    allocate,
    balanced,
    copied,
    erdos_renyi_kernel,
    smart_ratio,
    uniform,
    uniform_plus,
)
from forcetune.pruning.masks import Masks, keep_largest, layer_densities
from forcetune.pruning.network import Batch, Loss, Network, Weights, untouched
from forcetune.pruning.saliency import (
    connection_sensitivity,
    fisher,
    gradient_flow,
    hutchinson,
    magnitude,
    prospective,
    random,
    squared_gradient,
    synaptic_flow,
    training_dynamics,
)
from forcetune.pruning.schedules import SCHEDULES, weight_counts
from forcetune.pruning.trail import PruningCache
from forcetune.pruning.walks import biased_walks


@dataclass(frozen=True)
class Method:
    """A saliency and a rule.

    score: from the network as it stands, and the options, to a score a weight, high = keep
    iterative: scored and pruned in several steps along a schedule
    resurrect: a pruned weight may return at a later step
    data: reads batches
    mode: of the model while scoring (batch norm, dropout)
    pooled: its one step takes the batches that an iterative method would take in all of its steps
    layers: how many weights each layer keeps, where they are not ranked over all layers at once
    options: numbers that the score takes, with their defaults
    samples_per_class: of a saliency batch that holds every class equally often; 0: drawn from all samples
    """

    score: Callable[..., Weights]
    iterative: bool = False
    resurrect: bool = False
    data: bool = True
    mode: Literal["train", "eval"] = "train"
    pooled: bool = False
    layers: Rule | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    samples_per_class: int = 0

    @property
    def is_random(self) -> bool:
        """Whether chance alone says which weights of a layer are kept."""
        return self.score is random

    @property
    def uses_iterations(self) -> bool:
        """Whether the number of iterations changes what it does."""
        return self.iterative or self.pooled

    def batches(self, iterations: int, batches_per_step: int, options: Mapping[str, float]) -> int:
        """How many batches one step takes; ProsPr's inner steps have their own."""
        return batches_per_step * (iterations if self.pooled else 1) * (1 + int(options.get("inner_steps", 0)))


_GRASP = {"temperature": 200}

METHODS: dict[str, Method] = {
    "random": Method(random, data=False),
    "random_uniform": Method(random, data=False, layers=uniform),
    "random_erk": Method(random, data=False, layers=erdos_renyi_kernel),
    "random_balanced": Method(random, data=False, layers=balanced),
    "random_uniform_plus": Method(random, data=False, layers=uniform_plus),
    "random_smart": Method(random, data=False, layers=smart_ratio),
    "magnitude": Method(magnitude, data=False),
    "snip": Method(connection_sensitivity),
    "snip_mb": Method(connection_sensitivity, pooled=True),
    "snip_it": Method(connection_sensitivity, iterative=True, mode="eval"),
    "iter_snip": Method(connection_sensitivity, iterative=True),
    "force": Method(connection_sensitivity, iterative=True, resurrect=True),
    "grasp": Method(gradient_flow, options=_GRASP, samples_per_class=10),
    "grasp_mb": Method(gradient_flow, options=_GRASP, pooled=True),
    "grasp_it": Method(squared_gradient, iterative=True),
    "synflow": Method(synaptic_flow, iterative=True, data=False, mode="eval"),
    "prospr": Method(prospective, options={"inner_steps": 3, "inner_lr": 0.1}),
    "ntk_sap": Method(training_dynamics, iterative=True, data=False),
    "fisher": Method(fisher),
    "hutchinson": Method(hutchinson),
    "phew": Method(biased_walks, data=False, mode="eval"),
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
    *,
    invert: bool = False,
    layer_masks: Masks | None = None,
    options: Mapping[str, float] | None = None,
    trail: PruningCache | None = None,
) -> Masks:
    """Prune a network at its initial weights: bool tensors by parameter name, in module order, True keeps.

    model: left exactly as it was: weights, gradients, buffers, mode; so is torch's random state
    batches: of (inputs, targets); every step takes the next `batches_per_step`, starting over at the end;
        may be empty where the method reads no data (synflow, ntk_sap and phew take an input's shape from the first)
    method: a row of METHODS or `package.module:object`
    density: fraction of the N prunable weights kept, 0 < density <= 1; exactly int(N * density) remain
    iterations, schedule: pruning steps and the density after each; one-shot methods ignore them
    loss: `cross_entropy`, `nll_logits`, or a function of (logits, targets) that returns the batch mean
    seed: what the random methods, hutchinson, ntk_sap and phew draw from; the others draw nothing
    invert: keep the lowest scores
    layer_masks: another mask of the same network; each layer keeps its density, scaled to `density` over all
    options: numbers that the method's score takes, in place of its METHODS row's
    trail: of masks found before from the same weights and batches by the same method and all else that is given but
        density, schedule and an iterative method's iterations; steps that were taken for them are not taken again

    Raises InputError (a ValueError) for arguments out of range, a model without prunable layers, a density
    that keeps no weight, data missing or scores that are not finite.
    """
    steps = mask_steps(
        model,
        batches,
        method,
        density,
        iterations,
        schedule,
        batches_per_step,
        loss,
        seed,
        invert=invert,
        layer_masks=layer_masks,
        options=options,
        trail=trail,
    )
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
    *,
    invert: bool = False,
    layer_masks: Masks | None = None,
    options: Mapping[str, float] | None = None,
    trail: PruningCache | None = None,
) -> Iterator[Masks]:
    """The masks after each pruning step; arguments as for `find_masks`, which returns the last of them.

    The model is as it was again once the iterator is used up or closed.
    """
    row = method_row(method)
    net = Network(model, loss if callable(loss) else resolve(loss, LOSSES, "loss"), seed)
    counts = _counts(net.total, density, iterations if row.iterative else 1, schedule, batches_per_step)
    given = _options(row, method, options or {})
    taken = row.batches(iterations, batches_per_step, given)
    rule = row.layers if layer_masks is None else copied(layer_densities(layer_masks, net.weights))

    def score() -> Tensor:
        return _flat(row.score(net, **given), net, f"{method} step {t} of {len(counts)}")

    def keep(scores: Tensor) -> Masks:
        if invert:
            scores = -scores
        if not row.resurrect:
            scores = scores.masked_fill(~_flat_masks(net.masks), -torch.inf)
        return _keep(scores, net, rule, row.resurrect)

    # torch's quick kernels of attention have no second derivative, and on a GPU add up in any order
    with untouched(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        feed = _Feed(batches)
        if not row.data:
            net.input_shape = feed.input_shape()
        for t, net.count in enumerate(counts, 1):
            model.train(row.mode == "train")
            net.batches = feed.take(taken, method) if row.data else ()
            if trail is None:
                net.masks = keep(score())
            elif t == 1:
                net.masks = keep(trail.scores(net, score))
            else:
                net.masks = trail.masks(counts[:t], net, lambda: keep(score()))
            yield net.masks


def _options(row: Method, method: str, given: Mapping[str, float]) -> dict[str, float]:
    for name in given:
        if name not in row.options:
            allowed = f"allowed: {', '.join(row.options)}" if row.options else "it takes none"
            raise InputError(f"method {method!r} has no option {name!r}; {allowed}")
    return {**row.options, **given}


def _keep(scores: Tensor, net: Network, rule: Rule | None, resurrect: bool) -> Masks:
    """The `net.count` largest scores, over all layers or as many in each layer as the rule gives it."""
    if rule is None:
        return _like(keep_largest(scores, net.count), net.weights)
    shapes = [tuple(weight.shape) for weight in net.weights.values()]
    room = None if resurrect else [int(mask.sum()) for mask in net.masks.values()]
    counts = allocate(rule, shapes, net.count, room)
    parts = scores.split([weight.numel() for weight in net.weights.values()])
    return _like(torch.cat([keep_largest(part, k) for part, k in zip(parts, counts, strict=True)]), net.weights)


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
    flat = torch.cat([scores[name].detach().flatten() for name in net.weights])
    if not torch.isfinite(flat.sum()):  # quicker than to look at each, which a sum that overflows asks for
        for name in net.weights:
            if not torch.isfinite(scores[name]).all():
                raise InputError(f"{where}: the scores of {name!r} are not finite")
    return flat if flat.is_floating_point() else flat.double()  # whole numbers have no -inf for pruned weights


def _flat_masks(masks: Masks) -> Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


def _like(keep: Tensor, weights: Weights) -> Masks:
    parts = keep.split([weight.numel() for weight in weights.values()])
    return {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts, strict=True)}
