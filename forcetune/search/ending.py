"""When a search ends before it has all its trials: its budget, or its patience with a front that does not move."""

from collections.abc import Iterable, Mapping

import numpy as np

from forcetune.analysis import hypervolume
from forcetune.search.ledger import Ended
from forcetune.spec import Budget, Study


class Ending:
    """Counts what is spent and follows the hypervolume; `reason` says why no further trial is started.

    references: of the hypervolume, by objective; asked for where the study has a `patience`.
    """

    def __init__(self, study: Study, references: Mapping[str, float]) -> None:
        self._budget = study.search.budget
        self._patience = study.search.patience
        self._directions = study.directions
        self._references = references
        self._front: list[list[float]] = []
        self._volumes = [0.0]  # after each trial
        self.reason: str | None = None

    def ended(self, ended: Ended) -> None:
        """A trial has ended, in the order of time; once there is a reason to end there is one for ever."""
        if self._patience is None:
            return
        if ended.on_front and ended.values is not None:
            self._front.append(list(ended.values))
            volume = hypervolume(np.array(self._front), self._directions, self._references)
        else:
            volume = self._volumes[-1]
        self._volumes.append(volume)
        trials, gain = self._patience.trials, self._patience.gain
        if len(self._volumes) <= trials:
            return
        before = self._volumes[-1 - trials]
        grown = (volume - before) / before if before else float(volume > 0)
        if grown < gain:
            self.reason = self.reason or (
                f"patience: over {trials} trials the hypervolume grew by {grown:.2%}, less than {gain:.2%}"
            )

    def spent(self, hours: float, device_hours: float) -> None:
        """What the study has cost so far."""
        if self._budget is None:
            return
        for name, used in (("hours", hours), ("device_hours", device_hours)):
            allowed = getattr(self._budget, name)
            if allowed is not None and used >= allowed:
                self.reason = self.reason or f"budget: {name} {allowed:g} are used up"


def spent_by(trials: Iterable[Ended]) -> dict[str, float]:
    """The hours and device hours that a study had cost when the last of these trials ended."""
    told = [ended.record.get("spent", {}) for ended in trials]
    return {name: max((spent.get(name, 0.0) for spent in told), default=0.0) for name in Budget.model_fields}


def left_of(budget: Budget | None, spent: Mapping[str, float]) -> Budget | None:
    """What is left of a budget."""
    if budget is None:
        return None
    return Budget(
        **{name: max(hours - spent[name], 1e-9) for name, hours in budget.model_dump(exclude_none=True).items()}
    )
