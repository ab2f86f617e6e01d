"""Skeletonization [Mozer and Smolensky 1988]: the least relevant channels of a trained network go, and it trains on."""

from forcetune.pruning.rules import Change, RuleState
from forcetune.pruning.saliency import gate_sensitivity
from forcetune.pruning.shrinking import ShrinkingRule


class Skeletonization(ShrinkingRule):
    """A rule that cuts the least relevant channels out of a network while it trains.

    The relevance of a channel is -dE/dc for a gate c = 1 on it, signed: the error that would come without the channel,
    to first order. E is the loss of the saliency, by default the linear error, the sum of |target - probability| over
    the outputs. The network first trains for half of the time until `settle_at`; in the other half, `iterations`
    changes at even distances leave as many channels as the schedule's densities allow, and the network trains on after
    each. The original cuts one unit at a time and trains until a criterion is met: with more iterations, fewer channels
    go at once.

    The relevances are those of the moment, over all batches of the change. The original, which sees one sample at a
    time, smooths them over time.
    """

    prunes_channels = True
    ranks_dead_weights = False  # a channel that was cut is not considered again

    @property
    def skipped_changes(self) -> int:  # type: ignore[override]
        """The changes that would come first at this distance, and are left out: the first half."""
        return self.plan.iterations

    def after_step(self, step: int, state: RuleState) -> Change:
        """Return the masks of the most relevant channels among those that are left."""
        assert state.channels
        relevances = -state.channels.sum_gates(state.score(gate_sensitivity))
        relevances[~state.channels.find_kept(state.masks)] = -float("inf")
        keep = state.channels.keep_within(relevances, self.count_after(step, state.total))
        return Change(state.channels.make_masks(keep))
