"""Searches as separate processes, on a study that is slow enough to be interrupted in the middle."""

import copy
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import optuna
import pandas as pd
import yaml
from promise import check_promise
from shared_constants import FORCETUNE_COMMAND

from forcetune.errors import HeldError
from forcetune.ledger.driver_lock import driver_lock

Value = TypeVar("Value")

PACED_STUDY: dict[str, Any] = {
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
# The study's network pauses at each training step until the file `hurry` exists, so that a test can interrupt a trial.
# The tests read its notes: `steps` has the process id of each step, `saved` the trial, attempt and epoch of each
# checkpoint after it was written, `refused` the same of each checkpoint that a newer attempt kept from being written.
PACED_PY = """
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


# A user's saliency, which the wrong sign breaks, and the nightly file of the study that uses it.
SCORES_PY = "def score(network):\n    return {{name: {sign}weight.abs() for name, weight in network.weights.items()}}\n"
NIGHTLY_YAML = "studies: [s]\nbands: [0.5, 1]\nseeds: 1\nsentinels: 2\non_alarm: [tee, told]\n"


class Search:
    """A study in a folder, and the forcetune commands that run on it."""

    def __init__(self, folder: Path, environment: dict[str, str], pause: float = 0.02, **changes: Any) -> None:
        self.folder = folder
        self.environment = environment
        self._processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir(exist_ok=True)
        trial = {**PACED_STUDY["trial"], **changes.pop("trial", {})}
        self.study = {**PACED_STUDY, "trial": trial, **changes}
        (folder / "study.yaml").write_text(yaml.safe_dump(self.study))
        (folder / "paced.py").write_text(PACED_PY.format(folder=str(folder), pause=pause))

    def start(self, *arguments: str) -> "RunningCommand":
        """Start a forcetune command, by default the search."""
        command = arguments or ("search", "study.yaml")
        started = RunningCommand(self.folder, self.environment, len(self._processes), command)
        self._processes.append(started.process)
        return started

    def with_variables(self, **variables: str) -> "Search":
        """Return the same study with other environment variables."""
        study = copy.copy(self)
        study.environment = {**self.environment, **variables}
        return study

    def with_folder(self, folder: Path) -> "Search":
        """Return the same study in another folder, without its files."""
        study = copy.copy(self)
        study.folder = folder
        study._processes = []
        folder.mkdir(exist_ok=True)
        return study

    def hurry(self) -> None:
        """End the pauses of the network."""
        (self.folder / "hurry").touch()

    def close(self) -> None:
        """End all processes that still run."""
        for process in self._processes:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()

    def is_free(self) -> bool:
        """Return whether no driver holds the study."""
        try:
            with driver_lock(self.study["study"], self.ledger):
                return True
        except HeldError:
            return False

    @property
    def name(self) -> str:
        return str(self.study["study"])

    @property
    def ledger(self) -> str:
        """The address of the Optuna storage."""
        return self.environment.get("FORCETUNE_STORAGE", f"sqlite:///{self.folder}/optuna.db")

    def check_promise(self) -> pd.DataFrame:
        """Assert that the search lost nothing, and return the table of the study."""
        mlflow = self.environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder}/mlflow.db")
        trials = self.study["search"]["trials"]
        assert not (self.folder / ".forcetune").exists(), "nothing is left on disk"
        return check_promise(
            self.study["study"],
            trials,
            self.ledger,
            mlflow,
            self.folder / "saved" if self.read_notes("saved") else None,
        )

    def read_notes(self, file: str) -> list[list[str]]:
        """Return the words of each line that the workers wrote to a file."""
        path = self.folder / file
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def find_attempts(self) -> set[str]:
        """Return the numbers of the attempts that saved a checkpoint."""
        return {attempt for _, attempt, _ in self.read_notes("saved")}

    def wait_for_worker(self, processes: Collection[int]) -> int:
        """Wait until a worker among these processes trains, and return its process id."""
        return wait_until(
            lambda: next((int(p) for (p,) in self.read_notes("steps") if int(p) in processes), None),
            "a worker on the node",
        )

    def count_attempts(self, kind: str) -> int:
        """Return the number of attempts that the ledger counts as of this kind, such as `lost`, over all trials."""
        trials = optuna.load_study(study_name=self.name, storage=self.ledger).trials
        return sum(trial.user_attrs.get("issued", {}).get(kind, 0) for trial in trials)

    def wait_for_training(self) -> int:
        """Wait until a trial trains with a checkpoint behind it, and return the process id of its worker."""
        saved_count = len(self.read_notes("saved"))
        wait_until(lambda: len(self.read_notes("saved")) > saved_count, "an epoch to end")
        step_count = len(self.read_notes("steps"))
        wait_until(lambda: len(self.read_notes("steps")) > step_count, "a step")
        return int(self.read_notes("steps")[-1][0])


class RunningCommand:
    """A command that was started, and its output."""

    def __init__(self, folder: Path, environment: dict[str, str], count: int, command: Sequence[str]) -> None:
        # outside the folder, because a test may fill its disk
        self._output_path = folder.with_name(f"{folder.name}-said{count}")
        with open(self._output_path, "wb") as output:
            self.process = spawn(folder, environment, [*FORCETUNE_COMMAND, *command], output)

    def wait(self, seconds: float = 400) -> int:
        """Wait until the command has ended, and return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the command does not end; its output:\n{self.output}") from None

    def kill(self) -> None:
        """Send SIGKILL to the command, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        return self._output_path.read_text()


def check_one_driver(study: Search, first: RunningCommand) -> None:
    """Assert that a second driver is refused while the first lives, and that a third continues after its death."""
    second = study.start()
    assert second.wait() == 4
    assert f"process {first.process.pid} on" in second.output
    first.kill()
    wait_until(study.is_free, "the lock to be released with its driver", seconds=2)
    third = study.start()
    assert third.wait() == 0, third.output
    study.check_promise()


def spawn(
    folder: Path, environment: dict[str, str], command: list[str], output: IO[bytes]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )


def wait_until(condition: Callable[[], Value], description: str, seconds: float = 300, interval: float = 0.02) -> Value:
    """Call a function until it returns something true, and return that; all times are in seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {description}"
        time.sleep(interval)
    return value


def list_descendants(process: int) -> list[int]:
    """Return the ids of a process and of all processes below it, parents first."""
    parents = dict(_list_parents())
    family = [process]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _list_parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # the process has just ended
                continue
            yield int(folder.name), int(after_name[1])


def kill_tree(process: int) -> None:
    """Send SIGKILL to a process and to all processes below it."""
    for member in list_descendants(process):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue
