"""Training rules that keep the density of each layer, and exchange weights within it while the network trains."""

import math
from functools import cached_property

from torch import Tensor

from forcetune.pruning.masks import Masks, keep_largest
from forcetune.pruning.network import Weights
from forcetune.pruning.rules import Change, RuleState, TrainingRule


class _DropAndGrow(TrainingRule):
    """A rule that drops the smallest weights of each layer every `update_interval` steps and grows as many others.

    The share of the weights that is dropped falls with a cosine: drop_fraction / 2 * (1 + cos(pi t / T)) after step t,
    with T = `settle_at` * steps [1911.11134].
    """

    may_regrow = True

    @cached_property
    def event_steps(self) -> list[int]:
        """The steps after which the loop asks the rule, in order."""
        return self.plan.list_interval_steps()

    def fraction_after(self, step: int) -> float:
        """Return the share of each layer's weights that is dropped after a step."""
        first_fraction = float(self.plan.options["drop_fraction"])
        return first_fraction / 2 * (1 + math.cos(step * math.pi / self.plan.last_step))

    def _exchange(self, growth_scores: Weights, state: RuleState, step: int) -> Change:
        fraction = self.fraction_after(step)
        return Change(drop_and_grow(state.magnitudes, state.masks, growth_scores, fraction))


class RigL(_DropAndGrow):
    """RigL: weights with the largest gradients grow, and the exchange replaces a step of the optimizer [1911.11134]."""

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks after an exchange by the gradient of the step's batch."""
        return self._exchange({name: g.abs() for name, g in state.gradients.items()}, state, step)

    def needs_dense_gradient(self, step: int) -> bool:
        """Return whether the masks change after this step."""
        return step in self.event_steps

    def replaces_step(self, step: int) -> bool:
        """Return whether the masks change after this step."""
        return step in self.event_steps


class SparseEvolution(_DropAndGrow):
    """Sparse evolutionary training: random weights grow, after an ordinary step [1707.04780, as in 1911.11134]."""

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks after an exchange by random numbers."""
        return self._exchange({name: state.draw(name) for name in state.weights}, state, step)


def drop_and_grow(drop_scores: Weights, masks: Masks, growth_scores: Weights, fraction: float) -> Masks:
    """Return masks in which each layer keeps as many weights as before, and some of them are exchanged.

    In each layer the int(kept * fraction) weights with the lowest drop scores go. As many come back: those with the
    largest growth scores among all that are not kept, also a weight that was just dropped. Ties go to the lower index.

    Args:
        drop_scores: Parameter name to scores; a high score keeps a weight.
        masks: Parameter name to bool tensor, the masks so far.
        growth_scores: Parameter name to scores; a high score grows a weight.
        fraction: The share of the kept weights that is dropped, 0 to 1.
    """
    return {
        name: _exchange_in_layer(drop_scores[name], mask, growth_scores[name], fraction) for name, mask in masks.items()
    }


def _exchange_in_layer(drop_scores: Tensor, mask: Tensor, growth_scores: Tensor, fraction: float) -> Tensor:
    live = int(mask.sum())
    dropped = int(live * fraction)
    kept = keep_largest(drop_scores.masked_fill(~mask, -math.inf).flatten(), live - dropped).view(mask.shape)
    return kept | keep_largest(growth_scores.masked_fill(kept, -math.inf).flatten(), dropped).view(mask.shape)
