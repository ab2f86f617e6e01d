"""Accuracies of configurations with fresh seeds, measured by one program for all arms and kept in a file."""

import json
import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from recipe import TASKS

from forcetune import trial
from forcetune.study import Task, Trial
from racing.score import config_key

FIRST_FRESH_SEED = 1000  # no arm searches with this seed or a higher one
FRESH_PROCESSES = 2


def measure_fresh(configs: Iterable[tuple[str, dict[str, Any]]], path: Path, seeds: int) -> None:
    """Train configurations with fresh seeds, and append the rows that the file lacks.

    configs: pairs of a task's name and a configuration. A seed draws the split, the initial weights, the order and the
    saliency data. The accuracy is measured on the test images, which no arm has seen.
    """
    rows = read_rows(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # a crash may have cut off the last line
    measured = {(row["key"], row["seed"]) for row in rows}
    missing: dict[tuple[str, int], tuple[str, dict[str, Any], int]] = {}
    for task, config in configs:
        for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + seeds):
            key = config_key(TASKS[task], config), seed
            if key not in measured:
                missing[key] = task, config, seed
    if not missing:
        return
    print(f"{len(missing)} trainings with fresh seeds", flush=True)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(FRESH_PROCESSES, context, torch.set_num_threads, (1,)) as pool,
        path.open("a") as file,
    ):
        trainings = [pool.submit(measure_configuration, training) for training in missing.values()]
        try:
            for number, training in enumerate(as_completed(trainings), 1):
                file.write(json.dumps(training.result()) + "\n")
                file.flush()
                if number % 50 == 0:
                    print(f"  {number} of {len(missing)}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # where one of them fails


def measure_configuration(training: tuple[str, dict[str, Any], int]) -> dict[str, Any]:
    """Train a configuration with a seed; return its key, its seed and its accuracy."""
    task, config, seed = training
    *_, metrics = trial.run(Trial(**TASKS[task], **config, seed=seed), Task(tested=True))
    return {"key": config_key(TASKS[task], config), "seed": seed, "accuracy": metrics["test_accuracy"]}


def fresh_accuracies(path: Path) -> Mapping[str, float]:
    """Return the mean accuracy over the fresh seeds, by configuration key."""
    accuracies: dict[str, list[float]] = {}
    for row in read_rows(path):
        accuracies.setdefault(row["key"], []).append(row["accuracy"])
    return {key: sum(values) / len(values) for key, values in accuracies.items()}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the file, without a last line that a crash has cut off."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
