"""Constants that several test files share."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SEARCH_SPACES = REPOSITORY / "search_spaces"
FORCETUNE_COMMAND = [sys.executable, "-c", "from forcetune.cli import main; main()"]
# A study of a second a trial, and the fields of trials whose weights are kept and exported.
SMALL_STUDY = {
    "study": "small",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "width": 12,
        "method": ["random", "magnitude", "snip", "force"],
        "density": {"low": 0.01, "high": 0.5, "log": True},
        "iterations": {"choices": [2, 5], "when": {"method": "force"}},
        "epochs": 2,
        "lr": {"choices": [0.1, 0.2]},
    },
    "search": {"trials": 8},
    "resources": {"concurrent": 2},
}
SNIP_TRIAL = {"dataset": "synthetic", "model": "mlp", "width": 24, "method": "snip", "epochs": 3}
DEFAULT_OBJECTIVES = {"val_accuracy": "max", "density": "min"}
MARGIN_POINTS = 0.5  # of validation accuracy: a smaller difference counts as a tie
# The script prints its folder, its environment and its arguments.
PRINTING_SCRIPT = """#!/bin/sh
pwd
env
printf '%s\\n' "$@"
"""
