"""The rates at which the verdicts on pairs are wrong, by simulation: without a difference, at the margin and beyond it.

The differences are normal with a standard deviation of 1 point, or those of a twin that collapses in some runs and then
loses 20 points. A single comparison has 12 pairs and a margin of 0.5 points; a series has 30 nights with 2 pairs each.
"""

import argparse
from collections.abc import Callable

import numpy as np

from forcetune.analysis import follow, judge, student_interval

PAIRS, MARGIN_POINTS, COLLAPSE_LOSS_POINTS = 12, 0.5, 20.0
Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal_draw(mean: float) -> Draw:
    """Return a draw of normal differences with this mean and a standard deviation of 1 point."""
    return lambda generator, pairs: generator.normal(mean, 1, pairs)


def collapse_draw(share: float) -> Draw:
    """Return a draw with a mean of 0: the gain in the runs that collapse is lost evenly over all runs."""

    def draw(generator: np.random.Generator, pairs: int) -> np.ndarray:
        return (
            COLLAPSE_LOSS_POINTS * (generator.random(pairs) < share)
            - COLLAPSE_LOSS_POINTS * share
            + generator.normal(0, 1, pairs)
        )

    return draw


DRAWS: dict[str, Draw] = {
    "no difference": normal_draw(0),
    "at the margin": normal_draw(MARGIN_POINTS),
    "one point": normal_draw(1),
    "two points": normal_draw(2),
    "no difference, the twin collapses in 3 of 10 runs": collapse_draw(0.3),
    "no difference, the twin collapses in 1 of 10 runs": collapse_draw(0.1),
}


def single_rates(draw: Draw, runs: int, generator: np.random.Generator) -> tuple[dict[str, float], float]:
    """Return the share of runs with each verdict, and the share whose interval holds the mean of the differences."""
    samples = [draw(generator, PAIRS) for _ in range(runs)]
    verdicts = [judge([sample], MARGIN_POINTS)[0].verdict for sample in samples]
    mean = float(np.mean(draw(generator, 10**6)))
    is_covered = [low <= mean <= high for _, low, high in map(student_interval, samples)]
    return {verdict: verdicts.count(verdict) / runs for verdict in ("beats", "ties", "loses")}, float(
        np.mean(is_covered)
    )


def nightly_rates(draw: Draw, runs: int, generator: np.random.Generator) -> dict[str, float]:
    """Return the share of runs in which each verdict stands on any of 30 nights."""
    counts = dict.fromkeys(("beats", "ties", "loses"), 0)
    for _ in range(runs):
        evidence = [(f"{night:02}", value) for night in range(30) for value in draw(generator, 2)]
        standing_verdicts = {step.holds for step in follow({"one": evidence}, MARGIN_POINTS)["one"]}
        for verdict in standing_verdicts & counts.keys():
            counts[verdict] += 1
    return {verdict: count / runs for verdict, count in counts.items()}


def main() -> None:
    """Simulate all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--nights", type=int, default=300, help="runs of 30 nights")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    print("| differences | beats | ties | loses | interval holds the mean |\n|---|---:|---:|---:|---:|")
    for name, draw in DRAWS.items():
        rates, coverage = single_rates(draw, arguments.runs, generator)
        print(f"| {name} | {' | '.join(f'{rate:.1%}' for rate in rates.values())} | {coverage:.1%} |", flush=True)
    for name in ("no difference", "at the margin", "two points"):
        rates = nightly_rates(DRAWS[name], arguments.nights, generator)
        print(f"| 30 nights, {name} | {' | '.join(f'{rate:.1%}' for rate in rates.values())} | |", flush=True)


if __name__ == "__main__":
    main()
