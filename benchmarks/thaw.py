"""The worth of taking stopped trials up again: pause and thaw, replayed on the recorded curves of stopping.py.

    python benchmarks/thaw.py

A trial pauses at each of its rungs and keeps its checkpoint. A free worker either thaws a paused trial or starts the
next one. `best 1/n` thaws, as ASHA with promotions does, what belongs to the best n-th of its rung by non-dominated
rank, and what no trial of its rung dominates; `then 1/2` takes the better half once no new trial is left. `gain`
thaws the trial that adds most area to the front for its remaining epochs, if it finishes as much higher as the finished
trials did (median), unless a new trial promises more. `pareto` is the rule of today, whose stopped trials stay stopped.
Columns and recordings are those of stopping.py; what is paused in the end was never finished.
"""

import argparse
import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from stopping import (
    BUDGET_SHARE,
    DENSITY_BANDS,
    REPLAY_REFERENCES,
    REPLAY_WORKERS,
    Curve,
    Replay,
    print_row,
    read_curves,
    replay,
    volume,
)

from forcetune.analysis import pareto_ranks
from forcetune.analysis.belief import Staircase
from forcetune.search.stopping import GRACE_TRIALS, pareto
from forcetune.training import find_rungs

PROMOTED_PARTS, LAST_PART = (2, 3, 4, 6), 2
USUAL_RISE = 0.05  # of the accuracy from a rung to the end, until trials have finished
REMEMBERED_STARTS = 20  # the last new trials, whose gains say what the next one promises
DENSITY_DECADES = float(np.log10(0.5 / 0.003))


@dataclass
class Paused:
    """The trials of a replay: which have paused where, and what they had reached.

    Attributes:
        waiting: Rung and epoch of each paused trial, by its number.
        rungs: For each rung the accuracy and the density of each trial that has reached it, by its number.
        finished: The accuracies and densities of the finished trials, by their number.
        first_gains: The area that each trial promised to add at its first rung.
    """

    waiting: dict[int, tuple[str, int]] = field(default_factory=dict)
    rungs: dict[str, dict[int, tuple[float, float]]] = field(default_factory=lambda: defaultdict(dict))
    finished: dict[int, tuple[float, float]] = field(default_factory=dict)
    first_gains: list[float] = field(default_factory=list)


Policy = Callable[[Paused, list[Curve], bool], int | None]  # the paused trial to thaw; None to start the next one


def thaw_best(
    paused: Paused, order: list[Curve], has_new: bool, promoted_part: int, last_part: int | None = None
) -> int | None:
    """Thaw what belongs to the best part of its rung, later rungs first; to `last_part` where no new trial is left."""
    promoted_part = promoted_part if has_new or last_part is None else last_part
    by_rung: dict[str, list[int]] = defaultdict(list)
    for number, (rung, _) in paused.waiting.items():
        by_rung[rung].append(number)
    for rung in sorted(by_rung, key=lambda name: -max(paused.waiting[number][1] for number in by_rung[name])):
        numbers = [*paused.rungs[rung]]
        points = np.array([paused.rungs[rung][number] for number in numbers]) * [-1, 1]
        ranks = dict(zip(numbers, pareto_ranks(points).tolist(), strict=True))
        best = min(by_rung[rung], key=lambda number: (ranks[number], number))
        ahead = sum(rank < ranks[best] for rank in ranks.values())
        level = sum(rank == ranks[best] for rank in ranks.values()) - 1
        if ranks[best] == 0 or len(ranks) <= GRACE_TRIALS or ahead + level / 2 < len(ranks) / promoted_part:
            return best
    return None


def thaw_gain(paused: Paused, order: list[Curve], has_new: bool) -> int | None:
    """Thaw the trial with the largest gain for its remaining epochs, unless a new trial promises more."""
    if not paused.waiting:
        return None
    numbers = [*paused.waiting]
    remaining = np.array([1 - paused.waiting[number][1] / order[number].trial.epochs for number in numbers])
    rates = dict(zip(numbers, (expect_gains(paused, numbers) / remaining).tolist(), strict=True))
    best = max(rates, key=lambda number: rates[number])
    promised = float(np.mean(paused.first_gains[-REMEMBERED_STARTS:])) if has_new else 0.0
    is_worth_it = rates[best] > 0 and (rates[best] >= promised or len(paused.first_gains) <= GRACE_TRIALS)
    return best if is_worth_it else None


def expect_gains(paused: Paused, numbers: list[int]) -> np.ndarray:
    """Return the area that each paused trial adds to the front if it finishes as much higher as others did."""
    points = np.array([*paused.finished.values()]).reshape(-1, 2)
    staircase = Staircase.from_points(scale(points[:, 1]), points[:, 0], REPLAY_REFERENCES["val_accuracy"])
    rises = {rung: expect_rise(paused, rung) for rung in paused.rungs}
    reached = np.array([paused.rungs[paused.waiting[number][0]][number] for number in numbers])
    rise = np.array([rises[paused.waiting[number][0]] for number in numbers])
    heights = np.maximum(np.minimum(reached[:, :1] + rise[:, None], 1.0) - staircase.heights, 0)
    gains: np.ndarray = (heights * staircase.measure_lengths(scale(reached[:, 1]))).sum(1)
    return gains


def expect_rise(paused: Paused, rung: str) -> float:
    """Return how much higher than at a rung trials have finished, the median."""
    rises = [paused.finished[i][0] - paused.rungs[rung][i][0] for i in paused.finished if i in paused.rungs[rung]]
    return float(np.median(rises)) if len(rises) > 2 else USUAL_RISE


