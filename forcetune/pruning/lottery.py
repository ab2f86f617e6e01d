"""Iterative magnitude pruning, which finds lottery tickets: train, prune, rewind, and train again."""

from functools import cached_property

from forcetune.errors import InputError
from forcetune.pruning.rules import Change, RulePlan, RuleState
from forcetune.pruning.shrinking import ShrinkingRule


class LotteryTicket(ShrinkingRule):
    """Iterative magnitude pruning with rewinding [1803.03635, 1912.05671].

    The network is trained to the end of a level; the smallest weights of all layers are pruned; then the weights
    (`rewind: weights`) go back to their values after `rewind_step` steps, or the learning rate alone does
    (`rewind: learning_rate` [2003.02389]), and the next level trains the remaining steps. `iterations` is the number of
    prunings, so that there is one level more.
    """

    def __init__(self, plan: RulePlan) -> None:
        if plan.options["rewind_step"] >= plan.steps:
            raise InputError(
                f"rewind_step {plan.options['rewind_step']}: a level has {plan.steps} steps; "
                f"allowed: less than {plan.steps}"
            )
        super().__init__(plan)

    @property
    def levels(self) -> int:
        """The number of levels: one more than the prunings."""
        return self.plan.iterations + 1

    @property
    def rewind_step(self) -> int:
        """The step of the first level at which the later ones begin."""
        return int(self.plan.options["rewind_step"])

    @cached_property
    def event_steps(self) -> list[int]:
        """The steps at the ends of all levels but the last, counted over all levels."""
        later_steps = self.plan.steps - self.rewind_step
        return [self.plan.steps + level * later_steps for level in range(self.plan.iterations)]

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks of the largest weights of all layers, with the request to rewind."""
        return Change(self.prune(state.magnitudes, state, step), rewind=self.plan.options["rewind"])
