"""The METHODS table and `find_masks`, the loop that turns a saliency and a schedule into masks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice, pairwise
from typing import Any, Literal, TypedDict, Unpack

from torch import Tensor, nn
from torch.nn import functional

from forcetune.errors import InputError
from forcetune.names import resolve
from forcetune.pruning.cache import PruningCache
from forcetune.pruning.layers import (
    Rule,
    balanced,
    copied,
    erdos_renyi_kernel,
    smart_ratio,
    uniform,
    uniform_plus,
)
from forcetune.pruning.lottery import LotteryTicket
from forcetune.pruning.masks import Masks, layer_densities
from forcetune.pruning.network import Batch, Loss, Network, Weights, scoring
from forcetune.pruning.paths import path_exclusion
from forcetune.pruning.regrowth import RigL, SparseEvolution
from forcetune.pruning.rules import RulePlan, TrainingRule
from forcetune.pruning.saliency import (
    connection_sensitivity,
    fisher,
    gate_sensitivity,
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
from forcetune.pruning.selection import ChannelSelection, Selection, WeightSelection
from forcetune.pruning.shrinking import (
    DynamicFeedback,
    GradualMagnitude,
    ShrinkingRule,
    SnipItTraining,
    UniformGradualMagnitude,
)
from forcetune.pruning.skeletonization import Skeletonization
from forcetune.pruning.walks import biased_walks


@dataclass(frozen=True)
class Method:
    """A pruning method: a saliency and a rule.

    Attributes:
        score: A function that maps the network in its current state, and the options, to a score for each weight; a
            high score keeps the weight.
        iterative: Whether the method scores and prunes in several steps along a schedule.
        resurrect: Whether a pruned weight may return at a later step.
        data: Whether the method reads batches.
        loss: Whether a method that reads batches reads their targets too, with the loss.
        mode: The mode of the model while the method scores, which affects batch norm and dropout.
        uses_count: Whether the score depends on the number of weights to keep, too.
        pooled: Whether the single step takes the batches that an iterative method would take in all of its steps.
        layers: The rule for the number of weights that each layer keeps; None where weights are ranked over all layers.
        options: The numbers that the score takes, with their defaults.
        scores_gates: Whether the score is the derivative of the loss for a gate on each output of a layer; whole
            channels are pruned then.
        samples_per_class: The samples of each class in a saliency batch; 0 where they are drawn from all samples.
        rule: The rule that changes the masks while the network trains; None where they stay as they are.
        rule_options: The options that the rule takes, with their defaults.
        starts_dense: Whether the training begins with all weights, so that the rule alone prunes.
        has_levels: Whether the network is trained once more after each of `iterations` prunings.
        defaults: The defaults of a trial's fields with this method, where they differ from the fields' own.
    """

    score: Callable[..., Weights]
    iterative: bool = False
    resurrect: bool = False
    data: bool = True
    loss: bool = True
    mode: Literal["train", "eval"] = "train"
    uses_count: bool = False
    pooled: bool = False
    layers: Rule | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    scores_gates: bool = False
    samples_per_class: int = 0
    rule: Callable[[RulePlan], TrainingRule] | None = None
    rule_options: Mapping[str, Any] = field(default_factory=dict)
    starts_dense: bool = False
    has_levels: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_random(self) -> bool:
        """Return whether chance alone decides which weights of a layer are kept."""
        return self.score is random and self.rule is None

    @property
    def always_prunes_channels(self) -> bool:
        """Return whether the method prunes whole channels, whatever the granularity."""
        return self.scores_gates or getattr(self.rule, "prunes_channels", False)

    @property
    def uses_iterations(self) -> bool:
        """Return whether the number of iterations changes the masks."""
        return self.iterative or self.pooled

    @property
    def has_granularity(self) -> bool:
        """Return whether weights or whole channels may be pruned."""
        return self.rule is None and not self.scores_gates

    @property
    def uses_loss(self) -> bool:
        """Return whether the loss changes the masks."""
        return self.data and self.loss

    def batches(self, iterations: int, batches_per_step: int, options: Mapping[str, float]) -> int:
        """Return the number of batches that one step takes.

        Args:
            iterations: The number of pruning steps.
            batches_per_step: The batches of one step of an iterative method.
            options: The options of the score; each of ProsPr's `inner_steps` takes batches of its own.

        Returns:
            The number of batches.
        """
        return batches_per_step * (iterations if self.pooled else 1) * (1 + int(options.get("inner_steps", 0)))


GRANULARITIES = ("weight", "channel")
_GRASP_OPTIONS = {"temperature": 200}


def _gradual(rule: type[TrainingRule]) -> Method:
    return Method(
        magnitude,
        iterative=True,
        data=False,
        rule=rule,
        rule_options={"settle_at": 0.75},
        starts_dense=True,
        defaults={"schedule": "cubic"},
    )


def _exchanging(rule: type[TrainingRule]) -> Method:
    """Return a method that begins with a random mask at ERK densities, as RigL and SET do."""
    options = {"settle_at": 0.75, "update_interval": 100, "drop_fraction": 0.3}
    return Method(random, data=False, layers=erdos_renyi_kernel, rule=rule, rule_options=options)


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
    "grasp": Method(gradient_flow, options=_GRASP_OPTIONS, samples_per_class=10),
    "grasp_mb": Method(gradient_flow, options=_GRASP_OPTIONS, pooled=True),
    "grasp_it": Method(squared_gradient, iterative=True),
    "synflow": Method(synaptic_flow, iterative=True, data=False, mode="eval"),
    "prospr": Method(prospective, options={"inner_steps": 3, "inner_lr": 0.1}),
    "ntk_sap": Method(training_dynamics, iterative=True, data=False),
    "px": Method(path_exclusion, iterative=True, loss=False, mode="eval"),
    "fisher": Method(fisher),
    "hutchinson": Method(hutchinson),
    "magnitude_uniform": Method(magnitude, data=False, layers=uniform),
    "snap": Method(gate_sensitivity, mode="eval", scores_gates=True, defaults={"batches_per_step": 5}),
    "snap_it": Method(
        gate_sensitivity,
        iterative=True,
        mode="eval",
        scores_gates=True,
        defaults={"iterations": 7, "schedule": "halving", "batches_per_step": 5},
    ),
    "phew": Method(biased_walks, data=False, mode="eval", uses_count=True),
    "snip_it_training": Method(
        connection_sensitivity,
        iterative=True,
        mode="eval",
        rule=SnipItTraining,
        rule_options={"settle_at": 0.4},
        starts_dense=True,
        defaults={"iterations": 7, "schedule": "halving", "batches_per_step": 5},
    ),
    "gradual_magnitude": _gradual(GradualMagnitude),
    "gradual_magnitude_uniform": _gradual(UniformGradualMagnitude),
    "dpf": Method(
        magnitude,
        data=False,
        rule=DynamicFeedback,
        rule_options={"settle_at": 0.75, "update_interval": 16},
        starts_dense=True,
    ),
    "lottery": Method(
        magnitude,
        iterative=True,
        data=False,
        rule=LotteryTicket,
        rule_options={"rewind_step": 0, "rewind": "weights"},
        starts_dense=True,
        has_levels=True,
        defaults={"iterations": 5},
    ),
    "skeletonization": Method(
        gate_sensitivity,
        iterative=True,
        mode="eval",
        rule=Skeletonization,
        rule_options={"settle_at": 0.75},
        starts_dense=True,
        defaults={"batches_per_step": 5, "saliency_loss": "linear_error"},
    ),
    "rigl": _exchanging(RigL),
    "set": _exchanging(SparseEvolution),
}


def linear_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over the classes of |target - probability|, the mean over the samples."""
    one_hot = functional.one_hot(targets, logits.shape[1])
    return (one_hot - logits.softmax(1)).abs().sum(1).mean()


