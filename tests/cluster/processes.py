"""A search as a process of its own on a study slow enough to be hit in the middle, and what it needs around it."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import pandas as pd
import yaml
from promise import check_promise

from forcetune.errors import HeldError
from forcetune.ledger.driver_lock import driver_lock

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
FORCETUNE = [sys.executable, "-c", "from forcetune.cli import main; main()"]
STUDY: dict[str, Any] = {
    "study": "s",
    "trial": {
        "dataset": "synthetic",
        "model": "paced:build",
        "method": ["random", "magnitude"],
        "density": {"low": 0.1, "high": 0.9, "log": True},
        "lr": {"low": 0.01, "high": 0.1, "log": True},
        "epochs": 4,
    },
    "search": {"trials": 4},
    "resources": {"concurrent": 2},
}
# Its network pauses at each training step, until it is told to hurry, and notes whose step it was, in `steps`; its
# workers note in `saved` each checkpoint, once it is there, with its trial, attempt and epoch, and in `refused` those
# that the fence kept out.
PACED = """
import os
import time

import torch
from torch import nn

from forcetune.ledger.checkpoints import Checkpoints, SupersededError


def note(file, *words):
    with open(os.path.join({folder!r}, file), "a") as notes:
        notes.write(" ".join(map(str, words)) + "\\n")


class Pace(nn.Module):
    def forward(self, x):
        if self.training and torch.is_grad_enabled():  # not while the driver looks at its outputs
            note("steps", os.getpid())
            if not os.path.exists(os.path.join({folder!r}, "hurry")):
                time.sleep({pause})
        return x


def build(input_shape, classes):
    size = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.ReLU(), Pace(), nn.Linear(12, classes))


save = Checkpoints.save


def noted(self, state):
    epoch = state["curve"][-1][0]
    try:
        save(self, state)
    except SupersededError:
        note("refused", self._key, self._attempt, epoch)
        raise
    note("saved", self._key, self._attempt, epoch)


Checkpoints.save = noted
"""


# A saliency of the user's own, which may break by a sign, and what is run at night of its study.
SCORES = "def score(network):\n    return {{name: {sign}weight.abs() for name, weight in network.weights.items()}}\n"
NIGHTLY = "studies: [s]\nbands: [0.5, 1]\nseeds: 1\nsentinels: 2\non_alarm: [tee, told]\n"


class Search:
    """`forcetune search` on a study in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str], pause: float = 0.02, **changed: Any) -> None:
        self.folder = folder
        self.environment = environment
        self._processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir(exist_ok=True)
        trial = {**STUDY["trial"], **changed.pop("trial", {})}
        self.study = {**STUDY, "trial": trial, **changed}
        (folder / "study.yaml").write_text(yaml.safe_dump(self.study))
        (folder / "paced.py").write_text(PACED.format(folder=str(folder), pause=pause))

    def start(self, *command: str) -> "Started":
        """A command of forcetune's, running: the search, unless another is given."""
        given = command or ("search", "study.yaml")
        started = Started(self.folder, self.environment, len(self._processes), given)
        self._processes.append(started.process)
        return started

    def with_variables(self, **variables: str) -> "Search":
        """The same for who has other variables."""
        other = copy.copy(self)
        other.environment = {**self.environment, **variables}
        return other

    def with_folder(self, folder: Path) -> "Search":
        """The same elsewhere."""
        other = copy.copy(self)
        other.folder = folder
        other._processes = []
        folder.mkdir(exist_ok=True)
        return other

    def hurry(self) -> None:
        """Let its network pause no more."""
        (self.folder / "hurry").touch()

    def close(self) -> None:
        """Leave no process of it behind."""
        for process in self._processes:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()

    def is_free(self) -> bool:
        """Whether no driver holds the study."""
        try:
            with driver_lock(self.study["study"], self.ledger):
                return True
        except HeldError:
            return False

    @property
    def name(self) -> str:
        """Of the study."""
        return str(self.study["study"])

    @property
    def ledger(self) -> str:
        """The address of Optuna's store."""
        return self.environment.get("FORCETUNE_STORAGE", f"sqlite:///{self.folder}/optuna.db")

    def check_promise(self) -> pd.DataFrame:
        """Assert that it lost nothing; its table."""
        mlflow = self.environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder}/mlflow.db")
        trials = self.study["search"]["trials"]
        assert not (self.folder / ".forcetune").exists(), "nothing is left on disk"
        return check_promise(
            self.study["study"], trials, self.ledger, mlflow, self.folder / "saved" if self.noted("saved") else None
        )

    def noted(self, file: str) -> list[list[str]]:
        """The words of each line that the workers wrote."""
        path = self.folder / file
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def attempts(self) -> set[str]:
        """The numbers of the attempts that left a checkpoint."""
        return {attempt for _, attempt, _ in self.noted("saved")}

    def at_work(self) -> int:
        """The id of a process that trains now, in the middle of an epoch with a checkpoint behind it."""
        before = len(self.noted("saved"))
        until(lambda: len(self.noted("saved")) > before, "an epoch to end")
        trained = len(self.noted("steps"))
        until(lambda: len(self.noted("steps")) > trained, "a step")
        return int(self.noted("steps")[-1][0])


class Started:
    """One command, and what it says."""

    def __init__(self, folder: Path, environment: dict[str, str], count: int, command: Sequence[str]) -> None:
        self._said = folder.with_name(f"{folder.name}-said{count}")  # beside it: a test may fill the folder's disk
        with open(self._said, "wb") as said:
            self.process = spawn(folder, environment, [*FORCETUNE, *command], said)

    def wait(self, seconds: float = 150) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; it has said:\n{self.said}") from None

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        return self._said.read_text()


def check_one_driver(study: Search, first: Started) -> None:
    """A second driver is refused while the first lives, a third takes over from the first one's death on."""
    second = study.start()
    assert second.wait() == 4
    assert f"process {first.process.pid} on" in second.said
    first.kill()
    until(study.is_free, "the hold to die with its holder", seconds=2)
    third = study.start()
    assert third.wait() == 0, third.said
    study.check_promise()


def spawn(folder: Path, environment: dict[str, str], command: list[str], said: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
    )


def until(found: Callable[[], T], what: str, seconds: float = 120) -> T:
    """What is found at last, asked for again and again."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
    return answer


def descendants(process: int) -> list[int]:
    """The ids of a process and of all below it."""
    parents = dict(_parents())
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            yield int(folder.name), int(after_name[1])


def kill_tree(process: int) -> None:
    """End a process and all below it, at once."""
    for one in descendants(process):
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
