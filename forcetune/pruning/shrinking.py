"""Training rules that prune a dense network little by little while it trains."""

import math
from functools import cached_property

from forcetune.errors import InputError
from forcetune.pruning.layers import allocate, uniform
from forcetune.pruning.masks import Masks, keep_by_layer
from forcetune.pruning.network import Weights
from forcetune.pruning.rules import Change, RuleState, TrainingRule, keep_by_count
from forcetune.pruning.saliency import connection_sensitivity
from forcetune.pruning.schedules import cubic


class ShrinkingRule(TrainingRule):
    """A rule whose masks only shrink, in `iterations` changes at even distances; the last one is at `settle_at`."""

    skipped_changes = 0  # the changes that would come first at this distance, and are left out

    @cached_property
    def event_steps(self) -> list[int]:
        """The steps after which the loop asks the rule, in order."""
        plan = self.plan
        gaps = plan.iterations + self.skipped_changes
        if gaps > plan.last_step:
            most = plan.last_step - self.skipped_changes
            raise InputError(
                f"iterations {plan.iterations}: the training has {plan.steps} steps and changes masks until step "
                f"{plan.last_step} (settle_at {plan.options['settle_at']:g}), at most once a step; allowed: "
                f"{f'at most {most}' if most > 0 else 'a longer training'}"
            )
        return [plan.last_step * change // gaps for change in range(self.skipped_changes + 1, gaps + 1)]

    def count_after(self, step: int, total: int) -> int:
        """Return the number of weights that remain after a step, of `total` weights.

        Args:
            step: One of `event_steps`.
            total: The number of prunable weights.
        """
        plan, change = self.plan, self.event_steps.index(step) + 1
        density = plan.density if step == self.settled_step else plan.schedule(plan.density, change, plan.iterations)
        return int(total * density)

    def prune(self, scores: Weights, state: RuleState, step: int) -> Masks:
        """Return the masks of the largest scores among the weights that are left.

        Args:
            scores: Parameter name to scores.
            state: The state of the training.
            step: One of `event_steps`.
        """
        return keep_by_count(_only_live(scores, state.masks), self.count_after(step, state.total))


class GradualMagnitude(ShrinkingRule):
    """Gradual magnitude pruning: the smallest weights of all layers go, and none returns [1710.01878].

    With the schedule `cubic` the density after change j of n is 1 - (1 - density)(1 - (1 - j/n)^3).
    """

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks of the largest weights of all layers."""
        return Change(self.prune(state.magnitudes, state, step))


class UniformGradualMagnitude(ShrinkingRule):
    """Gradual magnitude pruning as published: every layer has the density of the whole network [1710.01878]."""

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks of the largest weights of each layer."""
        shapes = [tuple(weight.shape) for weight in state.weights.values()]
        live = [int(state.masks[name].sum()) for name in state.weights]  # by rounding, a layer could be given more
        counts = allocate(uniform, shapes, min(self.count_after(step, state.total), sum(live)), live)
        return Change(keep_by_layer(_only_live(state.magnitudes, state.masks), counts))


class SnipItTraining(ShrinkingRule):
    """SNIP-it during training: connection sensitivity at the trained weights, and no weight returns [2006.00896].

    With 7 iterations, the schedule `halving` and `settle_at` 0.4, the changes come after 0.10, 0.15, ... 0.40 of the
    training: in the authors' example of 80 epochs an epoch before theirs.
    """

    skipped_changes = 1
    ranks_dead_weights = False  # their gradients are 0, and so are their scores

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks of the weights with the largest |weight * gradient|."""
        return Change(self.prune(state.score(connection_sensitivity), state, step))


class DynamicFeedback(TrainingRule):
    """Dynamic pruning with feedback: masks are drawn anew from dense weights, which go on training [2006.07253].

    Every `update_interval` steps the largest of all weights are kept, at the density
    1 - (1 - density)(1 - (1 - t/R)^3) after step t, with R = `settle_at` * steps. The network computes with
    weight * mask; the gradient at that point moves all weights, so a pruned weight may grow and return.
    """

    keeps_dense_weights = True
    may_regrow = True

    @cached_property
    def event_steps(self) -> list[int]:
        """The steps after which the loop asks the rule, in order."""
        return sorted({*self.plan.list_interval_steps(), self.plan.last_step})

    def count_after(self, step: int, total: int) -> int:
        """Return the number of weights that remain after a step, of `total` weights."""
        density, last_step = self.plan.density, self.plan.last_step
        return int(total * (density if step >= last_step else cubic(density, step, last_step)))

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks of the largest dense weights of all layers."""
        return Change(keep_by_count(state.magnitudes, self.count_after(step, state.total)))


def _only_live(scores: Weights, masks: Masks) -> Weights:
    """Return the scores with minus infinity for pruned weights, so that none of them is kept."""
    return {name: score.masked_fill(~masks[name], -math.inf) for name, score in scores.items()}
