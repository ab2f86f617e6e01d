"""The tasks, the search space and a trial of the race, on the published implementation or on forcetune's."""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import naive
import torch
from optuna.trial import Trial as OptunaTrial

from forcetune import data, models
from forcetune.pruning import find_masks
from forcetune.training import Training

TASKS: dict[str, dict[str, Any]] = {  # the fields that no arm searches
    "fashion": {
        "dataset": "fashion_mnist",
        "train_samples": 5000,
        "model": "resnet8",
        "width": 8,
        "epochs": 4,
        "batch_size": 128,
    },
    "digits": {"dataset": "digits", "model": "mlp", "epochs": 8, "batch_size": 64},
}
RACE_METHODS = ["random", "snip", "force", "synflow"]
ITERATIVE_METHODS = ["force", "synflow"]
DENSITY_RANGE = 0.005, 0.5
ITERATIONS_RANGE = 2, 20
LR_RANGE = 0.02, 0.5
EVALUATION_BATCH_SIZE = 1024
SLOTS = 2  # trials at once, in every arm
ENDLESS_TRIALS = 100_000  # time ends the race, not the number of trials


def forcetune_space() -> dict[str, Any]:
    """Return the search space in the form of the `trial:` section of a study file."""
    ranges = {"density": DENSITY_RANGE, "iterations": ITERATIONS_RANGE, "lr": LR_RANGE}
    space: dict[str, Any] = {name: {"low": low, "high": high, "log": True} for name, (low, high) in ranges.items()}
    space["iterations"]["when"] = {"method": ITERATIVE_METHODS}
    return {"method": RACE_METHODS, **space}


def suggest(trial: OptunaTrial) -> dict[str, Any]:
    """Ask an Optuna trial for a configuration."""
    config: dict[str, Any] = {"method": trial.suggest_categorical("method", RACE_METHODS)}
    config["density"] = trial.suggest_float("density", *DENSITY_RANGE, log=True)
    config["lr"] = trial.suggest_float("lr", *LR_RANGE, log=True)
    if config["method"] in ITERATIVE_METHODS:
        config["iterations"] = trial.suggest_int("iterations", *ITERATIONS_RANGE, log=True)
    return config


def draw(generator: random.Random) -> dict[str, Any]:
    """Draw a configuration at random."""
    config: dict[str, Any] = {"method": generator.choice(RACE_METHODS)}
    config["density"] = math.exp(generator.uniform(*map(math.log, DENSITY_RANGE)))
    config["lr"] = math.exp(generator.uniform(*map(math.log, LR_RANGE)))
    if config["method"] in ITERATIVE_METHODS:
        config["iterations"] = round(math.exp(generator.uniform(*map(math.log, ITERATIONS_RANGE))))
    return config


def run_published(task: str, config: dict[str, Any], seed: int) -> Iterator[tuple[float, float]]:
    """Run a trial on the baseline's implementation; yield accuracy and density after each epoch.

    The images are read in the process of the trial: with two trials on two cores, a worker process for each loader
    costs its start and saves nothing.
    """
    return naive.run_trial({**TASKS[task], **config, "seed": seed, "workers": 0})


def run_on_forcetune(task: str, config: dict[str, Any], seed: int) -> Iterator[tuple[float, float]]:
    """Run a trial on forcetune's data path, masks and training step; yield accuracy and density after each epoch."""
    fields = TASKS[task]
    torch.manual_seed(seed)
    dataset = data.load(fields["dataset"])
    training, validation = dataset.split(seed, fields.get("train_samples"))
    model = models.build(fields["model"], dataset.input_shape, dataset.classes, fields.get("width"), seed)
    saliency_batches = dataset.batches(training, fields["batch_size"], seed + 1)
    iterations = config.get("iterations", 1)
    masks = find_masks(model, saliency_batches, config["method"], config["density"], iterations=iterations, seed=seed)
    density = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    epochs = Training(
        model,
        masks,
        dataset.batches(training, fields["batch_size"], seed + 2),
        dataset.batches(validation, EVALUATION_BATCH_SIZE),
        epochs=fields["epochs"],
        lr=config["lr"],
        input_shape=dataset.input_shape,
    )
    for metrics in epochs:
        yield metrics["val_accuracy"], density


IMPLEMENTATIONS: dict[str, Callable[[str, dict[str, Any], int], Iterator[tuple[float, float]]]] = {
    "published": run_published,
    "forcetune": run_on_forcetune,
}


def run_trial(implementation: str, task: str, config: dict[str, Any], seed: int) -> Iterator[dict[str, float]]:
    """Run a trial with one thread; yield its metrics after each epoch, with the logarithm of the density.

    The samplers get the logarithm: on a linear axis, all densities above 99 % sparsity lie within half a percent.
    """
    torch.set_num_threads(1)
    for epoch, (accuracy, density) in enumerate(IMPLEMENTATIONS[implementation](task, config, seed), 1):
        yield {"epoch": epoch, "val_accuracy": accuracy, "density": density, "log_density": math.log10(density)}


def record(path: str | Path, config: dict[str, Any], metrics: dict[str, float]) -> None:
    """Append a trial that has ended, stopped early or not, to the file of records."""
    names = "epoch", "val_accuracy", "density"
    row = {"ended": time.time(), "config": config, **{name: metrics[name] for name in names}}
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def parse_arguments(description: str | None, **options: dict[str, Any]) -> argparse.Namespace:
    """Parse the command line of a rival: the task, the seed, the number of trials and further options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=ENDLESS_TRIALS, help="trials in all")
    parser.add_argument("--records", default="records.jsonl", help="file that gets a line for each trial that ends")
    for name, settings in options.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()
