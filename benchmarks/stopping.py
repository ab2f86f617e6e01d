"""The share of a front that rules of early stopping keep, and their cost, replayed on recorded learning curves.

    python benchmarks/stopping.py
    forcetune search benchmarks/curves.yaml && python benchmarks/stopping.py --record curves

The recordings are files beside this one. curves_fashion.json has 4 convolutions on Fashion-MNIST, 15 epochs, with a
cosine and with a stepped learning rate. curves_digits.json has ResNet-8 on the handwritten digits, 24 epochs, from the
study in curves.yaml, written by `--record`. Nothing is trained here and nothing is interpolated: in a replay, two
workers take the recorded trials in a random order, epoch by epoch, and the rule is asked as in a search. The
hypervolume is that on log10 density, from accuracy 0.1 and density 0.5, over the trials trained to their end.
"""

import argparse
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from forcetune.analysis import hypervolume, non_dominated, pareto_ranks
from forcetune.search.stopping import EarlyStopping, Rule, pareto, safe
from forcetune.stores import mlflow_uri
from forcetune.study import Trial

CURVES_FOLDER = Path(__file__).parent
REPLAY_WORKERS = 2
REPLAY_DIRECTIONS = {"val_accuracy": "max", "density": "min"}
REPLAY_REFERENCES = {"val_accuracy": 0.1, "density": 0.5}
DENSITY_BANDS = ((0.003, 0.01), (0.01, 0.03), (0.03, 0.1), (0.1, 0.5))
BUDGET_SHARE = 0.35  # of the full trainings of all trials: the budget of the column `worth`
LATE_LEADER = "A13"  # the trial whose accuracy dips at each rung before it leads


@dataclass(frozen=True)
class Curve:
    """A recorded trial: its validation accuracy by epoch and, where measured, that of the averaged weights."""

    name: str
    trial: Trial
    accuracy: list[float]
    averaged: list[float | None] | None


@dataclass
class Replay:
    """The outcome of a replay: the curves trained to their end, the stopped curves, and the cost in full trainings."""

    done: list[Curve]
    stopped: list[Curve]
    cost: float


def asha(losses: np.ndarray) -> str | None:
    """Apply ASHA [1810.05934] to the first objective, with eta 2."""
    is_behind = (losses[:, 0] < losses[-1, 0]).sum() >= len(losses) / 2
    return "behind" if len(losses) > 1 and is_behind else None


def mo_asha(losses: np.ndarray) -> str | None:
    """Apply MO-ASHA [2106.12639], eta 2: by non-dominated rank, within a rank by an epsilon-net, without a guard."""
    ranks = pareto_ranks(losses)
    level = losses[ranks == ranks[-1]] * 1.0
    level[:, 1] = np.log10(level[:, 1])
    position = (ranks < ranks[-1]).sum() + epsilon_net_order(level).index(len(level) - 1)
    return "behind" if len(losses) > 1 and position >= len(losses) / 2 else None


