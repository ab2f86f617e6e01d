"""A whole study against the baseline's loop on the same trials: 64 of ResNet-8 on 5000 images of Fashion-MNIST.

    python benchmarks/study.py

The trials have FORCE masks, 16 densities by 4 learning rates, and no early stopping. The baseline starts a process for
each trial (naive.py); forcetune searches the grid of them. Both run two trials at once with a thread each. Half of the
baseline's trials run before the search and half after it, so that other load on the machine falls on both.
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

NAIVE_SCRIPT = Path(__file__).with_name("naive.py")
LEARNING_RATES = (0.05, 0.1, 0.2, 0.4)
COMMON_FIELDS = {"dataset": "fashion_mnist", "train_samples": 5000, "model": "resnet8", "iterations": 10}


def main() -> None:
    """Run the baseline and forcetune, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=int, default=16, help="each with four learning rates")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial")
    arguments = parser.parse_args()
    common = {**COMMON_FIELDS, "epochs": arguments.epochs}
    densities = [float(f"{density:.4g}") for density in np.geomspace(0.005, 0.5, arguments.densities)]
    trials = [{**common, "density": density, "lr": lr} for density in densities for lr in LEARNING_RATES]
    first_s, first_accuracies = run_baseline(trials[::2])
    forcetune_s, forcetune_accuracies = run_forcetune(common, densities)
    second_s, second_accuracies = run_baseline(trials[1::2])
    baseline_s = first_s + second_s
    print(f"{len(trials)} trials of {arguments.epochs} epochs, two at once, {os.cpu_count()} cores\n")
    print("| loop | seconds | seconds a trial | mean validation accuracy |")
    print("|---|---:|---:|---:|")
    for name, seconds, accuracies in (
        ("baseline", baseline_s, first_accuracies + second_accuracies),
        ("forcetune", forcetune_s, forcetune_accuracies),
    ):
        print(f"| {name} | {seconds:.0f} | {seconds / len(trials):.1f} | {mean(accuracies):.4f} |")
    print(f"\nbaseline / forcetune: {baseline_s / forcetune_s:.2f}")


def run_baseline(trials: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """Return the seconds and the validation accuracies of the trials, each in a process of its own, two at once."""

    def train(trial: dict[str, Any]) -> float:
        command = [sys.executable, str(NAIVE_SCRIPT), json.dumps(trial)]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        accuracy: float = json.loads(process.stdout)["val_accuracy"]
        return accuracy

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        accuracies = list(pool.map(train, trials))
    return time.perf_counter() - started, accuracies


def run_forcetune(common: dict[str, Any], densities: list[float]) -> tuple[float, list[float]]:
    """Return the seconds and the validation accuracies of a search, from the command to its end, in an empty folder."""
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
        from forcetune.tracking import load_table

        trials = load_table("whole", f"sqlite:///{folder}/mlflow.db").trials
    return seconds, trials["val_accuracy"].tolist()


if __name__ == "__main__":
    main()
