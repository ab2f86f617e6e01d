"""Configurations measured again with fresh seeds, by one program for all arms; kept in a folder by configuration."""

import json
import multiprocessing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from recipe import TASKS

from forcetune import trial
from forcetune.spec import Task, Trial
from racing.score import config_key

FIRST_FRESH_SEED = 1000  # no arm searches with it
PROCESSES = 2


def measure_fresh(configs: Iterable[tuple[str, dict[str, Any]]], folder: Path, seeds: int) -> None:
    """Train each configuration, beside its task's name, with fresh seeds, but for those whose files are there.

    A seed draws the split, the initial weights, the order and the saliency data; the accuracy is that on the test
    images, which no arm has seen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing: dict[Path, tuple[str, dict[str, Any], int, Path]] = {}
    for task, config in configs:
        for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + seeds):
            path = folder / f"{config_key(TASKS[task], config)}-{seed}.json"
            if not path.exists():
                missing[path] = task, config, seed, path
    if not missing:
        return
    print(f"{len(missing)} trainings with fresh seeds", flush=True)
    with multiprocessing.get_context("spawn").Pool(PROCESSES, torch.set_num_threads, (1,)) as pool:
        for number, _ in enumerate(pool.imap_unordered(measure_one, missing.values()), 1):
            if number % 50 == 0:
                print(f"  {number} of {len(missing)}", flush=True)


def measure_one(wanted: tuple[str, dict[str, Any], int, Path]) -> None:
    """Train one configuration with one seed and write its accuracy."""
    task, config, seed, path = wanted
    *_, metrics = trial.run(Trial(**TASKS[task], **config, seed=seed), Task(tested=True))
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"task": task, "config": config, "seed": seed, "accuracy": metrics["test_accuracy"]}))
    part.rename(path)


def fresh_accuracies(folder: Path) -> Mapping[str, float]:
    """Return the mean accuracy of the fresh seeds by configuration key."""
    measured: dict[str, list[float]] = {}
    for path in folder.glob("*.json"):
        measured.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text())["accuracy"])
    return {key: sum(accuracies) / len(accuracies) for key, accuracies in measured.items()}