def scale(densities: np.ndarray) -> np.ndarray:
    """Return densities on a logarithmic scale, the reference at 1."""
    scaled: np.ndarray = 1 + np.log10(densities / REPLAY_REFERENCES["density"]) / DENSITY_DECADES
    return scaled


POLICIES: dict[str, Policy] = {
    **{f"best 1/{divisor}": partial(thaw_best, promoted_part=divisor) for divisor in PROMOTED_PARTS},
    **{
        f"best 1/{divisor} then 1/{LAST_PART}": partial(thaw_best, promoted_part=divisor, last_part=LAST_PART)
        for divisor in PROMOTED_PARTS[1:]
    },
    "gain": thaw_gain,
}


def main() -> None:
    """Replay the curves with each policy, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=100, help="random orders of the trials that are replayed")
    parser.add_argument("--policies", default=",".join(["pareto", *POLICIES]), help="with commas between")
    arguments = parser.parse_args()
    policies = arguments.policies.split(",")
    cosine = [curve for curve in read_curves("curves_fashion.json") if curve.trial.lr_schedule == "cosine"]
    report("ResNet-8 on the digits", read_curves("curves_digits.json"), arguments.orders, policies)
    averaged = [curve for curve in cosine if curve.averaged]
    report("Fashion-MNIST, trials with averaged weights", averaged, arguments.orders, policies)


def report(title: str, pool: list[Curve], orders: int, policies: list[str]) -> None:
    """Print what each policy keeps of the same trials, and what it reaches with the same budget."""
    shuffled = [[pool[i] for i in np.random.default_rng(seed).permutation(len(pool))] for seed in range(orders)]
    print(f"\n{title}: {len(pool)} trials, {orders} orders\n")
    bands = ", ".join(f"{low:g}–{high:g}" for low, high in DENSITY_BANDS)
    print(
        "| policy | compute | hypervolume kept | its worst order | worst accuracy lost by density band, points: "
        f"{bands} | front members stopped | worth |"
    )
    print("|---|---:|---:|---:|---|---:|---:|", flush=True)
    budget = BUDGET_SHARE * len(pool)
    volumes_without_rule = [np.mean([volume(order[:n]) for order in shuffled]) for n in range(len(pool) + 1)]
    replays: dict[str, Callable[..., Replay]] = {
        "pareto": lambda order, budget=np.inf: replay(order, pareto, True, budget),
        **{name: partial(replay_paused, policy) for name, policy in POLICIES.items()},
    }
    for name in policies:
        run = replays[name]
        outcomes = [run(order) for order in shuffled]
        budget_volume = np.mean([volume(run(order, budget=budget).done) for order in shuffled])
        worth = next((n for n, mean in enumerate(volumes_without_rule) if mean >= budget_volume), len(pool)) / budget
        cost = float(np.mean([outcome.cost for outcome in outcomes])) / len(pool)
        print_row(name, cost, [outcome.done for outcome in outcomes], pool, volume(pool), f"{worth:.2f}")


def replay_paused(policy: Policy, order: list[Curve], budget: float = np.inf) -> Replay:
    """Replay the curves in this order; begin nothing once the budget of full trainings is spent."""
    paused, outcome, tie_breakers = Paused(), Replay([], [], 0.0), count()
    running: list[tuple[int, int, int, int]] = []  # the time of the next pause, a tie breaker, number and epoch then
    next_new = 0

    def begin(now: int) -> None:
        nonlocal next_new
        if outcome.cost >= budget:
            return
        number = policy(paused, order, next_new < len(order))
        if number is None:
            if next_new == len(order):
                return
            number, next_new = next_new, next_new + 1
        _, epoch = paused.waiting.pop(number, ("", 0))
        trial = order[number].trial
        pause = min((e for e in find_rungs(trial.epochs, trial.lr_schedule) if e > epoch), default=trial.epochs)
        outcome.cost += (pause - epoch) / trial.epochs
        heapq.heappush(running, (now + pause - epoch, next(tie_breakers), number, pause))

    for _ in range(REPLAY_WORKERS):
        begin(0)
    while running:
        now, _, number, epoch = heapq.heappop(running)
        arrive(paused, outcome, order[number], number, epoch)
        while len(running) < REPLAY_WORKERS:
            before = len(running)
            begin(now)
            if len(running) == before:
                break
    outcome.stopped += [order[number] for number in paused.waiting]
    return outcome


def arrive(paused: Paused, outcome: Replay, curve: Curve, number: int, epoch: int) -> None:
    """Note that a trial has reached a rung, where it pauses, or its end."""
    trial: Any = curve.trial
    if epoch == trial.epochs:
        paused.finished[number] = (curve.accuracy[-1], trial.density)
        outcome.done.append(curve)
        return
    averaged = curve.averaged[epoch - 1] if curve.averaged else None
    accuracy = curve.accuracy[epoch - 1] if averaged is None else averaged
    rung = find_rungs(trial.epochs, trial.lr_schedule)[epoch]
    is_first = all(number not in reached for reached in paused.rungs.values())
    paused.rungs[rung][number] = (accuracy, trial.density)
    paused.waiting[number] = (rung, epoch)
    if is_first:
        paused.first_gains.append(float(expect_gains(paused, [number])[0]))


if __name__ == "__main__":
    main()
