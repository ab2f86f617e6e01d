"""The arms of the race: the command of each arm, and the reading of its trials afterwards."""

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
RACE_STUDY = "race"
SEARCH_COMMAND = [sys.executable, "-c", "from forcetune.cli import main; main()", "search", f"{RACE_STUDY}.yaml"]


@dataclass(frozen=True)
class RaceTrial:
    """A trial that has ended: its end in seconds since the start of the command, its configuration and its results."""

    ended_s: float
    config: dict[str, Any]
    val_accuracy: float
    density: float


@dataclass(frozen=True)
class Arm:
    """A competitor in the race: forcetune, forcetune without one of its features, or a rival.

    title: the name in the tables. script, options: the script of a rival, and its options. without: the feature of
    forcetune that is switched off. requires: the package that the arm needs besides those of forcetune. stores: the
    stores that the kill test reads.
    """

    title: str
    script: str | None = None
    options: tuple[str, ...] = ()
    without: str | None = None
    requires: str | None = None
    stores: tuple[str, ...] = ("mlflow",)

    @property
    def is_missing(self) -> bool:
        """Whether the required package is not installed."""
        return self.requires is not None and importlib.util.find_spec(self.requires) is None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the command, besides those of this process."""
        folders = [BENCHMARKS.parent, BENCHMARKS, RIVALS]
        if self.without and self.without != "stopping":
            folders.insert(0, RIVALS / "switches")
        path = {"PYTHONPATH": ":".join(str(folder) for folder in folders)}
        return path | ({"RACE_WITHOUT": self.without} if len(folders) == 4 and self.without else {})

    def count_ended(self, folder: Path) -> int:
        """Return the number of trials that have ended so far; the stores of the arm are only read."""
        return sum(1 for _ in _read_records(folder)) if self.script else _count_complete(folder / "optuna.db")

    def prepare(self, folder: Path, task: str, seed: int, trials: int) -> list[str]:
        """Write the files that the arm reads into its empty folder; return its command, the same as after a crash."""
        if self.script:
            race_options = ["--task", task, "--seed", str(seed), "--trials", str(trials)]
            return [sys.executable, str(RIVALS / self.script), *race_options, *self.options]
        (folder / f"{RACE_STUDY}.yaml").write_text(yaml.safe_dump(self._study(task, seed, trials), sort_keys=False))
        return SEARCH_COMMAND

    def read(self, folder: Path, started: float) -> list[RaceTrial]:
        """Return the ended trials in the order of their ends; of forcetune, only the trials trained to the end."""
        rows = _read_records(folder) if self.script else _read_forcetune_trials(folder)
        return sorted((RaceTrial(ended - started, *fields) for ended, *fields in rows), key=lambda trial: trial.ended_s)

    def _study(self, task: str, seed: int, trials: int) -> dict[str, Any]:
        from recipe import SLOTS, TASKS, forcetune_space

        search: dict[str, Any] = {"trials": trials, "seed": seed}
        if self.without == "stopping":
            search["stopping"] = "none"
        return {
            "study": RACE_STUDY,
            "trial": {**TASKS[task], "seed": seed, **forcetune_space()},
            "search": search,
            "resources": {"cpus": 1, "concurrent": SLOTS},
        }


def _read_records(folder: Path) -> Iterable[tuple[Any, ...]]:
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in map(json.loads, lines):
        yield line["ended"], line["config"], line["val_accuracy"], line["density"]


def _count_complete(storage: Path) -> int:
    """Return the number of complete trials in Optuna's tables.

    The file is opened read-only, because Optuna must not open a store that is just being created.
    """
    try:
        with closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _read_forcetune_trials(folder: Path) -> Iterable[tuple[Any, ...]]:
    from recipe import forcetune_space

    from forcetune.errors import InputError
    from forcetune.tracking import load_table

    if not (folder / "mlflow.db").exists():
        return
    try:
        trials = load_table(RACE_STUDY, f"sqlite:///{folder}/mlflow.db").trials
    except InputError:  # the command was ended before it created its study
        return
    for row in trials[trials["outcome"] == "trained"].to_dict("records") if "outcome" in trials else []:
        config = {name: row[name] for name in forcetune_space() if pandas.notna(row.get(name))}
        config = {name: int(value) if name == "iterations" else value for name, value in config.items()}
        yield row["ended"] / 1000, config, row["val_accuracy"], row["density"]


def _tune_arm(implementation: str, stopping: str, title: str) -> Arm:
    return Arm(title, "tune_script.py", ("--parts", implementation, "--stopping", stopping))


def _ablation_arm(feature: str) -> Arm:
    return Arm(f"forcetune without {feature.replace('_', ' ')}", without=feature)


ARMS: dict[str, Arm] = {
    "forcetune": Arm("forcetune", stores=("mlflow", "optuna")),
    "tune": _tune_arm("published", "none", "Ray Tune script"),
    "tune_asha": _tune_arm("published", "asha", "Ray Tune script, ASHA"),
    "parts": _tune_arm("forcetune", "none", "the same on forcetune's data path and step"),
    "parts_asha": _tune_arm("forcetune", "asha", "the same on forcetune's data path and step, ASHA"),
    "optuna_tpe": Arm("Optuna workers, TPE", "optuna_workers.py", ("--sampler", "tpe"), stores=("mlflow", "optuna")),
    "optuna_gp": Arm(
        "Optuna workers, GPSampler", "optuna_workers.py", ("--sampler", "gp"), stores=("mlflow", "optuna")
    ),
    "syne_tune": Arm("Syne Tune, MO-ASHA", "syne_tune_script.py", requires="syne_tune", stores=("records",)),
    "naive": Arm("baseline loop, random search", "naive_loop.py", stores=("records",)),
    **{
        f"without_{feature}": _ablation_arm(feature)
        for feature in ("stopping", "compaction", "shared_steps", "start", "long_lived_workers")
    },
}
SCRIPT_ARMS = "tune", "tune_asha"  # the better of them is the reference of the ratio "total"
PARTS_ARMS = "parts", "parts_asha"