SALIENCY_LOSSES: dict[str, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "nll_logits": functional.nll_loss,  # on raw logits, as the FORCE authors' scripts do
    "linear_error": linear_error,
}


def method_row(name: str) -> Method:
    """Return the row of METHODS with this name, or the user's own method.

    Args:
        name: A row of METHODS, or `package.module:object`, which names a Method, a score function or a TrainingRule.

    Returns:
        The method. A score function becomes a one-shot method, a subclass of TrainingRule a method that begins dense.

    Raises:
        InputError: There is no such row or object.
    """
    row = resolve(name, METHODS, "method")
    if isinstance(row, type) and issubclass(row, TrainingRule):
        is_counted = issubclass(row, ShrinkingRule)
        return Method(
            magnitude, iterative=is_counted, data=False, rule=row, rule_options=row.options, starts_dense=True
        )
    return row if isinstance(row, Method) else Method(row)


class PruningArguments(TypedDict, total=False):
    """The arguments that `find_masks` and `mask_steps` take by keyword; `find_masks` describes them."""

    iterations: int
    schedule: str
    batches_per_step: int
    loss: str | Loss
    seed: int
    invert: bool
    granularity: Literal["weight", "channel"]
    layer_masks: Masks | None
    options: Mapping[str, float] | None
    cache: PruningCache | None


