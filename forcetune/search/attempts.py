"""Attempts at trials: what they cost, and what follows where one is lost."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from forcetune.ledger.messages import Attempts, Cause, Proposal, TrialOutcome
from forcetune.search.ending import find_spent

FREE_NODE_LOSSES = 10  # lost nodes of a trial that do not count towards `retries`; a trial may be what kills them


@dataclass
class Running:
    """A trial that is with a worker."""

    proposal: Proposal
    attempts: Attempts
    static_metrics: Mapping[str, float] = field(default_factory=dict)  # once the worker has reported them
    device: str | None = None  # the name of its device, once the worker has reported it
    started_at: float | None = None  # the attempt's start on the monotonic clock; None while no worker has it


class Spending:
    """The cost of a study: that of earlier drivers, and that of this one from now on.

    Args:
        outcomes: The trials that earlier drivers have ended.
        uncharged: The hours and device hours, by name, that went into trials which the study's budget does not count.

    Attributes:
        devices: The devices of a trial that device hours count: its GPUs, or its cores where it has no GPU.
        device_hours: The device hours of all attempts that are over.
    """

    def __init__(self, outcomes: Iterable[TrialOutcome], uncharged: Mapping[str, float] | None = None) -> None:
        spent = find_spent(outcomes)
        self._uncharged = dict(uncharged or dict.fromkeys(spent, 0.0))
        self._at_last_end = spent
        self.devices = 1.0
        self.device_hours = spent["device_hours"]
        self._earlier_hours = spent["hours"]
        self._started_at = time.monotonic()

    @property
    def hours(self) -> float:
        """The hours that the study has been searched, by this driver and those before it."""
        return self._earlier_hours + (time.monotonic() - self._started_at) / 3600

    @property
    def charged(self) -> dict[str, float]:
        """The hours and device hours that count against the budget, by name."""
        spent = {"hours": self.hours, "device_hours": self.device_hours}
        return {name: value - self._uncharged[name] for name, value in spent.items()}

    def end_trial(self, charged: bool) -> dict[str, float]:
        """Return the hours and device hours so far, by name, for the record of a trial that ends.

        Args:
            charged: Whether the study's budget counts the trial, which costs what was spent since the last end.
        """
        spent = {"hours": self.hours, "device_hours": self.device_hours}
        if not charged:
            self._uncharged = {
                name: hours + spent[name] - self._at_last_end[name] for name, hours in self._uncharged.items()
            }
        self._at_last_end = spent
        return spent

    def count(self, running: Running) -> float:
        """Add the device hours of an attempt that is over, once, and return them."""
        if running.started_at is None:
            return 0.0
        device_hours = self.devices * (time.monotonic() - running.started_at) / 3600
        running.started_at = None
        self.device_hours += device_hours
        return device_hours


def plan_next_attempt(
    attempts: Attempts, cause: Cause, reason: str, retries: int, max_memory_factor: int
) -> Attempts | TrialOutcome:
    """Decide what follows where an attempt ended without its trial's end.

    An attempt that was lost with its node takes no retry, the first FREE_NODE_LOSSES times, and one that left its node
    after a notice takes none at all. An attempt that took too long ends the trial. After a lack of memory the next
    attempt gets twice as much, as far as a node has it.

    Args:
        attempts: The attempts so far.
        cause: Why the last one ended.
        reason: The same for the user, in words.
        retries: The number of lost attempts that a trial may have.
        max_memory_factor: The largest multiple of a trial's resources that a node can give.

    Returns:
        The attempts with which the trial is issued again, or its outcome where it has failed.
    """
    if cause == "leaving":
        return attempts
    if cause == "node" and attempts.lost_nodes < FREE_NODE_LOSSES:
        return replace(attempts, lost_nodes=attempts.lost_nodes + 1)
    if cause == "time":
        return TrialOutcome("failed", reason)
    if attempts.lost >= retries:
        return TrialOutcome("failed", f"{reason}; failed after {attempts.attempt} attempts")
    factor = attempts.room
    if cause == "memory":
        factor = min(2 * attempts.room, max(max_memory_factor, attempts.room))
        if factor == attempts.room:
            return TrialOutcome("failed", f"{reason}; no node has more memory for it")
    return replace(attempts, lost=attempts.lost + 1, room=factor)
