"""What it costs and saves that TPE looks at the front and the last trials alone, against all of them.

    python benchmarks/window.py --trials 1500 --seeds 6

Each seed searches twice, in turn, with the same sampler and seed on the same problem, without training: a made-up
accuracy by method, density, iterations and learning rate, shaped like the curves of pruned networks (each method
falls off at a density of its own, later with more iterations), with noise of a seed's size.
"""

import argparse
import contextlib
import math
import random
import time
from collections.abc import Iterator
from statistics import mean, median, stdev

import optuna

from forcetune.search import proposals
from forcetune.spec import Study, Trial

CLIFFS = {"random": -1.2, "magnitude": -1.4, "snip": -1.6, "iter_snip": -2.0, "force": -2.1, "synflow": -2.2}
BEST, CHANCE, STEEPNESS, NOISE = 0.92, 0.1, 4.0, 0.005
LOWEST, DENSEST = 0.001, 0.5  # density
STUDY = {
    "study": "window",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "method": list(CLIFFS),
        "density": {"low": LOWEST, "high": DENSEST, "log": True},
        "iterations": {"low": 2, "high": 50, "log": True},
        "lr": {"low": 0.01, "high": 1.0, "log": True},
        "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": [32, 64, 128],
    },
}


def main() -> None:
    """Search both ways for each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1500, help="trials of a search")
    parser.add_argument("--seeds", type=int, default=6, help="searches of each kind")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    everything = arguments.trials
    pairs = [
        (search(seed, arguments.trials, proposals.WINDOW), search(seed, arguments.trials, everything))
        for seed in range(arguments.seeds)
    ]
    report(arguments, pairs)


def search(seed: int, trials: int, window: int) -> tuple[float, float]:
    """The hypervolume of a search, and the seconds of an ask, median of its last tenth."""
    study = Study.from_dict({**STUDY, "search": {"trials": trials, "seed": seed}})
    noise = random.Random(seed)
    points: list[tuple[float, float]] = []
    seconds = []
    with looking_at(window):
        proposer = proposals.make_proposals(study, [])
        for _ in range(trials):
            started = time.perf_counter()
            proposal = proposer.ask()
            seconds.append(time.perf_counter() - started)
            assert proposal is not None
            true, density = accuracy(proposal.trial), proposal.trial.density
            points.append((true, density))
            proposer.tell(proposal, [true + noise.gauss(0, NOISE), density])
    return hypervolume(points), median(seconds[-trials // 10 :])


@contextlib.contextmanager
def looking_at(window: int) -> Iterator[None]:
    """TPE's window of this size meanwhile."""
    before, proposals.WINDOW = proposals.WINDOW, window
    try:
        yield
    finally:
        proposals.WINDOW = before


def accuracy(trial: Trial) -> float:
    """What the made-up network reaches, before noise."""
    steps = math.log(trial.iterations) / math.log(50) if "iterations" in trial.fields() else 0.0
    cliff = CLIFFS[trial.method] - 0.3 * steps
    kept = 1 / (1 + math.exp(-STEEPNESS * (math.log10(trial.density) - cliff)))
    off = 0.05 * math.log10(trial.lr / 0.1) ** 2 + 0.01 * math.log10(trial.weight_decay / 5e-4) ** 2
    return max(CHANCE, BEST * kept - off - 0.01 * math.log2(trial.batch_size / 32))


def hypervolume(points: list[tuple[float, float]]) -> float:
    """The area that accuracies and log10 densities dominate, as a share of the whole."""
    area, best = 0.0, CHANCE
    low, high = math.log10(LOWEST), math.log10(DENSEST)
    for value, density in sorted(points, key=lambda point: point[1]):  # from sparse to dense, each step upwards counts
        if value > best:
            area += (value - best) * (high - math.log10(density))
            best = value
    return area / ((1 - CHANCE) * (high - low))


def report(arguments: argparse.Namespace, pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    """Print both, and the ratios pair by pair."""
    print(f"{arguments.trials} trials, {arguments.seeds} seeds\n")
    print("| TPE looks at | hypervolume, mean | its deviation over seeds | an ask at the end, ms |")
    print("|---|---:|---:|---:|")
    for name, found in zip(
        (f"the front and the last {proposals.WINDOW}", "all"), zip(*pairs, strict=True), strict=True
    ):
        areas, seconds = zip(*found, strict=True)
        print(f"| {name} | {mean(areas):.4f} | {stdev(areas):.4f} | {1000 * median(seconds):.1f} |")
    ratios = [ours[0] / all_of_it[0] for ours, all_of_it in pairs]
    faster = median(all_of_it[1] / ours[1] for ours, all_of_it in pairs)
    print(
        f"\nhypervolume, window over all: {mean(ratios):.4f} on average, {min(ratios):.4f} to {max(ratios):.4f}; "
        f"an ask, all over window: {faster:.1f}"
    )


if __name__ == "__main__":
    main()
