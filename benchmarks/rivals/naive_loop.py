"""A rival: random search by a loop that starts the baseline as a process for each trial, two at once.

    PYTHONPATH=.:benchmarks python benchmarks/rivals/naive_loop.py --task digits

It keeps only its file of records, so the same command after a crash begins anew.
"""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import naive
import recipe


def main() -> None:
    """Draw configurations and train each in a process of its own."""
    arguments = recipe.parse_arguments(__doc__)
    fields = recipe.TASKS[arguments.task]
    generator = random.Random(arguments.seed)

    def train(config: dict[str, Any]) -> None:
        trial = {**fields, **config, "seed": arguments.seed, "workers": 0}
        command = [sys.executable, naive.__file__, json.dumps(trial)]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        metrics = {"epoch": fields["epochs"], **json.loads(process.stdout)}
        recipe.record(Path(arguments.records), config, metrics)

    with ThreadPoolExecutor(recipe.SLOTS) as pool:
        list(pool.map(train, (recipe.draw(generator) for _ in range(arguments.trials))))


if __name__ == "__main__":
    main()
