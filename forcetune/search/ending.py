"""Criteria that end a search before it has all its trials: a budget, patience with the front, failed trials."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial

from forcetune.analysis import hypervolume
from forcetune.ledger.messages import TrialOutcome
from forcetune.ledger.trials import read_outcomes, select_counted
from forcetune.study import Budget, Study

MAX_EQUAL_FAILURES = 5  # in a row, with the same reason: they end a search without `max_failures`
MIN_TRIALS_FOR_SHARE = 10  # that must have ended before a share of them is judged
LEAST_BUDGET_HOURS = 1e-9  # where nothing is left: a budget is above 0
NUMBER_PATTERN = re.compile(r"\d+([.,]\d+)*")  # sizes, epochs and attempts differ where the reason is the same


class FailureLimit:
    """A counter of the failed trials of a search, which decides when the search is hopeless.

    Then the count begins anew: a user who starts the search again has mended the cause, and gets as many trials as
    before.

    Args:
        limit: The field `search.max_failures`: a number of trials (int), a share of them (float), or None for
            MAX_EQUAL_FAILURES in a row.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._trials = self._failed = self._equal_failures = 0
        self._reason = ""  # of the last trial that failed

    def add(self, outcome: TrialOutcome) -> str | None:
        """Count a trial that has ended; call it in the order of time.

        Returns:
            Why the search is hopeless, None where it is not.
        """
        self._trials += 1
        if outcome.outcome != "failed":
            self._equal_failures = 0
            return None
        reason = outcome.reason or "unknown reason"
        is_equal = self._equal_failures > 0 and _strip_numbers(reason) == _strip_numbers(self._reason)
        self._equal_failures = self._equal_failures + 1 if is_equal else 1
        self._failed, self._reason = self._failed + 1, reason
        hopeless = self._judge()
        if hopeless:
            self._trials = self._failed = self._equal_failures = 0
        return hopeless

    def _judge(self) -> str | None:
        if self._limit is None:
            if self._equal_failures < MAX_EQUAL_FAILURES:
                return None
            return f"the last {self._equal_failures} trials failed for the same reason: {self._reason}"
        is_share = isinstance(self._limit, float)
        allowed = self._limit * self._trials if is_share else self._limit
        if (is_share and self._trials < MIN_TRIALS_FOR_SHARE) or self._failed <= allowed:
            return None
        return (
            f"{self._failed} of {self._trials} trials failed, more than `search.max_failures: {self._limit:g}` allows; "
            f"the last failure: {self._reason}"
        )


class StoppingCriterion:
    """The criterion by which a search starts no further trial.

    Args:
        study: The study, with its budget, its patience and its limit of failures.
        references: The reference point of the hypervolume, by objective; used where the study has a `patience`.

    Attributes:
        reason: Why the search has ended by its budget or its patience, None where it has not; once set it stays.
        failure_reason: Why the search has ended by its failed trials, None where it has not; a later driver starts
            without it.
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
        self.failure_reason: str | None = None

    def restore(self, outcomes: Iterable[TrialOutcome]) -> None:
        """Count the trials of earlier drivers, in the order of time; the cause of their failures counts as mended."""
        for outcome in outcomes:
            self.add(outcome)
        self.failure_reason = None

    def add(self, outcome: TrialOutcome) -> None:
        """Count a trial that has ended; call it in the order of time."""
        failure_reason = self._failure_limit.add(outcome)
        self.failure_reason = self.failure_reason or failure_reason
        if self._patience is None:
            return
        if outcome.on_front and outcome.values is not None:
            self._front.append(list(outcome.values))
            volume = hypervolume(np.array(self._front), self._directions, self._references)
        else:
            volume = self._volumes[-1]
        self._volumes.append(volume)
        trials, gain = self._patience.trials, self._patience.gain
        if len(self._volumes) <= trials:
            return
        before = self._volumes[-1 - trials]
        growth = (volume - before) / before if before else float(volume > 0)
        if growth < gain:
            self.reason = self.reason or (
                f"over {trials} trials the hypervolume grew by {growth:.2%}, less than `patience` requires ({gain:.2%})"
            )

    def set_spent(self, hours: float, device_hours: float) -> None:
        """Compare what the study has cost so far, in hours and device hours, with its budget."""
        if self._budget is None:
            return
        for name, spent in (("hours", hours), ("device_hours", device_hours)):
            allowed = getattr(self._budget, name)
            if allowed is not None and spent >= allowed:
                self.reason = self.reason or f"the budget of {allowed:g} {name.replace('_', ' ')} is used up"


def is_hopeless(study: Study, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether too many trials have failed, and no trial was started since the search was found hopeless.

    Args:
        study: The study, with its `search.max_failures`.
        trials: All its trials in the ledger.
    """
    counted_trials = select_counted(trials)
    limit = FailureLimit(study.search.max_failures)
    times = [outcome.time or 0 for outcome in list_outcomes(counted_trials) if limit.add(outcome)]
    starts = [trial.datetime_start.timestamp() * 1000 for trial in counted_trials if trial.datetime_start]
    return bool(times) and max(starts, default=0) <= times[-1]


def _strip_numbers(reason: str) -> str:
    return NUMBER_PATTERN.sub("", reason)


def list_outcomes(trials: Iterable[FrozenTrial]) -> list[TrialOutcome]:
    """Return the outcomes of the trials that have ended, in the order of time."""
    return sorted(read_outcomes(trials), key=lambda outcome: outcome.time or 0)


def find_spent(outcomes: Iterable[TrialOutcome]) -> dict[str, float]:
    """Return the hours and device hours that a study had cost when the last of these trials ended, by name."""
    records = [outcome.record.get("spent", {}) for outcome in outcomes]
    return {name: max((spent.get(name, 0.0) for spent in records), default=0.0) for name in Budget.model_fields}


def find_uncharged(trials: Iterable[FrozenTrial], is_charged: Callable[[Mapping[str, str]], bool]) -> dict[str, float]:
    """Return the hours and device hours that went into trials which a budget does not count, by name.

    A record has what the study had cost when its trial ended. The cost of a trial is the growth since the end of the
    trial before it, what attempts cost that ended without an outcome included.

    Args:
        trials: All trials of the study in the ledger.
        is_charged: Returns whether the budget counts a trial with these tags.
    """
    spent_by_trial = [
        (outcome.record["spent"], is_charged(trial.user_attrs.get("marks", {})))
        for trial in trials
        for outcome in read_outcomes([trial])
        if "spent" in outcome.record
    ]
    before = uncharged = dict.fromkeys(Budget.model_fields, 0.0)
    for spent, charged in sorted(spent_by_trial, key=lambda entry: entry[0]["hours"]):
        if not charged:
            uncharged = {name: hours + spent[name] - before[name] for name, hours in uncharged.items()}
        before = spent
    return uncharged


def compute_budget_left(budget: Budget | None, spent: Mapping[str, float]) -> Budget | None:
    """Return what is left of a budget, None where there is no budget.

    Args:
        budget: The budget, in hours and device hours.
        spent: What is spent already, as `find_spent` returns it.
    """
    if budget is None:
        return None
    return Budget(
        **{
            name: max(hours - spent[name], LEAST_BUDGET_HOURS)
            for name, hours in budget.model_dump(exclude_none=True).items()
        }
    )
