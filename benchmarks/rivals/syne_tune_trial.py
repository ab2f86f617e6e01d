"""A trial of syne_tune_script.py, in a process of its own."""

import argparse

import recipe
from syne_tune import Reporter


def main() -> None:
    """Train the configuration that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value_type in {"task": str, "parts": str, "method": str, "density": float, "lr": float}.items():
        parser.add_argument(f"--{name}", type=value_type, required=True)
    for name in ("seed", "iterations"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments, _ = parser.parse_known_args()
    config = {name: getattr(arguments, name) for name in ("method", "density", "lr", "iterations")}
    report = Reporter()
    for metrics in recipe.run_trial(arguments.parts, arguments.task, config, arguments.seed):
        report(**metrics, error=1 - metrics["val_accuracy"])


if __name__ == "__main__":
    main()
