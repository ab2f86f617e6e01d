"""How often the verdicts on pairs are wrong, by simulation: at no difference, at the margin, and beyond it.

Differences are normal with a standard deviation of 1 point, or those of a twin that collapses in some runs and loses
20 points then. One comparison at a time, 12 pairs, a margin of 0.5 points; nights: 30 of them with 2 pairs each.
"""

import argparse
from collections.abc import Callable

import numpy as np

from forcetune.analysis import follow, interval, judge

PAIRS, MARGIN, LOST = 12, 0.5, 20.0
Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(mean: float) -> Draw:
    return lambda generator, pairs: generator.normal(mean, 1, pairs)


def collapsing(share: float) -> Draw:
    """With a mean of 0: what is won in the runs that collapse is lost evenly in the others."""

    def draw(generator: np.random.Generator, pairs: int) -> np.ndarray:
        return LOST * (generator.random(pairs) < share) - LOST * share + generator.normal(0, 1, pairs)

    return draw


CASES: dict[str, Draw] = {
    "no difference": normal(0),
    "at the margin": normal(MARGIN),
    "one point": normal(1),
    "two points": normal(2),
    "no difference, the twin collapses in 3 of 10 runs": collapsing(0.3),
    "no difference, the twin collapses in 1 of 10 runs": collapsing(0.1),
}


def once(draw: Draw, runs: int, generator: np.random.Generator) -> tuple[dict[str, float], float]:
    """How often each verdict is given, and how often the interval holds the mean of the differences."""
    samples = [draw(generator, PAIRS) for _ in range(runs)]
    told = [judge([sample], MARGIN)[0].verdict for sample in samples]
    mean = float(np.mean(draw(generator, 10**6)))
    held = [low <= mean <= high for _, low, high in map(interval, samples)]
    return {verdict: told.count(verdict) / runs for verdict in ("beats", "ties", "loses")}, float(np.mean(held))


def nights(draw: Draw, runs: int, generator: np.random.Generator) -> dict[str, float]:
    """How often each verdict stands on any of 30 nights."""
    counts = dict.fromkeys(("beats", "ties", "loses"), 0)
    for _ in range(runs):
        evidence = [(f"{night:02}", value) for night in range(30) for value in draw(generator, 2)]
        stood = {step.holds for step in follow({"one": evidence}, MARGIN)["one"]}
        for verdict in stood & counts.keys():
            counts[verdict] += 1
    return {verdict: count / runs for verdict, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--nights", type=int, default=300, help="runs of 30 nights")
    asked = parser.parse_args()
    generator = np.random.default_rng(0)
    print("| differences | beats | ties | loses | interval holds the mean |\n|---|---:|---:|---:|---:|")
    for name, draw in CASES.items():
        rates, coverage = once(draw, asked.runs, generator)
        print(f"| {name} | {' | '.join(f'{rate:.1%}' for rate in rates.values())} | {coverage:.1%} |", flush=True)
    for name in ("no difference", "at the margin", "two points"):
        rates = nights(CASES[name], asked.nights, generator)
        print(f"| 30 nights, {name} | {' | '.join(f'{rate:.1%}' for rate in rates.values())} | |", flush=True)


if __name__ == "__main__":
    main()
