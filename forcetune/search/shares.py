"""How many trials of a study run at once where others want the same cluster: each driver tells what it wants.

Ray gives a slot to whoever asks first, and an actor that is kept for the next trial never asks again, so a second
study would wait for the first one's end.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import floor
from types import TracebackType
from typing import Self

from forcetune.spec import Priority

EVERY = 2.0  # seconds between two looks at the others
GONE = 15.0  # after which a driver that says nothing is taken for dead
TURN = 20.0  # slot-seconds by which a study must be behind another before it takes its slot
MOST_OWED = 3 * TURN  # so that nobody waits long for one that could not be given its share
SPACE = "forcetune"  # in Ray's key-value store
TINY = 1e-9


@dataclass(frozen=True)
class Claim:
    """What a study says of itself.

    wants: trials that it would run at once; fits: trials of its that fit into the whole cluster; owed: slot-seconds
    that it has had less than its share; extra: whether it has a slot beyond the whole ones of its share, which
    studies take in turn; time: when this was said, in seconds since 1970.
    """

    study: str
    priority: Priority
    wants: int
    fits: int
    owed: float = 0.0
    extra: bool = False
    time: float = 0.0


@dataclass(frozen=True)
class Allocation:
    """Slots of a study: its share, as a number with a fraction, and how many it has now."""

    share: float
    slots: int
    extra: bool


def allot(claims: Iterable[Claim]) -> dict[str, Allocation]:
    """Divide a cluster: all of it to those of normal priority in equal parts, what they leave to those of low.

    A part is a fraction of the cluster; what one does not want goes to the others [max-min fairness]. Of each share
    the whole slots are given, and what is left over in turns, to those who are owed most.
    """
    left, found = 1.0, {}
    wanted = [claim for claim in claims if claim.wants > 0 and claim.fits > 0]
    for priority in ("normal", "low"):
        asking = [claim for claim in wanted if claim.priority == priority]
        shares = _fair(asking, left)
        for claim in asking:
            whole = floor(shares[claim.study] * claim.fits + TINY)
            found[claim.study] = Allocation(shares[claim.study] * claim.fits, whole, False)
            left -= whole / claim.fits
        for claim in sorted(asking, key=lambda claim: (-claim.owed - TURN * claim.extra, claim.study)):
            given = found[claim.study]
            if given.slots < min(claim.wants, claim.fits) and left >= 1 / claim.fits - TINY:
                found[claim.study] = Allocation(given.share, given.slots + 1, True)
                left -= 1 / claim.fits
    return found


def _fair(claims: list[Claim], left: float) -> dict[str, float]:
    """Each one's part of the cluster: what it wants where that is less than an equal part of what is left."""
    found = {}
    ordered = sorted(claims, key=lambda claim: claim.wants / claim.fits)
    for place, claim in enumerate(ordered):
        found[claim.study] = max(min(claim.wants / claim.fits, left / (len(ordered) - place)), 0.0)
        left -= found[claim.study]
    return found


class ExclusiveSlots:
    """All of the cluster for one study, at most `most` trials at once.

    contested: whether others wait for what is held beyond `slots`; where a node is gone nobody does.
    """

    def __init__(self, most: int) -> None:
        self.slots = most
        self.contested = False

    def want(self, trials: int) -> None:
        """Nobody else is there to be told."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class FairShare(ExclusiveSlots):
    """A study's slots on a cluster that it may have to share; a context manager while it wants any.

    fits: how many of its trials the cluster has room for, asked again and again since nodes come and go.
    """

    def __init__(self, study: str, priority: Priority, most: int | None, fits: Callable[[], int]) -> None:
        super().__init__(0)
        self._study = study
        self._priority: Priority = priority
        self._most = most
        self._fits = fits
        self._wants = most or 10**6
        self._owed = 0.0
        self._given = Allocation(0, 0, False)
        self._looked = time.time()
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self, trials: int) -> None:
        """The study has no use for more than so many."""
        self._wants = min(trials, self._most or trials)

    def __enter__(self) -> Self:
        self._left.clear()
        self._wants = self._most or 10**6  # the driver before this one, of the study or its companions, wanted no more
        self._looked = time.time()
        self._look()
        self._thread = threading.Thread(target=self._follow, name="shares", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._thread:
            self._thread.join(timeout=EVERY)
        with suppress(Exception):  # the cluster may be gone
            _forget(self._study)

    def _follow(self) -> None:
        while not self._left.wait(EVERY):
            with suppress(Exception):  # a head that is away: what was given last holds
                self._look()

    def _look(self) -> None:
        """Tell what is wanted, and take what the others leave."""
        now, fits = time.time(), self._fits()
        owed = self._owed + (now - self._looked) * (self._given.share - self._given.slots)
        self._owed = min(max(owed, -MOST_OWED), MOST_OWED)
        self._looked = now
        mine = Claim(self._study, self._priority, min(self._wants, fits), fits, self._owed, self._given.extra, now)
        _tell(mine)
        others = [claim for claim in _told() if claim.study != self._study and now - claim.time < GONE]
        self.contested = any(claim.wants for claim in others)
        if not self.contested:
            self._owed = 0.0
        given = allot([mine, *others]).get(self._study, Allocation(0, 0, False))
        self._given = given if fits else Allocation(0, min(self._wants, 1), False)  # it waits for a node
        self.slots = self._given.slots


def _tell(claim: Claim) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_key(claim.study), json.dumps(asdict(claim)).encode(), overwrite=True, namespace=SPACE)


def _told() -> list[Claim]:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    found = [_internal_kv_get(key, namespace=SPACE) for key in _internal_kv_list(_key(""), namespace=SPACE)]
    return [Claim(**json.loads(each)) for each in found if each]


def _forget(study: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(_key(study), namespace=SPACE)


def _key(study: str) -> str:
    return f"share/{study}"
