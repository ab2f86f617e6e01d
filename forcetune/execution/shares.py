"""A fair division of a cluster's slots among studies, by the claims that their drivers publish.

Ray gives a slot to the driver that asks first, and an actor that is kept for the next trial never asks again. Without
this division a second study would wait until the first one ends.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import floor
from typing import Self

from forcetune.execution.claim_board import CLAIM_INTERVAL_S, SharedBoard
from forcetune.study import Priority

log = logging.getLogger(__name__)

TURN_SLOT_SECONDS = 20.0  # by which a study must be behind another one before it takes that study's slot
MAX_OWED_SLOT_SECONDS = 3 * TURN_SLOT_SECONDS  # so that a study that could not get its share blocks nobody for long
SHARE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Claim:
    """The claim of one study on the slots of a cluster.

    Attributes:
        study: The claimant: a text that no other study on the cluster has, also where its name is the same.
        priority: Its priority.
        wants: The number of trials that the study would run at once.
        fits: The number of its trials that fit into the whole cluster.
        owed: The slot-seconds by which the study is behind its share.
        extra: Whether the study has a slot beyond the whole slots of its share; studies take that slot in turn.
    """

    study: str
    priority: Priority
    wants: int
    fits: int
    owed: float = 0.0
    extra: bool = False


@dataclass(frozen=True)
class Allocation:
    """The slots that a study is given.

    Attributes:
        share: The study's share, in slots; it may have a fraction.
        slots: The number of slots that the study has now.
        extra: Whether one of them is beyond the whole slots of its share.
    """

    share: float
    slots: int
    extra: bool


def allocate_slots(claims: Iterable[Claim]) -> dict[str, Allocation]:
    """Divide a cluster among the studies that claim slots.

    The studies of normal priority share the whole cluster in equal parts, those of low priority share what is left.
    A part is a fraction of the cluster. What a study does not want goes to the others (max-min fairness). Each study
    gets the whole slots of its share. The slots that remain go in turns to the studies that are owed most.

    Args:
        claims: One claim for each study.

    Returns:
        The allocation of each study that wants a slot and fits into the cluster, by its claimant.
    """
    free, allocations = 1.0, {}
    active = [claim for claim in claims if claim.wants > 0 and claim.fits > 0]
    for priority in ("normal", "low"):
        peers = [claim for claim in active if claim.priority == priority]
        shares = _compute_fair_shares(peers, free)
        for claim in peers:
            slots = floor(shares[claim.study] * claim.fits + SHARE_TOLERANCE)
            allocations[claim.study] = Allocation(shares[claim.study] * claim.fits, slots, False)
            free -= slots / claim.fits
        for claim in sorted(peers, key=lambda claim: (-claim.owed - TURN_SLOT_SECONDS * claim.extra, claim.study)):
            allocation = allocations[claim.study]
            if allocation.slots < min(claim.wants, claim.fits) and free >= 1 / claim.fits - SHARE_TOLERANCE:
                allocations[claim.study] = Allocation(allocation.share, allocation.slots + 1, True)
                free -= 1 / claim.fits
    return allocations


def _compute_fair_shares(claims: list[Claim], free: float) -> dict[str, float]:
    """Return the fraction of the cluster for each study: what it wants, at most an equal part of what is free."""
    shares = {}
    ordered = sorted(claims, key=lambda claim: claim.wants / claim.fits)
    for position, claim in enumerate(ordered):
        shares[claim.study] = max(min(claim.wants / claim.fits, free / (len(ordered) - position)), 0.0)
        free -= shares[claim.study]
    return shares


class ExclusiveSlots:
    """The slots of a study that has the cluster for itself.

    Args:
        max_trials: The largest number of trials that run at once.

    Attributes:
        slots: The number of slots that the study has now.
        contested: Whether other studies want slots, and so wait for those that this study holds beyond `slots`.
        fits: Whether the cluster has room for a trial.
    """

    def __init__(self, max_trials: int) -> None:
        self.slots = max_trials
        self.contested = False
        self.fits = True

    def set_claimant(self, claimant: str) -> None:
        """Ignore who claims the slots: no other study claims any."""

    def set_wanted(self, trials: int) -> None:
        """Ignore the number of trials that the study wants: no other study needs to know it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return


class FairShare(ExclusiveSlots):
    """A study's slots on a cluster that other studies may use too; a context manager while the study wants any.

    Args:
        priority: The priority of the study.
        max_trials: The largest number of trials that run at once; None for no limit.
        count_fitting: Returns the number of the study's trials for which the cluster has room. It is called again and
            again, since nodes come and go.
    """

    def __init__(self, priority: Priority, max_trials: int | None, count_fitting: Callable[[], int]) -> None:
        super().__init__(0)
        self._claimant = ""  # until the driver says which study it runs
        self._priority: Priority = priority
        self._max_trials = max_trials
        self._count_fitting = count_fitting
        self._wanted = max_trials or 10**6
        self._owed = 0.0
        self._allocation = Allocation(0, 0, False)
        self._updated = time.monotonic()
        self._board = SharedBoard()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def set_claimant(self, claimant: str) -> None:
        """Claim slots under this text, from the next entry of this context on.

        Args:
            claimant: A text that no other study on the cluster has. A later driver of the study has the same one, so
                that its claim takes the place of one that its dead predecessor left.
        """
        self._claimant = claimant

    def set_wanted(self, trials: int) -> None:
        """Claim slots for at most this number of trials, from the next claim on."""
        self._wanted = min(trials, self._max_trials or trials)

    def __enter__(self) -> Self:
        self._closed.clear()
        self._wanted = self._max_trials or 10**6  # the driver before this one wanted no more trials at its end
        self._updated = time.monotonic()
        self._try_update()
        self._thread = threading.Thread(target=self._update_periodically, name="shares", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._thread:
            self._thread.join(timeout=CLAIM_INTERVAL_S)
        with suppress(Exception):  # the cluster may be gone
            self._board.withdraw(self._claimant)

    def _update_periodically(self) -> None:
        while not self._closed.wait(CLAIM_INTERVAL_S):
            self._try_update()

    def _try_update(self) -> None:
        """Update the allocation; while Ray's head or the board is away the last one stays in force."""
        try:
            self._update()
        except Exception as error:  # any of Ray's
            log.debug("the claims of other studies cannot be read: %s", error)

    def _update(self) -> None:
        """Publish the study's claim, and take the slots that the claims of all studies leave to it."""
        now, fits = time.monotonic(), self._count_fitting()
        owed = self._owed + (now - self._updated) * (self._allocation.share - self._allocation.slots)
        owed = min(max(owed, -MAX_OWED_SLOT_SECONDS), MAX_OWED_SLOT_SECONDS)
        claim = Claim(self._claimant, self._priority, min(self._wanted, fits), fits, owed, self._allocation.extra)
        claims = self._board.exchange(self._claimant, asdict(claim))
        if claims is None:
            return
        self._owed, self._updated, self.fits = owed, now, fits > 0
        peers = [Claim(**peer) for peer in claims if peer["study"] != self._claimant]
        self.contested = any(peer.wants for peer in peers)
        if not self.contested:
            self._owed = 0.0
        allocation = allocate_slots([claim, *peers]).get(self._claimant, Allocation(0, 0, False))
        # where no trial fits, one slot lets a trial wait for a node
        self._allocation = allocation if fits else Allocation(0, min(self._wanted, 1), False)
        self.slots = self._allocation.slots
