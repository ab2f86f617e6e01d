"""The results of the race, read back: runs by task, arm and seed, their curves, and the ratios between them."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from recipe import SLOTS, TASKS

from racing.arms import ARMS, PARTS_ARMS, SCRIPT_ARMS, RaceTrial
from racing.score import curve, front_at, instants, speedup, time_to_level

LEVELS = {"end": 1.0, "half": 0.5}  # the share of its budget at which the reference's hypervolume is the level


@dataclass(frozen=True)
class Run:
    """A run of an arm; `content` is the object in its file."""

    task: str
    arm: str
    seed: int
    content: Mapping[str, Any]

    @property
    def budget_s(self) -> float:
        """The budget of the run, in seconds of wall time."""
        return float(self.content["budget_s"])

    @property
    def trials(self) -> list[RaceTrial]:
        """The trials of the run that had ended within its budget."""
        return [RaceTrial(**trial) for trial in self.content["trials"]]

    @property
    def fronts(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """The configurations on the fronts at all instants, each with the name of the task."""
        trials = self.trials
        for second in instants(self.budget_s):
            yield from ((self.task, trial.config) for trial in front_at(trials, second))

    def cpu_at(self, second: float) -> float:
        """Return the processor seconds of all processes of the run until `second`."""
        return max((cpu_s for elapsed_s, cpu_s in self.content["cpu_curve"] if elapsed_s <= second), default=0.0)


def read_runs(folder: Path) -> list[Run]:
    """Return the runs of all files in the folder."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if content["task"] in TASKS and content["arm"] in ARMS:
            runs.append(Run(content["task"], content["arm"], content["seed"], content))
    return runs


class Standings:
    """The curves of all runs, and the levels and ratios that follow from them.

    fresh_accuracies: the mean accuracy over the fresh seeds, by configuration key.
    """

    def __init__(self, runs: Iterable[Run], fresh_accuracies: Mapping[str, float]) -> None:
        self.runs = {(run.task, run.seed, run.arm): run for run in runs}
        self.curves = {
            key: curve(run.trials, instants(run.budget_s), fresh_accuracies, TASKS[run.task])
            for key, run in self.runs.items()
        }

    @property
    def task_seeds(self) -> list[tuple[str, int]]:
        """The pairs of task and seed of all runs, sorted."""
        return sorted({(task, seed) for task, seed, _ in self.runs})

    def end_volume(self, task: str, seed: int, arm: str) -> float:
        """Return the hypervolume at the end of the budget."""
        return self.curves[task, seed, arm][-1]

    def best_of(self, task: str, seed: int, arms: Collection[str]) -> str | None:
        """Return the arm that ended with the largest hypervolume; None where no arm ran."""
        candidates = [arm for arm in arms if (task, seed, arm) in self.runs]
        return max(candidates, key=lambda arm: self.end_volume(task, seed, arm), default=None)

    def level(self, task: str, seed: int, arm: str, name: str) -> float:
        """Return the hypervolume of an arm at a share of its budget; `name` is a key of LEVELS."""
        seconds, volumes = self._curve(task, seed, arm)
        share = LEVELS[name] * seconds[-1]
        return [volume for second, volume in zip(seconds, volumes, strict=True) if second <= share * (1 + 1e-9)][-1]

    def seconds_to(self, task: str, seed: int, arm: str, level: float) -> float | None:
        """Return the wall seconds until an arm reaches a level; None where it never does, or did not run."""
        return time_to_level(*self._curve(task, seed, arm), level) if (task, seed, arm) in self.runs else None

    def speedups(self, arm: str, references: Collection[str], level: str) -> dict[tuple[str, int], float]:
        """Return how many times sooner an arm reaches the level of the better of its references, by task and seed."""
        ratios = {}
        for task, seed in self.task_seeds:
            reference = self.best_of(task, seed, references)
            if reference and (task, seed, arm) in self.runs:
                volume = self.level(task, seed, reference, level)
                if volume <= 0:
                    continue  # the reference had no front yet
                seconds = [self.seconds_to(task, seed, name, volume) for name in (reference, arm)]
                ratios[task, seed] = speedup(*seconds)
        return ratios

    def _curve(self, task: str, seed: int, arm: str) -> tuple[list[float], list[float]]:
        key = task, seed, arm
        return instants(self.runs[key].budget_s), self.curves[key]


RATIOS = {  # by name: the arm, its references and the title of the row
    "total": ("forcetune", SCRIPT_ARMS, "forcetune against the Ray Tune script"),
    "parts": ("forcetune", PARTS_ARMS, "forcetune against the script on its own data path and step"),
    "baseline": ("without_stopping", ("naive",), "forcetune without stopping against the baseline loop"),
}


def headline(standings: Standings, task: str | None = None) -> dict[str, dict[str, float | None]]:
    """Return the median of each ratio, by ratio and level: over seeds and, where no task is named, over tasks."""
    medians: dict[str, dict[str, float | None]] = {}
    for name, (arm, references, _) in RATIOS.items():
        medians[name] = {}
        for level in LEVELS:
            ratios = standings.speedups(arm, references, level)
            values = [ratio for (ratio_task, _), ratio in ratios.items() if task in (None, ratio_task)]
            medians[name][level] = median(values) if values else None
    return medians


def device_seconds(wall_s: float) -> float:
    """Return the seconds of all slots since the command; idle slots, the driver and the start count."""
    return SLOTS * wall_s
