"""The board on which the studies of a cluster publish their claims: a named actor of Ray, on the head."""

import time
from collections.abc import Mapping
from typing import Any

import ray

CLAIM_INTERVAL_S = 2.0  # between two claims of a study
CLAIM_LIFETIME_S = 15.0  # after which a driver whose claim is not renewed counts as dead
BOARD_NAME, BOARD_NAMESPACE = "forcetune-shares", "forcetune"
BOARD_START_S = 60.0  # for the actor to start, and to start again
HEAD_RESOURCE = "node:__internal_head__"  # which only the head of a cluster has
HEAD_RESOURCE_SHARE = 0.001


class Board:
    """The claims of all studies, by claimant, without those that have not been renewed.

    Args:
        restarted: Whether the board has lost the claims that it had.
    """

    def __init__(self, restarted: bool = False) -> None:
        self._claims: dict[str, tuple[Mapping[str, Any], float]] = {}
        # until then some claims are still missing, and a study would take the slots of the others
        self._complete_at = time.monotonic() + (2 * CLAIM_INTERVAL_S if restarted else 0)

    def exchange(self, claimant: str, claim: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
        """Take the claim of a study, and return the claims of all studies; None where some may be missing."""
        self._claims[claimant] = claim, time.monotonic()
        self._drop_old()
        return [claim for claim, _ in self._claims.values()] if time.monotonic() >= self._complete_at else None

    def withdraw(self, claimant: str) -> int:
        """Remove the claim of a study; return the number of claims that are left."""
        self._claims.pop(claimant, None)
        self._drop_old()
        return len(self._claims)

    def _drop_old(self) -> None:
        oldest = time.monotonic() - CLAIM_LIFETIME_S
        self._claims = {claimant: entry for claimant, entry in self._claims.items() if entry[1] >= oldest}


class BoardActor(Board):
    """The board as an actor of Ray, which ends with the last claim. Ray starts it again where it dies."""

    def __init__(self) -> None:
        super().__init__(ray.get_runtime_context().was_current_actor_reconstructed)

    def withdraw(self, claimant: str) -> int:
        """Remove the claim of a study, and end the actor where no claim is left."""
        left = super().withdraw(claimant)
        if not left:
            ray.actor.exit_actor()
        return left


class SharedBoard:
    """The board of the cluster that this process is connected to; its actor is started where there is none.

    The actor runs on the head and has no resources, so that it keeps no other node from being released; where the head
    dies the cluster ends with it. It outlives the driver that starts it, and ends with the last claim.
    """

    def __init__(self) -> None:
        self._actor: Any = None

    def exchange(self, claimant: str, claim: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
        """Publish the claim of a study, and return the claims of all studies; None where some may be missing."""
        try:
            self._actor = self._actor or _get_actor()
            claims: list[Mapping[str, Any]] | None = ray.get(
                self._actor.exchange.remote(claimant, claim), timeout=BOARD_START_S
            )
        except ray.exceptions.RayError:  # the actor may have ended with another study: the next call starts a new one
            self._actor = None
            raise
        return claims

    def withdraw(self, claimant: str) -> None:
        """Remove the claim of a study."""
        if self._actor is not None:
            ray.get(self._actor.withdraw.remote(claimant), timeout=CLAIM_INTERVAL_S)


def _get_actor() -> Any:
    """Return the actor, which is started where there is none."""
    actor = ray.remote(BoardActor).options(
        name=BOARD_NAME,
        namespace=BOARD_NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        num_cpus=0,
        resources={HEAD_RESOURCE: HEAD_RESOURCE_SHARE},
    )
    return actor.remote()