def find_masks(
    model: nn.Module, batches: Iterable[Batch], method: str, density: float, **arguments: Unpack[PruningArguments]
) -> Masks:
    """Prune a network at its initial weights.

    The model is left exactly as it was: weights, gradients, buffers and mode; so is torch's random state.

    Args:
        model: The network at its initial weights.
        batches: Batches of (inputs, targets). Every step takes the next `batches_per_step` of them and starts over at
            the end. May be empty where the method reads no data; synflow, ntk_sap and phew, and whole channels, take
            the shape of an input from the first batch.
        method: A row of METHODS or `package.module:object`. The defaults that a row sets for a trial, as the 7 steps of
            `snap_it`, are no defaults here.
        density: The fraction of the N prunable weights to keep, 0 < density <= 1; exactly int(N * density) remain, or
            at most as many where whole channels are pruned.
        **arguments: Any of these, by keyword:

            - `iterations`: The number of pruning steps, at least 1 (20); a one-shot method takes one step, a pooled one
              with the batches of all of them.
            - `schedule`: The density after each step, a row of SCHEDULES or `package.module:function` (`exponential`);
              one-shot methods ignore it.
            - `batches_per_step`: The number of batches that a step takes, at least 1 (1).
            - `loss`: `cross_entropy`, `nll_logits`, `package.module:function`, or a function of (logits, targets) that
              returns the batch mean (`cross_entropy`).
            - `seed`: The seed of the random methods, hutchinson, ntk_sap and phew (0); the other methods draw nothing.
            - `invert`: Whether to keep the lowest scores (False).
            - `granularity`: What is pruned: each `weight` for itself, or a whole `channel` (`weight`). The score of a
              channel is the sum of the scores of the weights that compute it; `snap` and `snap_it` always prune
              channels. At most int(N * density) weights then remain.
            - `layer_masks`: Masks of the same network (None); each layer keeps its density in them, scaled to `density`
              over all layers. Of channels, each layer keeps its number of channels in them.
            - `options`: Numbers that the method's score takes, in place of those of its METHODS row (None).
            - `cache`: A cache of the steps of earlier calls (None). They must have the same weights, batches, method
              and other arguments, except density, schedule and an iterative method's iterations. Steps in the cache are
              not computed again.

    Returns:
        Parameter name to bool tensor of the parameter's shape, in module order; True keeps the weight.

    Raises:
        InputError: An argument is out of range, the model has no prunable layer, the density keeps no weight or less
            than a channel a layer, data are missing, scores are not finite, or the channels of the network cannot be
            traced. InputError is a ValueError.
    """
    return deque(mask_steps(model, batches, method, density, **arguments), maxlen=1).pop()


