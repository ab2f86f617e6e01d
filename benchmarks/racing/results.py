"""The results of the race read back: runs by task, arm and seed, their curves, and the ratios between them."""

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
    """One run of an arm; `content` as its file has it."""

    task: str
    arm: str
    seed: int
    content: Mapping[str, Any]

    @property
    def budget_s(self) -> float:
        return float(self.content["budget_s"])

    @property
    def trials(self) -> list[RaceTrial]:
        return [RaceTrial(**trial) for trial in self.content["trials"]]

    @property
    def fronts(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """The configurations of its fronts at all instants, each beside the task."""
        trials = self.trials
        for second in instants(self.budget_s):
            yield from ((self.task, trial.config) for trial in front_at(trials, second))

    def cpu_at(self, second: float) -> float:
        """Return the processor seconds of all its processes until then."""
        return max((cpu for at, cpu in self.content["cpu_curve"] if at <= second), default=0.0)


def read_runs(folder: Path) -> list[Run]:
    """Read the files of all runs."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if content["task"] in TASKS and content["arm"] in ARMS:
            runs.append(Run(content["task"], content["arm"], content["seed"], content))
    return runs


class Standings:
    """The curves of all runs, and what follows from them."""

    def __init__(self, runs: Iterable[Run], fresh: Mapping[str, float]) -> None:
        self.runs = {(run.task, run.seed, run.arm): run for run in runs}
        self.curves = {
            key: curve(run.trials, instants(run.budget_s), fresh, TASKS[run.task]) for key, run in self.runs.items()
        }

    @property
    def starts(self) -> list[tuple[str, int]]:
        """Task and seed of all runs."""
        return sorted({(task, seed) for task, seed, _ in self.runs})

    def end_volume(self, task: str, seed: int, arm: str) -> float:
        """Return the hypervolume at the end of the budget."""
        return self.curves[task, seed, arm][-1]

    def best_of(self, task: str, seed: int, arms: Collection[str]) -> str | None:
        """Return that of the arms which ended highest; None where none of them ran."""
        ran = [arm for arm in arms if (task, seed, arm) in self.runs]
        return max(ran, key=lambda arm: self.end_volume(task, seed, arm), default=None)

    def level(self, task: str, seed: int, arm: str, name: str) -> float:
        """Return the hypervolume of an arm at a share of its budget."""
        seconds, volumes = self._curve(task, seed, arm)
        share = LEVELS[name] * seconds[-1]
        return [volume for second, volume in zip(seconds, volumes, strict=True) if second <= share * (1 + 1e-9)][-1]

    def seconds_to(self, task: str, seed: int, arm: str, level: float) -> float | None:
        """Return the wall seconds until an arm is at a level; None where it never is, or did not run."""
        return time_to_level(*self._curve(task, seed, arm), level) if (task, seed, arm) in self.runs else None

    def speedups(self, arm: str, references: Collection[str], level: str) -> dict[tuple[str, int], float]:
        """Return how many times sooner an arm is at the level of the better of its references, by task and seed."""
        ratios = {}
        for task, seed in self.starts:
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


RATIOS = {  # name: the arm, its references, and what is compared
    "total": ("forcetune", SCRIPT_ARMS, "forcetune against the Ray Tune script"),
    "parts": ("forcetune", PARTS_ARMS, "forcetune against the script on its own data path and step"),
    "baseline": ("without_stopping", ("naive",), "forcetune without stopping against the baseline loop"),
}


def headline(standings: Standings, task: str | None = None) -> dict[str, dict[str, float | None]]:
    """Return the median of each ratio over seeds, and over tasks where none is named, by ratio and level."""
    medians: dict[str, dict[str, float | None]] = {}
    for name, (arm, references, _) in RATIOS.items():
        medians[name] = {}
        for level in LEVELS:
            ratios = standings.speedups(arm, references, level)
            values = [ratio for (of, _), ratio in ratios.items() if task in (None, of)]
            medians[name][level] = median(values) if values else None
    return medians


def device_seconds(wall_s: float) -> float:
    """Return the slots' seconds since the command: idle slots, driver and start count."""
    return SLOTS * wall_s
