"""A whole study against the baseline's loop on the same trials: 64 of ResNet-8 on 5000 images of Fashion-MNIST.

    python benchmarks/study.py

FORCE masks, 16 densities by 4 learning rates, no early stopping. The baseline starts a process for each trial
(naive.py), forcetune searches the grid of them; both with two trials at once, a thread each. Half of the baseline's
trials run before the search and half after it, so that what else the machine does falls on both sides.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

NAIVE = Path(__file__).with_name("naive.py")
LEARNING_RATES = (0.05, 0.1, 0.2, 0.4)
COMMON = {"dataset": "fashion_mnist", "train_samples": 5000, "model": "resnet8", "iterations": 10}


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=int, default=16, help="each with four learning rates")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial")
    arguments = parser.parse_args()
    common = {**COMMON, "epochs": arguments.epochs}
    densities = [float(f"{density:.4g}") for density in np.geomspace(0.005, 0.5, arguments.densities)]
    trials = [{**common, "density": density, "lr": lr} for density in densities for lr in LEARNING_RATES]
    before, first = baseline(trials[::2])
    ours, accuracies = forcetune(common, densities)
    after, second = baseline(trials[1::2])
    theirs = before + after
    print(f"{len(trials)} trials of {arguments.epochs} epochs, two at once, {os.cpu_count()} cores\n")
    print("| loop | seconds | seconds a trial | mean validation accuracy |")
    print("|---|---:|---:|---:|")
    for name, seconds, reached in (("baseline", theirs, first + second), ("forcetune", ours, accuracies)):
        print(f"| {name} | {seconds:.0f} | {seconds / len(trials):.1f} | {mean(reached):.4f} |")
    print(f"\nbaseline / forcetune: {theirs / ours:.2f}")


def baseline(trials: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """Seconds, and the validation accuracies: a process a trial, two at once."""

    def train(trial: dict[str, Any]) -> float:
        command = [sys.executable, NAIVE, json.dumps(trial)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        reached: float = json.loads(done.stdout)["val_accuracy"]
        return reached

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        reached = list(pool.map(train, trials))
    return time.perf_counter() - started, reached


def forcetune(common: dict[str, Any], densities: list[float]) -> tuple[float, list[float]]:
    """The same of one search, from the command to its end, in an empty folder."""
    study = {
        "study": "whole",
        "trial": {**common, "method": "force", "density": densities, "lr": list(LEARNING_RATES)},
        "search": {"sampler": "grid", "stopping": "none"},
        "resources": {"cpus": 1, "concurrent": 2},
    }
    command = [sys.executable, "-c", "from forcetune.cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "whole.yaml").write_text(yaml.safe_dump(study))
        started = time.perf_counter()
        subprocess.run([*command, "search", "whole.yaml"], check=True, capture_output=True, cwd=folder)
        seconds = time.perf_counter() - started
        from forcetune.tracking import table

        told = table("whole", f"sqlite:///{folder}/mlflow.db")
    return seconds, told["val_accuracy"].tolist()


if __name__ == "__main__":
    main()