def mask_steps(
    model: nn.Module,
    batches: Iterable[Batch],
    method: str,
    density: float,
    *,
    iterations: int = 20,
    schedule: str = "exponential",
    batches_per_step: int = 1,
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
    invert: bool = False,
    granularity: Literal["weight", "channel"] = "weight",
    layer_masks: Masks | None = None,
    options: Mapping[str, float] | None = None,
    cache: PruningCache | None = None,
) -> Iterator[Masks]:
    """Yield the masks after each pruning step.

    The arguments are those of `find_masks`, which returns the last of these masks. The model is restored once the
    iterator is used up or closed.

    Yields:
        Parameter name to bool tensor of the parameter's shape, in module order; True keeps the weight.

    Raises:
        InputError: The reasons are those of `find_masks`.
    """
    row = method_row(method)
    if row.starts_dense and density < 1:
        raise InputError(
            f"method {method!r} prunes while the network trains: it has no masks of density {density} before that; "
            "allowed: a trial or a search with this method, or a method that prunes at initialization"
        )
    net = Network(model, loss if callable(loss) else resolve(loss, SALIENCY_LOSSES, "loss"), seed)
    counts = _kept_counts(net.total, density, iterations if row.iterative else 1, schedule, batches_per_step)
    if not row.resurrect:
        _check_no_rise([net.total, *counts], schedule, method)
    score_options = _merge_options(row, method, options or {})
    batch_count = row.batches(iterations, batches_per_step, score_options)
    selection = _make_selection(net, row, granularity, invert, layer_masks)

    def score() -> Tensor:
        kept, net.masks = net.masks, selection.scoring_masks
        scores = selection.flatten(row.score(net, **score_options), f"{method} step {t} of {len(counts)}")
        net.masks = kept
        return scores

    with scoring(model):
        feed = _BatchFeed(batches)
        if not row.data:
            net.input_shape = feed.input_shape()
        for t, net.count in enumerate(counts, 1):
            model.train(row.mode == "train")
            if row.data:
                net.batches = feed.take(batch_count, method)
                net.input_shape = tuple(net.batches[0][0].shape[1:])
            if cache is None:
                net.masks = selection.keep(score())
            elif t == 1 and not row.uses_count:
                net.masks = selection.keep(cache.find_or_compute((), net, score))
            else:
                net.masks = cache.find_or_compute(counts[:t], net, lambda: selection.keep(score()))
            yield net.masks


def _make_selection(net: Network, row: Method, granularity: str, invert: bool, layer_masks: Masks | None) -> Selection:
    if granularity not in GRANULARITIES:
        raise InputError(f"granularity {granularity!r} is not what is pruned; allowed: {', '.join(GRANULARITIES)}")
    if granularity == "weight" and not row.scores_gates:
        layers = row.layers if layer_masks is None else copied(layer_densities(layer_masks, net.weights))
        return WeightSelection(net, layers, invert, row.resurrect)
    return ChannelSelection(
        net,
        row.layers,
        invert,
        row.resurrect,
        layer_masks=layer_masks,
        scores_gates=row.scores_gates,
        is_random=row.is_random,
    )


def _merge_options(row: Method, method: str, options: Mapping[str, float]) -> dict[str, float]:
    for name in options:
        if name not in row.options:
            allowed = f"allowed: {', '.join(row.options)}" if row.options else "this method has no options"
            raise InputError(f"method {method!r} has no option {name!r}; {allowed}")
    return {**row.options, **options}


def _kept_counts(total: int, density: float, iterations: int, schedule: str, batches_per_step: int) -> list[int]:
    if not 0 < density <= 1:
        raise InputError(f"density {density} is not a fraction of weights to keep; allowed: 0 < density <= 1")
    if iterations < 1 or batches_per_step < 1:
        raise InputError(f"iterations {iterations} and batches_per_step {batches_per_step}: each must be at least 1")
    if int(total * density) < 1:
        raise InputError(
            f"density {density} keeps none of the {total} prunable weights; allowed: at least {1 / total:.2g}"
        )
    return weight_counts(total, density, iterations, resolve(schedule, SCHEDULES, "schedule"))


def _check_no_rise(counts: list[int], schedule: str, method: str) -> None:
    """Raise InputError where a schedule of the user's own would bring weights back."""
    for before, after in pairwise(counts):
        if before < after:
            raise InputError(
                f"schedule {schedule!r} keeps {before} weights and {after} after the next step, but {method!r} brings "
                "no weight back; allowed: densities that never rise"
            )


class _BatchFeed:
    """An endless sequence of the batches, in order and from one iterator where possible.

    To restart a loader for each step would be slow.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = cycle(batches) if isinstance(batches, Iterator) else self._repeat(batches)

    @staticmethod
    def _repeat(batches: Iterable[Batch]) -> Iterator[Batch]:
        has_batch = True
        while has_batch:
            has_batch = False  # a pass that yields no batch is the last: the iterable is empty or used up
            for batch in batches:
                has_batch = True
                yield batch

    def take(self, count: int, method: str) -> list[Batch]:
        taken = list(islice(self._batches, count))
        if len(taken) < count:
            raise InputError(f"method {method!r} needs data to score weights, but `batches` is empty")
        return taken

    def input_shape(self) -> tuple[int, ...] | None:
        batch = next(self._batches, None)
        return None if batch is None else tuple(batch[0].shape[1:])
