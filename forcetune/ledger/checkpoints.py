"""The files of a trial that runs: which attempt may write, and the state from which the next attempt goes on."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from forcetune.ledger.fail_points import durable

CHECKPOINT_TIME_SHARE = 0.05  # of a trial's time that its checkpoints may take, without the first and the last one


class SupersededError(Exception):
    """The error of a worker whose trial has a later attempt: what this worker does no longer counts."""


class Checkpoints:
    """The checkpoints of one attempt at a trial, and those of the attempts before it.

    Every attempt has a folder of its own, which its worker makes when it claims the trial. The attempt with the highest
    number is the one in force. A worker that was thought dead checks this before each write, and never touches the
    folder of another attempt. Where the folder of all trials cannot be reached (another machine without a shared
    disk), nothing is kept.

    Args:
        folder: The trial's folder.
        attempt: The number of the attempt.
        key: The trial's key; a checkpoint with another key is ignored.
    """

    def __init__(self, folder: str | Path, attempt: int, key: str) -> None:
        self._trial_folder = Path(folder)
        self._attempt = attempt
        self._key = key
        self._is_reachable = self._trial_folder.parent.is_dir()
        self._save_seconds = 0.0
        self._last_save = -float("inf")

    def claim(self) -> None:
        """Put this attempt in force.

        Raises:
            SupersededError: A later attempt is in force.
        """
        with durable("claim"):
            if self._is_reachable:
                self._attempt_folder.mkdir(parents=True, exist_ok=True)
        self.check()

    def check(self) -> None:
        """Check that this attempt is the one in force.

        Raises:
            SupersededError: A later attempt is in force, or the trial has ended and its folder is gone.
        """
        if self._is_reachable and max(self._attempts(), default=None) != self._attempt:
            raise SupersededError(
                f"attempt {self._attempt} at the trial in {self._trial_folder} is no longer the latest"
            )

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the last attempt that left a readable checkpoint of this trial; None where none did."""
        for attempt in sorted(self._attempts(), reverse=True):
            state = read_checkpoint(self._trial_folder / str(attempt) / "checkpoint.pt")
            if state and state["key"] == self._key:
                return state
        return None

    def is_due(self) -> bool:
        """Return whether a checkpoint now would stay within CHECKPOINT_TIME_SHARE."""
        return self._is_reachable and (time.monotonic() - self._last_save) * CHECKPOINT_TIME_SHARE >= self._save_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the attempt's checkpoint in one step, and remove the folders of earlier attempts.

        Args:
            state: The state, of types that `torch.load(weights_only=True)` reads.

        Raises:
            SupersededError: A later attempt is in force, or the trial has ended.
            OSError: The disk does not take the checkpoint.
        """
        if not self._is_reachable:
            return
        started = time.monotonic()
        self.check()
        temporary = self._attempt_folder / "checkpoint.tmp"
        with open(temporary, "wb") as file:
            torch.save({**state, "key": self._key}, file)
            file.flush()
            os.fsync(file.fileno())
        with durable("checkpoint"):
            self.check()
            temporary.replace(self._attempt_folder / "checkpoint.pt")
        for attempt in self._attempts():
            if attempt < self._attempt:
                shutil.rmtree(self._trial_folder / str(attempt), ignore_errors=True)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - started

    @property
    def _attempt_folder(self) -> Path:
        return self._trial_folder / str(self._attempt)

    def _attempts(self) -> list[int]:
        if not self._trial_folder.is_dir():
            return []
        return [int(path.name) for path in self._trial_folder.iterdir() if path.name.isdigit()]


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state of a checkpoint, on the CPU; None where the file does not exist or is damaged."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # torch may raise any error on bytes that are no checkpoint
        return None
