"""The hypervolume of the fronts that samplers find in 64 real trials.

    python benchmarks/search.py --seeds 10

Every trial prunes an MLP and trains it on the handwritten digits to its end. TPE, NSGA-II and random draw from one
space; the grid has 4 methods, 8 densities and 2 learning rates of it. The seed of a search is also the seed of its
trials, so that all samplers of a seed get the same split and initial weights. The hypervolume is that on log10 density,
from chance accuracy and density 0.5.
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
from forcetune.study import Study

SEARCH_TRIALS = 64
DIGITS_CHANCE = 0.1
COMPARED_SAMPLERS = ("tpe", "nsga2", "random", "grid")
SPACE_LOW_DENSITY, SPACE_HIGH_DENSITY = 0.005, 0.5
SPACE: dict[str, Any] = {
    "method": ["random_erk", "snip", "force", "synflow"],
    "density": {"low": SPACE_LOW_DENSITY, "high": SPACE_HIGH_DENSITY, "log": True},
    "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["force", "synflow"]}},
    "lr": {"low": 0.02, "high": 0.5, "log": True},
}
GRID: dict[str, Any] = {
    "method": SPACE["method"],
    "density": [float(f"{density:.4g}") for density in np.geomspace(SPACE_LOW_DENSITY, SPACE_HIGH_DENSITY, 8)],
    "lr": [0.05, 0.2],
}


def main() -> None:
    """Search with every sampler and seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="searches with each sampler")
    parser.add_argument("--processes", type=int, default=2, help="searches at once")
    arguments = parser.parse_args()
    searches = [(sampler, seed) for seed in range(arguments.seeds) for sampler in COMPARED_SAMPLERS]
    volumes_by_sampler: dict[str, list[list[float]]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(arguments.processes, torch.set_num_threads, (1,)) as pool:
        for sampler, search_volumes in pool.imap(search, searches):
            volumes_by_sampler[sampler].append(search_volumes)
    print(f"Hypervolume of the front, mean and standard deviation of {arguments.seeds} searches\n")
    print("| sampler | after 16 trials | after 32 | after 64 | seeds in which it beats random |")
    print("|---|---:|---:|---:|---:|")
    for sampler, volumes in volumes_by_sampler.items():
        columns = [[row[n - 1] for row in volumes] for n in (16, 32, SEARCH_TRIALS)]
        cells = " | ".join(f"{np.mean(column):.3f} ± {np.std(column, ddof=1):.3f}" for column in columns)
        wins = sum(
            row[-1] > random_row[-1] for row, random_row in zip(volumes, volumes_by_sampler["random"], strict=True)
        )
        print(f"| {sampler} | {cells} | {'' if sampler == 'random' else f'{wins} of {arguments.seeds}'} |")


def search(sampler_and_seed: tuple[str, int]) -> tuple[str, list[float]]:
    """Return the sampler, and the hypervolume after each trial of its search."""
    sampler, seed = sampler_and_seed
    fixed = {"dataset": "digits", "model": "mlp", "epochs": 6, "seed": seed}
    study = Study.from_dict(
        {
            "study": "search",
            "trial": {**fixed, **(GRID if sampler == "grid" else SPACE)},
            "search": {"sampler": sampler, "trials": SEARCH_TRIALS, "seed": seed},
        }
    )
    proposals = make_proposals(study, [])
    order = np.random.default_rng(seed).permutation(SEARCH_TRIALS) if sampler == "grid" else range(SEARCH_TRIALS)
    grid_proposals = [proposals.ask() for _ in range(SEARCH_TRIALS)] if sampler == "grid" else []
    points: list[list[float]] = []
    volumes: list[float] = []
    for number in order:
        proposal = grid_proposals[number] if grid_proposals else proposals.ask()
        assert proposal
        metrics = list(trial.run(proposal.trial))[-1]
        values, is_trained = [metrics["val_accuracy"], metrics["density"]], metrics["epoch"] > 0
        proposals.tell(proposal, values, is_trained)
        points += [values] if is_trained else []
        all_points = np.array(points).reshape(-1, 2)
        volumes.append(hypervolume(all_points, study.directions, study.references(DIGITS_CHANCE)))
    return sampler, volumes


if __name__ == "__main__":
    main()
