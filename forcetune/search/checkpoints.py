"""A trial on disk while it runs: which attempt may write, and the state that the next one goes on from."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from forcetune.search.faults import durable

SHARE = 0.05  # of a trial's time that checkpoints may take, beside the first and the last


class SupersededError(Exception):
    """A later attempt has this trial; what its worker does no longer counts."""


class Checkpoints:
    """The checkpoints of one attempt at a trial, and those of the attempts before it.

    Every attempt has a folder of its own, made when its worker claims the trial; the highest number is the one in
    force. A worker that was thought dead looks before each write and never touches the folder of another. Where
    the folder of all trials is not to be reached (another machine without a shared disk) nothing is kept.
    """

    def __init__(self, folder: str | Path, attempt: int, key: str) -> None:
        self._trial = Path(folder)
        self._attempt = attempt
        self._key = key
        self._usable = self._trial.parent.is_dir()
        self._cost = 0.0
        self._last = -float("inf")

    def claim(self) -> None:
        """Put this attempt in force. Raises SupersededError where a later one is."""
        with durable("claim"):
            if self._usable:
                self._own.mkdir(parents=True, exist_ok=True)
        self.check()

    def check(self) -> None:
        """Raise SupersededError where a later attempt is in force, or the trial has ended and its folder is gone."""
        if self._usable and max(self._attempts(), default=None) != self._attempt:
            raise SupersededError(f"attempt {self._attempt} at the trial in {self._trial} is no longer the last")

    def newest(self) -> dict[str, Any] | None:
        """The state of the last attempt that left a readable one for this trial; None where none did."""
        for attempt in sorted(self._attempts(), reverse=True):
            state = read(self._trial / str(attempt) / "checkpoint.pt")
            if state and state["key"] == self._key:
                return state
        return None

    def due(self) -> bool:
        """Whether a checkpoint now would stay within SHARE."""
        return self._usable and (time.monotonic() - self._last) * SHARE >= self._cost

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint at once and whole. Raises SupersededError; OSError where the disk does not take it."""
        if not self._usable:
            return
        started = time.monotonic()
        self.check()
        written = self._own / "checkpoint.tmp"
        with open(written, "wb") as file:
            torch.save({**state, "key": self._key}, file)
            file.flush()
            os.fsync(file.fileno())
        with durable("checkpoint"):
            self.check()
            written.replace(self._own / "checkpoint.pt")
        for attempt in self._attempts():
            if attempt < self._attempt:
                shutil.rmtree(self._trial / str(attempt), ignore_errors=True)
        self._last = time.monotonic()
        self._cost = self._last - started

    @property
    def _own(self) -> Path:
        return self._trial / str(self._attempt)

    def _attempts(self) -> list[int]:
        if not self._trial.is_dir():
            return []
        return [int(path.name) for path in self._trial.iterdir() if path.name.isdigit()]


def read(path: Path) -> dict[str, Any] | None:
    """A checkpoint's state, on the CPU; None where there is none or it is damaged."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # of bytes that are no checkpoint torch may make anything
        return None
