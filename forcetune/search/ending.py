"""When a search ends before it has all its trials: its budget, its patience with a front that does not move, or
trials that fail."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial

from forcetune.analysis import hypervolume
from forcetune.search.ledger import TrialOutcome, counted, ends
from forcetune.spec import Budget, Study

EQUAL_FAILURES = 5  # failed trials in a row, with the same reason, that end a search without `max_failures`
SHARE_TRIALS = 10  # that have ended before a share of them says anything
NUMBER = re.compile(r"\d+([.,]\d+)*")  # sizes, epochs and attempts differ where the reason is the same


class FailureLimit:
    """Counts the failed trials of a search, and says when it is hopeless.

    The count begins anew once it has said so: whoever asks for the search again has mended the cause, and gets as many
    trials as before.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._trials = self._failed = self._row = 0
        self._reason = ""  # of the last trial that failed

    def ended(self, ended: TrialOutcome) -> str | None:
        """Count a trial that has ended, in the order of time; return why the search is hopeless, None if it is not."""
        self._trials += 1
        if ended.outcome == "failed":
            reason = ended.reason or "no reason is known"
            self._row = self._row + 1 if self._row and _kind(reason) == _kind(self._reason) else 1
            self._failed, self._reason = self._failed + 1, reason
        else:
            self._row = 0
        hopeless = self._judge() if ended.outcome == "failed" else None
        if hopeless:
            self._reset()
        return hopeless

    def _judge(self) -> str | None:
        if self._limit is None:
            if self._row < EQUAL_FAILURES:
                return None
            return f"the last {self._row} trials failed for the same reason: {self._reason}"
        is_share = isinstance(self._limit, float)
        borne = self._limit * self._trials if is_share else self._limit
        if (is_share and self._trials < SHARE_TRIALS) or self._failed <= borne:
            return None
        return (
            f"{self._failed} of {self._trials} trials failed, and `search.max_failures: {self._limit:g}` bears no "
            f"more; the last one: {self._reason}"
        )

    def _reset(self) -> None:
        self._trials = self._failed = self._row = 0


class StoppingCriterion:
    """Counts what is spent and what fails, and follows the hypervolume; `reason` says why no further trial is started.

    `failures` says the same where too many trials have failed: that reason does not outlive the driver.
    references: of the hypervolume, by objective; asked for where the study has a `patience`.
    """

    def __init__(self, study: Study, references: Mapping[str, float]) -> None:
        self._budget = study.search.budget
        self._patience = study.search.patience
        self._directions = study.directions
        self._references = references
        self._front: list[list[float]] = []
        self._volumes = [0.0]  # after each trial
        self._failure_limit = FailureLimit(study.search.max_failures)
        self.reason: str | None = None
        self.failures: str | None = None

    def take_up(self, trials: Iterable[TrialOutcome]) -> None:
        """Count the trials of earlier drivers, in the order of time; what they failed of is taken for mended."""
        for ended in trials:
            self.ended(ended)
        self.failures = None

    def ended(self, ended: TrialOutcome) -> None:
        """A trial has ended, in the order of time; once there is a reason to end there is one for ever."""
        failures = self._failure_limit.ended(ended)
        self.failures = self.failures or failures
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


def is_hopeless(study: Study, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether too many trials have failed, and no trial was started since that came out."""
    in_force = counted(trials)
    limit = FailureLimit(study.search.max_failures)
    reached = [ended.time or 0 for ended in by_time(in_force) if limit.ended(ended)]
    starts = [trial.datetime_start.timestamp() * 1000 for trial in in_force if trial.datetime_start]
    return bool(reached) and max(starts, default=0) <= reached[-1]


def _kind(reason: str) -> str:
    return NUMBER.sub("", reason)


def by_time(trials: Iterable[FrozenTrial]) -> list[TrialOutcome]:
    """Return what became of those trials that have ended, in the order of time."""
    return sorted(ends(trials), key=lambda ended: ended.time or 0)


def spent_by(trials: Iterable[TrialOutcome]) -> dict[str, float]:
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
