"""What rules of early stopping keep of a front, and what they cost, replayed on recorded learning curves.

    python benchmarks/stopping.py
    forcetune search benchmarks/curves.yaml && python benchmarks/stopping.py --record curves

The recordings, in files beside this one: 4 convolutions on Fashion-MNIST, 15 epochs, with a cosine and with a stepped
learning rate (curves_fashion.json), and ResNet-8 on the handwritten digits, 24 epochs, made by the study in
curves.yaml and written by `--record` (curves_digits.json). Nothing is trained here and nothing is interpolated: a
replay lets two workers take the recorded trials in a random order, the epochs one by one, and asks the rule as a
search does. Hypervolume on log10 density, from accuracy 0.1 and density 0.5, over trials trained to their end.
"""

import argparse
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from forcetune.analysis import hypervolume, non_dominated, pareto_ranks
from forcetune.search.stopping import EarlyStopping, Rule, pareto, safe
from forcetune.spec import Trial
from forcetune.stores import mlflow_uri

HERE = Path(__file__).parent
WORKERS = 2
DIRECTIONS = {"val_accuracy": "max", "density": "min"}
REFERENCES = {"val_accuracy": 0.1, "density": 0.5}
BANDS = ((0.003, 0.01), (0.01, 0.03), (0.03, 0.1), (0.1, 0.5))
SHARE = 0.35  # of the pool's full trainings: the budget of the second table
LATE_LEADER = "A13"  # its accuracy dips at each rung, and then it leads


@dataclass(frozen=True)
class Curve:
    """A recorded trial: validation accuracy by epoch, and where it was measured that of the averaged weights."""

    name: str
    trial: Trial
    accuracy: list[float]
    averaged: list[float | None] | None


@dataclass
class Replayed:
    """What a replay trained to its end, what it stopped, and its cost in full trainings."""

    done: list[Curve]
    stopped: list[Curve]
    cost: float


def accuracy_alone(losses: np.ndarray) -> str | None:
    """ASHA [1810.05934] on the first objective, eta 2."""
    behind = (losses[:, 0] < losses[-1, 0]).sum() >= len(losses) / 2
    return "behind" if len(losses) > 1 and behind else None


def plain(losses: np.ndarray) -> str | None:
    """MO-ASHA [2106.12639], eta 2: by non-dominated rank, and within a rank by an epsilon-net, unguarded."""
    ranks = pareto_ranks(losses)
    level = losses[ranks == ranks[-1]] * 1.0
    level[:, 1] = np.log10(level[:, 1])
    place = (ranks < ranks[-1]).sum() + net(level).index(len(level) - 1)
    return "behind" if len(losses) > 1 and place >= len(losses) / 2 else None


