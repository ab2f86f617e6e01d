"""The interface of training rules, which change the masks of a network while it trains.

The loop owns the weights, the masks and the optimizer, and asks a rule after some steps. The rule decides and writes
nothing: its decision depends on the state that it is shown, the step and its plan alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from forcetune.errors import InputError
from forcetune.pruning.channels import NetworkChannels
from forcetune.pruning.masks import Masks, keep_largest, unflatten
from forcetune.pruning.network import Batch, Loss, Network, Weights, scoring
from forcetune.pruning.schedules import Schedule, cubic

Saliency = Callable[[Network], Weights]


@dataclass(frozen=True)
class RulePlan:
    """The request of a training to its rule.

    Attributes:
        density: The fraction of the prunable weights that the last change leaves, 0 < density <= 1.
        steps: The number of optimizer steps of the training, over all of its epochs; of a rule with levels, those of
            the first level.
        iterations: The number of changes, for rules that count them.
        schedule: The density after each of these changes.
        options: The numbers of the rule, by name.
    """

    density: float
    steps: int
    iterations: int = 20
    schedule: Schedule = cubic
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """The step of the last change: the option `settle_at` is its share of the training."""
        return int(self.get_option("settle_at") * self.steps)

    def get_option(self, name: str) -> Any:
        """Return an option.

        Raises:
            InputError: Neither the trial nor the rule has a value for it.
        """
        if name not in self.options:
            raise InputError(f"the rule needs a value for {name!r}; allowed: a default in the `options` of its class")
        return self.options[name]

    def list_interval_steps(self) -> list[int]:
        """Return the steps of the changes that come every `update_interval` steps, up to `last_step`.

        Raises:
            InputError: The training is too short for one of them.
        """
        interval = int(self.get_option("update_interval"))
        if interval > self.last_step:
            raise InputError(
                f"update_interval {interval}: no mask would change, since the training has {self.steps} steps and "
                f"changes masks until step {self.last_step} (settle_at {self.get_option('settle_at'):g}); allowed: "
                f"{f'at most {self.last_step}' if self.last_step else 'a longer training'}"
            )
        return list(range(interval, self.last_step + 1, interval))


@dataclass(frozen=True)
class RuleState:
    """The state of a training that a rule may read; all tensors have the shapes of the whole network.

    Attributes:
        weights: Parameter name to weight, in module order. Pruned weights are 0, except where the rule keeps dense
            weights.
        masks: Parameter name to bool tensor, the masks so far; True keeps.
        gradients: Parameter name to the gradient of the step's batch, pruned weights included; empty where the rule
            does not need it after this step.
        optimizer_state: A function that returns the optimizer's tensors of a weight, by their names in torch, for the
            weight's parameter name.
        score: A function that returns a saliency's scores, by parameter name, for the network as it is now, on batches
            that are drawn for this step.
        draw: A function of a parameter name that returns uniform random numbers in [0, 1) in the weight's shape. They
            depend on the trial's seed, the step and the name alone.
        channels: The channels that may be cut, where the rule prunes whole channels; None elsewhere.
    """

    weights: Weights
    masks: Masks
    gradients: Weights
    optimizer_state: Callable[[str], Mapping[str, Tensor]]
    score: Callable[[Saliency], Weights]
    draw: Callable[[str], Tensor]
    channels: NetworkChannels | None = None

    @property
    def total(self) -> int:
        """The number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def magnitudes(self) -> Weights:
        """The absolute values of the weights."""
        return {name: weight.abs() for name, weight in self.weights.items()}


@dataclass(frozen=True)
class Change:
    """A change of the masks.

    The loop carries it out. A weight that is pruned becomes 0, and so does its state in the optimizer. A weight that
    returns begins at 0, or with its dense value where the rule keeps dense weights.

    Attributes:
        masks: Parameter name to bool tensor, for every prunable weight; True keeps.
        rewind: What goes back to the rewinding point where a level begins: the `weights`, with biases, norms and their
            statistics, the data and the learning rate; or the `learning_rate` alone. The optimizer begins anew in both
            cases.
    """

    masks: Masks
    rewind: Literal["weights", "learning_rate"] | None = None


