"""The cost and the gain of TPE's window, the front and the last trials alone, against all trials.

    python benchmarks/window.py --trials 1500 --seeds 6

Each seed searches twice, in turn, with the same sampler and seed on the same problem, without training. The problem is
a made-up accuracy by method, density, iterations and learning rate, shaped like the curves of pruned networks: each
method falls off at a density of its own, later with more iterations. Its noise is as large as that between seeds.
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
from forcetune.study import Study, Trial

CLIFF_LOG_DENSITIES = {
    "random": -1.2,
    "magnitude": -1.4,
    "snip": -1.6,
    "iter_snip": -2.0,
    "force": -2.1,
    "synflow": -2.2,
}
HIGHEST_ACCURACY, CHANCE_ACCURACY, CLIFF_STEEPNESS, ACCURACY_NOISE = 0.92, 0.1, 4.0, 0.005
LOWEST_DENSITY, HIGHEST_DENSITY = 0.001, 0.5
WINDOW_STUDY = {
    "study": "window",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "method": list(CLIFF_LOG_DENSITIES),
        "density": {"low": LOWEST_DENSITY, "high": HIGHEST_DENSITY, "log": True},
        "iterations": {"low": 2, "high": 50, "log": True},
        "lr": {"low": 0.01, "high": 1.0, "log": True},
        "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": [32, 64, 128],
    },
}


def main() -> None:
    """Search with the window and without it for each seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1500, help="trials of a search")
    parser.add_argument("--seeds", type=int, default=6, help="searches of each kind")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    all_trials = arguments.trials
    pairs = [
        (search(seed, arguments.trials, proposals.TPE_WINDOW_TRIALS), search(seed, arguments.trials, all_trials))
        for seed in range(arguments.seeds)
    ]
    report(arguments, pairs)


def search(seed: int, trials: int, window: int) -> tuple[float, float]:
    """Return the hypervolume of a search, and the seconds of an ask, median over the last tenth of the trials."""
    study = Study.from_dict({**WINDOW_STUDY, "search": {"trials": trials, "seed": seed}})
    noise = random.Random(seed)
    points: list[tuple[float, float]] = []
    seconds = []
    with set_window(window):
        proposer = proposals.make_proposals(study, [])
        for _ in range(trials):
            started = time.perf_counter()
            proposal = proposer.ask()
            seconds.append(time.perf_counter() - started)
            assert proposal is not None
            true_accuracy, density = accuracy(proposal.trial), proposal.trial.density
            points.append((true_accuracy, density))
            proposer.tell(proposal, [true_accuracy + noise.gauss(0, ACCURACY_NOISE), density])
    return hypervolume(points), median(seconds[-trials // 10 :])


@contextlib.contextmanager
def set_window(window: int) -> Iterator[None]:
    """Set TPE's window to this size while the context is entered."""
    previous_window, proposals.TPE_WINDOW_TRIALS = proposals.TPE_WINDOW_TRIALS, window
    try:
        yield
    finally:
        proposals.TPE_WINDOW_TRIALS = previous_window


def accuracy(trial: Trial) -> float:
    """Return the accuracy of the made-up network, without noise."""
    iterations_share = math.log(trial.iterations) / math.log(50) if "iterations" in trial.fields() else 0.0
    cliff = CLIFF_LOG_DENSITIES[trial.method] - 0.3 * iterations_share
    share = 1 / (1 + math.exp(-CLIFF_STEEPNESS * (math.log10(trial.density) - cliff)))
    loss = 0.05 * math.log10(trial.lr / 0.1) ** 2 + 0.01 * math.log10(trial.weight_decay / 5e-4) ** 2
    return max(CHANCE_ACCURACY, HIGHEST_ACCURACY * share - loss - 0.01 * math.log2(trial.batch_size / 32))


def hypervolume(points: list[tuple[float, float]]) -> float:
    """Return the area that accuracies and log10 densities dominate, as a share of the largest possible one."""
    area, best = 0.0, CHANCE_ACCURACY
    low, high = math.log10(LOWEST_DENSITY), math.log10(HIGHEST_DENSITY)
    # from sparse to dense, only a higher accuracy adds area
    for value, density in sorted(points, key=lambda point: point[1]):
        if value > best:
            area += (value - best) * (high - math.log10(density))
            best = value
    return area / ((1 - CHANCE_ACCURACY) * (high - low))


def report(arguments: argparse.Namespace, pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    """Print the results with the window and without it, and the ratios of the pairs."""
    print(f"{arguments.trials} trials, {arguments.seeds} seeds\n")
    print("| TPE looks at | hypervolume, mean | its deviation over seeds | an ask at the end, ms |")
    print("|---|---:|---:|---:|")
    for name, searches in zip(
        (f"the front and the last {proposals.TPE_WINDOW_TRIALS}", "all"), zip(*pairs, strict=True), strict=True
    ):
        volumes, seconds = zip(*searches, strict=True)
        print(f"| {name} | {mean(volumes):.4f} | {stdev(volumes):.4f} | {1000 * median(seconds):.1f} |")
    ratios = [windowed[0] / unlimited[0] for windowed, unlimited in pairs]
    speedup = median(unlimited[1] / windowed[1] for windowed, unlimited in pairs)
    print(
        f"\nhypervolume, window over all: {mean(ratios):.4f} on average, {min(ratios):.4f} to {max(ratios):.4f}; "
        f"an ask, all over window: {speedup:.1f}"
    )


if __name__ == "__main__":
    main()
