"""The weights that a driver writes: `search.keep` would keep them if the search ended now."""

import numpy as np

from forcetune.analysis.keeping import UNJUDGED_RANKS, compute_losses, select_objectives, select_ranks
from forcetune.ledger.messages import TrialOutcome
from forcetune.names import COMPANION
from forcetune.study import Study


class KeptWeights:
    """The rule by which the weights of a trial are written when it ends.

    A trial that other trials dominate stays dominated: its weights are never written. Those that are written are
    deleted by `marking.mark_front` once the table says that they are no longer kept. Companions keep none.

    Args:
        study: The study.

    Attributes:
        keep: The field `search.keep`; `none` for a companion.
        has_seeds: Whether the study has `search.seeds`.
    """

    def __init__(self, study: Study) -> None:
        self.keep = "none" if study.study.endswith(COMPANION) else study.search.keep
        self.has_seeds = study.search.seeds is not None
        self._names = list(study.objectives)
        self._judged = select_objectives(study.directions, self.keep)
        self._losses = np.empty((0, len(self._judged)))  # of the trials in the first ranks

    def add(self, outcome: TrialOutcome) -> bool:
        """Add the outcome of a trial, and return whether its weights are kept."""
        if not outcome.on_front or outcome.values is None or self.keep == "none":
            return False
        if self.keep == "all":
            return True
        values = dict(zip(self._names, outcome.values, strict=True))
        row = compute_losses(np.array([[values[name] for name in self._judged]]), self._judged)
        losses = np.concatenate([self._losses, row])
        kept = select_ranks(losses, UNJUDGED_RANKS if self.has_seeds else 1)
        self._losses = np.unique(losses[kept], axis=0)
        return bool(kept[-1])