def net(points: np.ndarray) -> list[int]:
    """The order in which each next point is the one farthest from those before it, axes scaled to their range."""
    scaled = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    order = [int(scaled[:, 0].argmin())]
    near = np.full(len(points), np.inf)
    while len(order) < len(points):
        near = np.minimum(near, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
        near[order] = -1
        order.append(int(near.argmax()))
    return order


RULES: dict[str, Rule | None] = {
    "none": None,
    "ASHA on accuracy": accuracy_alone,
    "MO-ASHA": plain,
    "`safe`": safe,
    "`pareto`": pareto,
}


def main() -> None:
    """Record, or replay and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="STUDY", help="write the curves of this study in MLflow beside this file")
    parser.add_argument("--orders", type=int, default=100, help="random orders of the trials that are replayed")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record)
        return
    fashion, digits = read("curves_fashion.json"), read("curves_digits.json")
    cosine = [curve for curve in fashion if curve.trial.lr_schedule == "cosine"]
    averaged = [curve for curve in cosine if curve.averaged]
    report("ResNet-8 on the digits", digits, arguments.orders)
    report("Fashion-MNIST, trials with averaged weights", averaged, arguments.orders)
    report("Fashion-MNIST, stepped learning rate", [c for c in fashion if c not in cosine], arguments.orders)
    report("Fashion-MNIST, all trials", cosine, arguments.orders, averages=False)


def read(name: str) -> list[Curve]:
    """The curves of a file."""
    fixed = {"dataset": "synthetic", "model": "mlp", "method": "random"}
    return [
        Curve(
            found["name"],
            Trial(**fixed, density=found["density"], epochs=found["epochs"], lr_schedule=found["lr_schedule"]),
            found["accuracy"],
            found["averaged"],
        )
        for found in json.loads((HERE / name).read_text())
    ]


def record(study: str) -> None:
    """Write the trained trials of a study, which stopped none."""
    from mlflow import MlflowClient

    from forcetune.tracking import trial_fields

    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], "tags.`forcetune.outcome` = 'trained'", max_results=1000)
    found = []
    for run in sorted(runs, key=lambda run: str(run.info.run_name)):
        trial = Trial(**trial_fields(run.info.run_id))
        told: dict[str, list[float | None]] = {}
        for name in ("val_accuracy", "ema_val_accuracy"):
            steps = {m.step: round(m.value, 5) for m in client.get_metric_history(run.info.run_id, name)}
            told[name] = [steps.get(epoch) for epoch in range(1, trial.epochs + 1)]
        found.append(
            {
                "name": run.info.run_name,
                "method": trial.method,
                "density": float(f"{run.data.metrics['density']:.6g}"),
                "epochs": trial.epochs,
                "lr_schedule": trial.lr_schedule,
                "accuracy": told["val_accuracy"],
                "averaged": told["ema_val_accuracy"],
            }
        )
    lines = ",\n".join(json.dumps(curve, separators=(",", ":")) for curve in found)
    (HERE / "curves_digits.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(found)} curves")


def replay(order: list[Curve], rule: Rule | None, averages: bool, budget: float = np.inf) -> Replayed:
    """Train the curves in this order, no further one once the budget of full trainings is spent."""
    stopping = EarlyStopping(rule, DIRECTIONS)
    found = Replayed([], [], 0.0)
    left, ties = iter(enumerate(order)), count()
    running: list[tuple[int, int, int, int, Curve]] = []

    def start(now: int) -> None:
        following = next(left, None) if found.cost < budget else None
        if following:
            heapq.heappush(running, (now + 1, next(ties), 1, *following))

    for _ in range(WORKERS):
        start(0)
    while running:
        now, _, epoch, number, curve = heapq.heappop(running)
        found.cost += 1 / curve.trial.epochs
        metrics = {"density": curve.trial.density, "val_accuracy": curve.accuracy[epoch - 1]}
        average = curve.averaged[epoch - 1] if averages and curve.averaged else None
        if average is not None:
            metrics["ema_val_accuracy"] = average
        if stopping.judge(number, curve.trial, epoch, metrics):
            found.stopped.append(curve)
            start(now)
        elif epoch == curve.trial.epochs:
            found.done.append(curve)
            start(now)
        else:
            heapq.heappush(running, (now + 1, next(ties), epoch + 1, number, curve))
    return found


def report(title: str, pool: list[Curve], orders: int, averages: bool = True) -> None:
    """Print what each rule keeps of the same trials, then what it reaches with the same budget."""
    shuffled = [[pool[i] for i in np.random.default_rng(seed).permutation(len(pool))] for seed in range(orders)]
    judged = "averaged weights" if averages else "the weights as they are"
    print(f"\n{title}: {len(pool)} trials, {orders} orders, judged by {judged}\n")
    columns = "rule | compute | hypervolume kept | its worst order | worst accuracy lost by density band, points: "
    print(f"| {columns}{', '.join(f'{low:g}–{high:g}' for low, high in BANDS)} | front members stopped | worth |")
    print("|---|---:|---:|---:|---|---:|---:|", flush=True)
    budget = SHARE * len(pool)
    without = [np.mean([volume(order[:n]) for order in shuffled]) for n in range(len(pool) + 1)]
    whole = volume(pool)
    costs = {}
    for name, rule in RULES.items():
        same = [replay(order, rule, averages) for order in shuffled]
        costs[name] = float(np.mean([found.cost for found in same])) / len(pool)
        reached = np.mean([volume(replay(order, rule, averages, budget).done) for order in shuffled])
        worth = next((n for n, mean in enumerate(without) if mean >= reached), len(pool)) / budget
        line(name, costs[name], [found.done for found in same], pool, whole, f"{worth:.2f}")
    size = round(costs["`pareto`"] * len(pool))
    line(f"{size} trials at random", size / len(pool), [order[:size] for order in shuffled], pool, whole, "1")
    if any(curve.name == LATE_LEADER for curve in pool):
        for name, rule in RULES.items():
            survived = sum(
                all(c.name != LATE_LEADER for c in replay(order, rule, averages).stopped) for order in shuffled
            )
            print(f"{LATE_LEADER}, which dips and then leads, survives {name} in {survived} of {orders} orders")


def line(name: str, cost: float, kept: list[list[Curve]], pool: list[Curve], whole: float, worth: str) -> None:
    """Print a row: what the trials that were trained to their end, one list an order, have of the whole front."""
    shares = [volume(found) / whole for found in kept]
    losses = np.mean([[lost(found, pool, *band) for band in BANDS] for found in kept], axis=0)
    front = {curve.name for curve in front_of(pool)}
    missing = np.mean([len(front - {curve.name for curve in found}) for found in kept])
    bands = ", ".join(f"{100 * loss:.1f}" for loss in losses)
    print(
        f"| {name} | {cost:.2f} | {np.mean(shares):.4f} | {min(shares):.4f} | {bands} | "
        f"{missing:.1f} of {len(front)} | {worth} |",
        flush=True,
    )


def points(curves: list[Curve]) -> np.ndarray:
    """(n, 2): the last accuracy and the density of each."""
    return np.array([(curve.accuracy[-1], curve.trial.density) for curve in curves]).reshape(-1, 2)


def volume(curves: list[Curve]) -> float:
    """Their hypervolume."""
    return hypervolume(points(curves), DIRECTIONS, REFERENCES)


def front_of(curves: list[Curve]) -> list[Curve]:
    """Those that no other dominates."""
    keep = non_dominated(points(curves), list(DIRECTIONS.values()))
    return [curve for curve, kept in zip(curves, keep, strict=True) if kept]


def lost(kept: list[Curve], pool: list[Curve], low: float, high: float) -> float:
    """The most accuracy that is lost at a density of this band, against the front of all."""
    best: Callable[[list[Curve], float], float] = lambda curves, density: max(  # noqa: E731
        (curve.accuracy[-1] for curve in curves if curve.trial.density <= density), default=REFERENCES["val_accuracy"]
    )
    densities = [curve.trial.density for curve in front_of(pool) if low <= curve.trial.density <= high]
    return max((best(pool, density) - best(kept, density) for density in densities), default=0.0)


if __name__ == "__main__":
    main()
