"""The files of a trial that runs: which attempt may write, and the state from which the next attempt goes on."""

import io
import time
from pathlib import Path
from typing import Any

import torch

from forcetune.ledger.fail_points import durable
from forcetune.state_files import (
    StagedFile,
    has_folder,
    is_remote,
    list_folder,
    make_folder,
    open_folder,
    read_file,
    remove_folder,
)

CHECKPOINT_TIME_SHARE = 0.05  # of a trial's time that its checkpoints may take, without the first and the last one


class SupersededError(Exception):
    """The error of a worker that is no longer in force, because its trial has a later attempt."""


class Checkpoints:
    """The checkpoints of one attempt at a trial, and those of the attempts before it.

    Every attempt has a folder of its own, which its worker makes when it claims the trial. The attempt with the highest
    number is the one in force. A worker that was thought dead checks this before each write, and never touches the
    folder of another attempt. Where the folder of all trials does not exist (another machine without a shared disk),
    nothing is kept.

    Args:
        folder: The trial's folder: a path, or an address in an object store.
        attempt: The number of the attempt.
        key: The trial's key; a checkpoint with another key is ignored.

    Attributes:
        is_reachable: Whether the folder of all trials is there, so that checkpoints are kept.
    """

    def __init__(self, folder: str | Path, attempt: int, key: str) -> None:
        self._trial_folder = open_folder(folder)
        self._attempt = attempt
        self._key = key
        self.is_reachable = has_folder(self._trial_folder.parent)
        self._save_seconds = 0.0
        self._last_save = -float("inf")

    def claim(self) -> None:
        """Put this attempt in force.

        Raises:
            SupersededError: A later attempt is in force.
        """
        with durable("claim"):
            if self.is_reachable:
                make_folder(self._attempt_folder)
        self.check()

    def check(self) -> None:
        """Check that this attempt is the one in force.

        Raises:
            SupersededError: A later attempt is in force, or the trial has ended and its folder is gone.
        """
        if self.is_reachable and max(self._attempts(), default=None) != self._attempt:
            raise SupersededError(
                f"attempt {self._attempt} at the trial in {self._trial_folder} is no longer the latest"
            )

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the last attempt that left a readable checkpoint of this trial; None where none did.

        Raises:
            OSError: The object store does not answer.
        """
        for attempt in sorted(self._attempts(), reverse=True):
            state = read_checkpoint(self._trial_folder / str(attempt) / "checkpoint.pt")
            if state and state["key"] == self._key:
                return state
        return None

    def is_due(self) -> bool:
        """Return whether a checkpoint now would stay within CHECKPOINT_TIME_SHARE."""
        return self.is_reachable and (time.monotonic() - self._last_save) * CHECKPOINT_TIME_SHARE >= self._save_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the attempt's checkpoint in one step, and remove the folders of earlier attempts.

        Args:
            state: The state, of types that `torch.load(weights_only=True)` reads.

        Raises:
            SupersededError: A later attempt is in force, or the trial has ended.
            OSError: The disk or the object store does not take the checkpoint.
        """
        if not self.is_reachable:
            return
        started = time.monotonic()
        self.check()
        content = io.BytesIO()
        torch.save({**state, "key": self._key}, content)
        staged = StagedFile(self._attempt_folder / "checkpoint.pt", content.getbuffer(), synced=True)
        with durable("checkpoint"):
            self.check()
            staged.commit()
        for attempt in self._attempts():
            if attempt < self._attempt:
                remove_folder(self._trial_folder / str(attempt))
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - started

    @property
    def _attempt_folder(self) -> Path:
        return self._trial_folder / str(self._attempt)

    def _attempts(self) -> list[int]:
        return [int(path.name) for path in list_folder(self._trial_folder) if path.name.isdigit()]


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state of a checkpoint, on the CPU; None where the file does not exist or is damaged.

    Raises:
        OSError: The object store does not answer.
    """
    try:
        content = read_file(path)
    except OSError as error:
        if is_remote(path) and not isinstance(error, FileNotFoundError):
            raise
        return None
    try:
        return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except Exception:  # torch may raise any error on bytes that are no checkpoint
        return None
