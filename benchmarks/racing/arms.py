"""The arms of the race: the command of each, and how its trials are read afterwards."""

import importlib.util
import json
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import yaml

BENCHMARKS = Path(__file__).parents[1]
RIVALS = BENCHMARKS / "rivals"
STUDY = "race"
FORCETUNE = [sys.executable, "-c", "from forcetune.cli import main; main()", "search", f"{STUDY}.yaml"]


@dataclass(frozen=True)
class RaceTrial:
    """A trial that has ended: seconds since its command was started, its configuration and what it reached."""

    ended_s: float
    config: dict[str, Any]
    val_accuracy: float
    density: float


@dataclass(frozen=True)
class Arm:
    """One of those that race.

    title: as the tables have it; script: of a rival, with its options; without: of forcetune, the part that is
    switched off; requires: the package that it needs beside forcetune's own.
    """

    title: str
    script: str | None = None
    options: tuple[str, ...] = ()
    without: str | None = None
    requires: str | None = None
    stores: tuple[str, ...] = ("mlflow",)

    @property
    def missing(self) -> bool:
        """Whether the package that it needs is not installed."""
        return self.requires is not None and importlib.util.find_spec(self.requires) is None

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the command besides those of this process."""
        folders = [BENCHMARKS.parent, BENCHMARKS, RIVALS]
        if self.without and self.without != "stopping":
            folders.insert(0, RIVALS / "switches")
        path = {"PYTHONPATH": ":".join(str(folder) for folder in folders)}
        return path | ({"RACE_WITHOUT": self.without} if len(folders) == 4 and self.without else {})

    def count_ended(self, folder: Path) -> int:
        """Return how many trials have ended so far, without a word to its stores."""
        return sum(1 for _ in _records(folder)) if self.script else _count_complete(folder / "optuna.db")

    def prepare(self, folder: Path, task: str, seed: int, trials: int) -> list[str]:
        """Write what the arm reads into its empty folder; return its command, which is also that after a crash."""
        if self.script:
            of_race = ["--task", task, "--seed", str(seed), "--trials", str(trials)]
            return [sys.executable, str(RIVALS / self.script), *of_race, *self.options]
        (folder / f"{STUDY}.yaml").write_text(yaml.safe_dump(self._study(task, seed, trials), sort_keys=False))
        return FORCETUNE

    def read(self, folder: Path, started: float) -> list[RaceTrial]:
        """Return the trials that have ended, in the order of their ends; of forcetune those trained to the end."""
        trials = _records(folder) if self.script else _of_forcetune(folder)
        return sorted((RaceTrial(ended - started, *told) for ended, *told in trials), key=lambda trial: trial.ended_s)

    def _study(self, task: str, seed: int, trials: int) -> dict[str, Any]:
        from recipe import SLOTS, TASKS, forcetune_space

        search: dict[str, Any] = {"trials": trials, "seed": seed}
        if self.without == "stopping":
            search["stopping"] = "none"
        return {
            "study": STUDY,
            "trial": {**TASKS[task], "seed": seed, **forcetune_space()},
            "search": search,
            "resources": {"cpus": 1, "concurrent": SLOTS},
        }


def _records(folder: Path) -> Iterable[tuple[Any, ...]]:
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in map(json.loads, lines):
        yield line["ended"], line["config"], line["val_accuracy"], line["density"]


def _count_complete(storage: Path) -> int:
    """Count in Optuna's tables, read only: a store that is just being made must not be opened by Optuna."""
    try:
        with closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _of_forcetune(folder: Path) -> Iterable[tuple[Any, ...]]:
    from recipe import forcetune_space

    from forcetune.errors import InputError
    from forcetune.tracking import table

    if not (folder / "mlflow.db").exists():
        return
    try:
        trials = table(STUDY, f"sqlite:///{folder}/mlflow.db")
    except InputError:  # ended before it had made its study
        return
    for row in trials[trials["outcome"] == "trained"].to_dict("records") if "outcome" in trials else []:
        config = {name: row[name] for name in forcetune_space() if pandas.notna(row.get(name))}
        config = {name: int(value) if name == "iterations" else value for name, value in config.items()}
        yield row["ended"] / 1000, config, row["val_accuracy"], row["density"]


def _tune(parts: str, stopping: str, title: str) -> Arm:
    return Arm(title, "tune_script.py", ("--parts", parts, "--stopping", stopping))


def _without(part: str) -> Arm:
    return Arm(f"forcetune without {part.replace('_', ' ')}", without=part)


ARMS: dict[str, Arm] = {
    "forcetune": Arm("forcetune", stores=("mlflow", "optuna")),
    "tune": _tune("published", "none", "Ray Tune script"),
    "tune_asha": _tune("published", "asha", "Ray Tune script, ASHA"),
    "parts": _tune("forcetune", "none", "the same on forcetune's data path and step"),
    "parts_asha": _tune("forcetune", "asha", "the same on forcetune's data path and step, ASHA"),
    "optuna_tpe": Arm("Optuna workers, TPE", "optuna_workers.py", ("--sampler", "tpe"), stores=("mlflow", "optuna")),
    "optuna_gp": Arm(
        "Optuna workers, GPSampler", "optuna_workers.py", ("--sampler", "gp"), stores=("mlflow", "optuna")
    ),
    "syne_tune": Arm("Syne Tune, MO-ASHA", "syne_tune_script.py", requires="syne_tune", stores=("records",)),
    "naive": Arm("baseline loop, random search", "naive_loop.py", stores=("records",)),
    **{
        f"without_{part}": _without(part)
        for part in ("stopping", "compaction", "shared_steps", "start", "long_lived_workers")
    },
}
SCRIPT_ARMS = "tune", "tune_asha"  # the better of which is the reference of the ratio "total"
PARTS_ARMS = "parts", "parts_asha"
