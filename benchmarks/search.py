"""What samplers find in 64 trials: the hypervolume of the front, on real trials.

    python benchmarks/search.py --seeds 10

Every trial prunes and trains an MLP on the handwritten digits, to its end. TPE, NSGA-II and random draw from one
space; the grid is 4 methods by 8 densities by 2 learning rates of it. A search's seed is its trials' seed too, so
that the samplers of a seed meet the same split and initial weights. Hypervolume on log10 density, from chance
accuracy and density 0.5.
"""

import argparse
import multiprocessing
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from forcetune import trial
from forcetune.analysis import hypervolume
from forcetune.search.proposals import make_proposals
from forcetune.spec import Study

TRIALS = 64
CHANCE = 0.1
SAMPLERS = ("tpe", "nsga2", "random", "grid")
LOW, HIGH = 0.005, 0.5
SPACE: dict[str, Any] = {
    "method": ["random_erk", "snip", "force", "synflow"],
    "density": {"low": LOW, "high": HIGH, "log": True},
    "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["force", "synflow"]}},
    "lr": {"low": 0.02, "high": 0.5, "log": True},
}
GRID: dict[str, Any] = {
    "method": SPACE["method"],
    "density": [float(f"{density:.4g}") for density in np.geomspace(LOW, HIGH, 8)],
    "lr": [0.05, 0.2],
}


def main() -> None:
    """Search with every sampler and seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="searches with each sampler")
    parser.add_argument("--processes", type=int, default=2, help="searches at once")
    arguments = parser.parse_args()
    wanted = [(sampler, seed) for seed in range(arguments.seeds) for sampler in SAMPLERS]
    found: dict[str, list[list[float]]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool:
        for sampler, volumes in pool.imap(search, wanted):
            found[sampler].append(volumes)
    print(f"Hypervolume of the front, mean and standard deviation of {arguments.seeds} searches\n")
    print("| sampler | after 16 trials | after 32 | after 64 | seeds in which it beats random |")
    print("|---|---:|---:|---:|---:|")
    for sampler, volumes in found.items():
        at = [[row[n - 1] for row in volumes] for n in (16, 32, TRIALS)]
        cells = " | ".join(f"{np.mean(column):.3f} ± {np.std(column, ddof=1):.3f}" for column in at)
        wins = sum(row[-1] > other[-1] for row, other in zip(volumes, found["random"], strict=True))
        print(f"| {sampler} | {cells} | {'' if sampler == 'random' else f'{wins} of {arguments.seeds}'} |")


def search(wanted: tuple[str, int]) -> tuple[str, list[float]]:
    """The hypervolume after each trial of a search."""
    sampler, seed = wanted
    fixed = {"dataset": "digits", "model": "mlp", "epochs": 6, "seed": seed}
    study = Study.from_dict(
        {
            "study": "search",
            "trial": {**fixed, **(GRID if sampler == "grid" else SPACE)},
            "search": {"sampler": sampler, "trials": TRIALS, "seed": seed},
        }
    )
    proposals = make_proposals(study, [])
    order = np.random.default_rng(seed).permutation(TRIALS) if sampler == "grid" else range(TRIALS)
    proposed = [proposals.ask() for _ in range(TRIALS)] if sampler == "grid" else []
    points: list[list[float]] = []
    volumes: list[float] = []
    for number in order:
        proposal = proposed[number] if proposed else proposals.ask()
        assert proposal
        metrics = list(trial.run(proposal.trial))[-1]
        values, trained = [metrics["val_accuracy"], metrics["density"]], metrics["epoch"] > 0
        proposals.tell(proposal, values, trained)
        points += [values] if trained else []
        reached = np.array(points).reshape(-1, 2)
        volumes.append(hypervolume(reached, study.directions, study.references(CHANCE)))
    return sampler, volumes


if __name__ == "__main__":
    main()
