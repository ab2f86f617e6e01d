"""Constants that several test files share."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SEARCH_SPACES = REPOSITORY / "search_spaces"
FORCETUNE_COMMAND = [sys.executable, "-c", "from forcetune.cli import main; main()"]
DEFAULT_OBJECTIVES = {"val_accuracy": "max", "density": "min"}
MARGIN_POINTS = 0.5  # of validation accuracy: a smaller difference counts as a tie
# The script prints its folder, its environment and its arguments.
PRINTING_SCRIPT = """#!/bin/sh
pwd
env
printf '%s\\n' "$@"
"""