class TrainingRule:
    """A rule that changes the masks of a network while it trains.

    A subclass says after which steps it is asked (`event_steps`) and what the masks then become (`after_step`). Steps
    are counted from 1 to `plan.steps`; step 0 stands before the first one.

    Args:
        plan: What the training asks of the rule.

    Attributes:
        keeps_dense_weights: Whether pruned weights stay underneath and are trained: the network computes with
            weight * mask, and the gradient at that point moves all weights.
        may_regrow: Whether a pruned weight may return.
        prunes_channels: Whether whole channels are pruned, so that the last change leaves at most the weights of the
            density, and the network has channels to cut.
        ranks_dead_weights: Whether the decision depends on weights of channels that are dead. Such channels are cut out
            only after the last change, since their weights would otherwise stand still in place of decaying.
        options: The options that a rule of the user's own takes, with their defaults: any of `settle_at`,
            `update_interval`, `drop_fraction`, `rewind_step` and `rewind`.

    Raises:
        InputError: The plan cannot be carried out.
    """

    keeps_dense_weights = False
    may_regrow = False
    prunes_channels = False
    ranks_dead_weights = True
    options: Mapping[str, Any] = {}

    def __init__(self, plan: RulePlan) -> None:
        self.plan = plan
        steps = list(self.event_steps)
        if not steps or steps[0] < 0 or steps[-1] > self.total_steps:
            raise InputError(
                f"{type(self).__name__} changes the masks after the steps {_shorten(steps)}, but the training has "
                f"{self.total_steps} steps; allowed: at least one change, the last one within the training"
            )
        if steps != sorted({int(step) for step in steps}):
            raise InputError(
                f"event_steps of {type(self).__name__} are {_shorten(steps)}; allowed: whole numbers that rise"
            )
        level_ends = range(plan.steps, self.total_steps, max(plan.steps - self.rewind_step, 1))
        if self.levels > 1 and not {*steps} <= {*level_ends}:
            raise InputError(
                f"event_steps of {type(self).__name__} are {_shorten(steps)}; allowed: the ends of its levels, "
                f"{_shorten(list(level_ends))}"
            )

    @cached_property
    def event_steps(self) -> list[int]:
        """The steps after which the loop asks the rule, in order."""
        raise NotImplementedError

    def after_step(self, step: int, state: RuleState) -> Change | None:
        """Return the change after one of `event_steps`; None where nothing changes.

        Args:
            step: The number of steps so far; 0 before the first one.
            state: The state of the network.
        """
        raise NotImplementedError

    def needs_dense_gradient(self, step: int) -> bool:
        """Return whether the decision after this step reads the gradients of pruned weights too."""
        return False

    def replaces_step(self, step: int) -> bool:
        """Return whether the batch of this step only gives gradients, and moves no weight."""
        return False

    @property
    def levels(self) -> int:
        """The number of levels of the training; each but the first begins at `rewind_step`."""
        return 1

    @property
    def rewind_step(self) -> int:
        """The number of steps before the point from which the levels begin."""
        return 0

    @property
    def total_steps(self) -> int:
        """The number of steps of all levels."""
        return self.plan.steps + (self.levels - 1) * (self.plan.steps - self.rewind_step)

    @property
    def settled_step(self) -> int:
        """The step after which the masks stay as they are."""
        return self.event_steps[-1]


def _shorten(steps: Sequence[float]) -> str:
    return ", ".join(map(str, steps[:4])) + (f", ... {steps[-1]}" if len(steps) > 4 else "") or "none"


def keep_by_count(scores: Weights, count: int) -> Masks:
    """Return masks that keep the `count` largest scores over all layers; ties go to the lower index.

    Args:
        scores: Parameter name to scores.
        count: The number of weights to keep.
    """
    return unflatten(keep_largest(torch.cat([score.flatten() for score in scores.values()]), count), scores)


def score_network(
    model: torch.nn.Module, masks: Masks, batches: Sequence[Batch], saliency: Saliency, loss: Loss, seed: int
) -> Weights:
    """Return a saliency's scores for a network in eval mode, at its present weights and masks.

    The model, its statistics and torch's random state stay as they are.

    Args:
        model: The network.
        masks: Parameter name to bool tensor; True keeps.
        batches: The batches of (inputs, targets) that the saliency reads.
        saliency: The saliency.
        loss: A function of (logits, targets) that returns the batch mean.
        seed: The seed of what the saliency draws.

    Returns:
        Parameter name to scores.
    """
    net = Network(model, loss, seed)
    net.masks, net.batches = masks, batches
    with scoring(model):
        model.eval()
        return saliency(net)