def epsilon_net_order(points: np.ndarray) -> list[int]:
    """Return the order in which each point is the farthest from those before it, with axes scaled to their range."""
    scaled = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    order = [int(scaled[:, 0].argmin())]
    distances = np.full(len(points), np.inf)
    while len(order) < len(points):
        distances = np.minimum(distances, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
        distances[order] = -1
        order.append(int(distances.argmax()))
    return order


RULES: dict[str, Rule | None] = {
    "none": None,
    "ASHA on accuracy": asha,
    "MO-ASHA": mo_asha,
    "`safe`": safe,
    "`pareto`": pareto,
}


def main() -> None:
    """Record curves, or replay them and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="STUDY", help="write the curves of this study in MLflow beside this file")
    parser.add_argument("--orders", type=int, default=100, help="random orders of the trials that are replayed")
    arguments = parser.parse_args()
    if arguments.record:
        record_curves(arguments.record)
        return
    fashion, digits = read_curves("curves_fashion.json"), read_curves("curves_digits.json")
    cosine = [curve for curve in fashion if curve.trial.lr_schedule == "cosine"]
    averaged = [curve for curve in cosine if curve.averaged]
    report("ResNet-8 on the digits", digits, arguments.orders)
    report("Fashion-MNIST, trials with averaged weights", averaged, arguments.orders)
    report("Fashion-MNIST, stepped learning rate", [c for c in fashion if c not in cosine], arguments.orders)
    report("Fashion-MNIST, all trials", cosine, arguments.orders, averages=False)


def read_curves(name: str) -> list[Curve]:
    """Return the curves of a file."""
    fixed: dict[str, Any] = {"dataset": "synthetic", "model": "mlp", "method": "random"}
    return [
        Curve(
            row["name"],
            Trial(**fixed, density=row["density"], epochs=row["epochs"], lr_schedule=row["lr_schedule"]),
            row["accuracy"],
            row["averaged"],
        )
        for row in json.loads((CURVES_FOLDER / name).read_text())
    ]


def record_curves(study: str) -> None:
    """Write the curves of the trained trials of a study that stopped no trial."""
    from mlflow import MlflowClient

    from forcetune.tracking import load_trial_fields

    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name(study)
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`forcetune.outcome` = 'trained'", max_results=1000)
    rows = []
    for run in sorted(runs, key=lambda run: str(run.info.run_name)):
        trial = Trial(**load_trial_fields(run.info.run_id))
        accuracies: dict[str, list[float | None]] = {}
        for name in ("val_accuracy", "ema_val_accuracy"):
            steps = {m.step: round(m.value, 5) for m in client.get_metric_history(run.info.run_id, name)}
            accuracies[name] = [steps.get(epoch) for epoch in range(1, trial.epochs + 1)]
        rows.append(
            {
                "name": run.info.run_name,
                "method": trial.method,
                "density": float(f"{run.data.metrics['density']:.6g}"),
                "epochs": trial.epochs,
                "lr_schedule": trial.lr_schedule,
                "accuracy": accuracies["val_accuracy"],
                "averaged": accuracies["ema_val_accuracy"],
            }
        )
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (CURVES_FOLDER / "curves_digits.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(rows)} curves")


def replay(order: list[Curve], rule: Rule | None, averages: bool, budget: float = np.inf) -> Replay:
    """Replay the curves in this order; start no further curve once the budget of full trainings is spent."""
    stopping = EarlyStopping(rule, REPLAY_DIRECTIONS)
    outcome = Replay([], [], 0.0)
    waiting, tie_breakers = iter(enumerate(order)), count()
    running: list[tuple[int, int, int, int, Curve]] = []

    def start(now: int) -> None:
        next_curve = next(waiting, None) if outcome.cost < budget else None
        if next_curve:
            heapq.heappush(running, (now + 1, next(tie_breakers), 1, *next_curve))

    for _ in range(REPLAY_WORKERS):
        start(0)
    while running:
        now, _, epoch, number, curve = heapq.heappop(running)
        outcome.cost += 1 / curve.trial.epochs
        metrics = {"density": curve.trial.density, "val_accuracy": curve.accuracy[epoch - 1]}
        averaged_accuracy = curve.averaged[epoch - 1] if averages and curve.averaged else None
        if averaged_accuracy is not None:
            metrics["ema_val_accuracy"] = averaged_accuracy
        if stopping.judge(number, curve.trial, epoch, metrics):
            outcome.stopped.append(curve)
            start(now)
        elif epoch == curve.trial.epochs:
            outcome.done.append(curve)
            start(now)
        else:
            heapq.heappush(running, (now + 1, next(tie_breakers), epoch + 1, number, curve))
    return outcome


def report(title: str, pool: list[Curve], orders: int, averages: bool = True) -> None:
    """Print what each rule keeps of the same trials, and what it reaches with the same budget."""
    shuffled = [[pool[i] for i in np.random.default_rng(seed).permutation(len(pool))] for seed in range(orders)]
    judged_by = "averaged weights" if averages else "the weights as they are"
    print(f"\n{title}: {len(pool)} trials, {orders} orders, judged by {judged_by}\n")
    columns = "rule | compute | hypervolume kept | its worst order | worst accuracy lost by density band, points: "
    print(
        f"| {columns}{', '.join(f'{low:g}–{high:g}' for low, high in DENSITY_BANDS)} | front members stopped | worth |"
    )
    print("|---|---:|---:|---:|---|---:|---:|", flush=True)
    budget = BUDGET_SHARE * len(pool)
    volumes_without_rule = [np.mean([volume(order[:n]) for order in shuffled]) for n in range(len(pool) + 1)]
    pool_volume = volume(pool)
    costs = {}
    for name, rule in RULES.items():
        replays = [replay(order, rule, averages) for order in shuffled]
        costs[name] = float(np.mean([outcome.cost for outcome in replays])) / len(pool)
        budget_volume = np.mean([volume(replay(order, rule, averages, budget).done) for order in shuffled])
        relative_budget = (
            next((n for n, mean in enumerate(volumes_without_rule) if mean >= budget_volume), len(pool)) / budget
        )
        print_row(name, costs[name], [outcome.done for outcome in replays], pool, pool_volume, f"{relative_budget:.2f}")
    size = round(costs["`pareto`"] * len(pool))
    print_row(
        f"{size} trials at random", size / len(pool), [order[:size] for order in shuffled], pool, pool_volume, "1"
    )
    if any(curve.name == LATE_LEADER for curve in pool):
        for name, rule in RULES.items():
            survived = sum(
                all(c.name != LATE_LEADER for c in replay(order, rule, averages).stopped) for order in shuffled
            )
            print(f"{LATE_LEADER}, which dips and then leads, survives {name} in {survived} of {orders} orders")


def print_row(
    name: str, cost: float, kept: list[list[Curve]], pool: list[Curve], pool_volume: float, relative_budget: str
) -> None:
    """Print the row of a rule; `kept` has the trials that were trained to their end, a list for each order."""
    shares = [volume(curves) / pool_volume for curves in kept]
    losses = np.mean([[accuracy_lost(curves, pool, *band) for band in DENSITY_BANDS] for curves in kept], axis=0)
    front = {curve.name for curve in front_of(pool)}
    stopped_members = np.mean([len(front - {curve.name for curve in curves}) for curves in kept])
    bands = ", ".join(f"{100 * loss:.1f}" for loss in losses)
    print(
        f"| {name} | {cost:.2f} | {np.mean(shares):.4f} | {min(shares):.4f} | {bands} | "
        f"{stopped_members:.1f} of {len(front)} | {relative_budget} |",
        flush=True,
    )


def points(curves: list[Curve]) -> np.ndarray:
    """Return the last accuracy and the density of each curve, shape (curves, 2)."""
    return np.array([(curve.accuracy[-1], curve.trial.density) for curve in curves]).reshape(-1, 2)


def volume(curves: list[Curve]) -> float:
    """Return the hypervolume of the curves."""
    return hypervolume(points(curves), REPLAY_DIRECTIONS, REPLAY_REFERENCES)


def front_of(curves: list[Curve]) -> list[Curve]:
    """Return the curves that no other curve dominates."""
    mask = non_dominated(points(curves), list(REPLAY_DIRECTIONS.values()))
    return [curve for curve, is_on_front in zip(curves, mask, strict=True) if is_on_front]


def accuracy_lost(kept: list[Curve], pool: list[Curve], low: float, high: float) -> float:
    """Return the largest loss of accuracy at a density of this band, against the front of the pool."""
    best: Callable[[list[Curve], float], float] = lambda curves, density: max(  # noqa: E731
        (curve.accuracy[-1] for curve in curves if curve.trial.density <= density),
        default=REPLAY_REFERENCES["val_accuracy"],
    )
    densities = [curve.trial.density for curve in front_of(pool) if low <= curve.trial.density <= high]
    return max((best(pool, density) - best(kept, density) for density in densities), default=0.0)


if __name__ == "__main__":
    main()
