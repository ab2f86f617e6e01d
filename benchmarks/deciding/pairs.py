"""Verdicts on a fixed number of pairs: how often the earlier rule and the rule of two parts are wrong.

Differences have a standard deviation of one point, and the margin is half a point, where a case says nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forcetune.analysis import Pairs, decide
from forcetune.analysis.flips import sign_flip_p

MARGIN_POINTS, ALPHA, COLLAPSE_LOSS_POINTS = 0.5, 0.05, 20.0
PAIR_COUNTS = (8, 12, 20)
DIFFERENT = ("beats", "loses")


@dataclass(frozen=True)
class Sample:
    """Simulated pairs of one comparison.

    Attributes:
        points: The differences of all pairs with the accuracy of collapsed runs as it is, of shape (pairs,).
        champion_collapses: Whether the champion's run collapsed, of shape (pairs,).
        twin_collapses: Whether the twin's run collapsed, of shape (pairs,).
    """

    points: np.ndarray
    champion_collapses: np.ndarray
    twin_collapses: np.ndarray

    def to_pairs(self) -> Pairs:
        """Return the pairs as the rule of two parts takes them."""
        live = ~(self.champion_collapses | self.twin_collapses)
        return Pairs(self.points[live], self.champion_collapses, self.twin_collapses)


Draw = Callable[[np.random.Generator, int], Sample]


@dataclass(frozen=True)
class Case:
    """A case of the table.

    Attributes:
        name: The name of the case.
        draw: Draws the pairs of a comparison.
        wrong: The verdicts that are wrong where they say no more than their word.
        assumption: What the case breaks: an assumption that a verdict may name, or nothing.
        pair_counts: The numbers of pairs.
        right: The verdict whose frequency is the power of the rule; empty where the table shows errors.
    """

    name: str
    draw: Draw
    wrong: tuple[str, ...] = DIFFERENT
    assumption: str = ""
    pair_counts: tuple[int, ...] = PAIR_COUNTS
    right: str = ""


def rows(repetitions: int, seed: int) -> pd.DataFrame:
    """Simulate all cases.

    Args:
        repetitions: The number of simulated comparisons of each row.
        seed: The seed of the simulation.

    Returns:
        A row for each case and number of pairs: case, pairs, counted (the verdict whose share follows), before (its
        share by the earlier rule), after (its share by the rule of two parts, said without a condition) and named (its
        share said under a condition, which the last column names where the case breaks it).
    """
    return pd.DataFrame(
        simulate(case, pairs, repetitions, np.random.default_rng([seed, index, pairs]))
        for index, case in enumerate(CASES)
        for pairs in case.pair_counts
    )


def simulate(case: Case, pairs: int, repetitions: int, generator: np.random.Generator) -> dict[str, object]:
    """Simulate one row of the table.

    Args:
        case: The case.
        pairs: The number of pairs.
        repetitions: The number of simulated comparisons.
        generator: Draws the pairs.
    """
    samples = [case.draw(generator, pairs) for _ in range(repetitions)]
    counted = (case.right,) if case.right else case.wrong
    decisions = decide([sample.to_pairs() for sample in samples], MARGIN_POINTS, is_family=False)
    statements = [decision.statement for decision in decisions]
    is_counted = np.array([decision.verdict in counted for decision in decisions])
    is_bare = np.array([_is_unconditional(statement, case.assumption) for statement in statements])
    before = np.isin(judge_before(np.stack([sample.points for sample in samples], axis=1)), counted)
    return {
        "case": case.name,
        "pairs": pairs,
        "counted": " or ".join(counted),
        "before": float(before.mean()),
        "after": float((is_counted & is_bare).mean()),
        "named": float((is_counted & ~is_bare).mean()) if case.assumption else np.nan,
        "condition": case.assumption,
    }


def _is_unconditional(statement: str, assumption: str) -> bool:
    """Return whether a statement lacks the assumption; other conditions do not excuse an error."""
    return not assumption or assumption not in statement


def judge_before(points: np.ndarray) -> np.ndarray:
    """Return the verdicts of the earlier rule: sign flips at .05 for a difference, and at .05 around the margin.

    Args:
        points: The differences of shape (pairs, comparisons), with collapsed runs at the accuracy that they have.
    """
    mean = points.mean(0)
    p_difference = 2 * sign_flip_p(points * np.where(mean < 0, -1, 1))
    p_equivalence = np.maximum(sign_flip_p(points + MARGIN_POINTS), sign_flip_p(MARGIN_POINTS - points))
    different = np.where(p_difference <= ALPHA, np.where(mean > 0, "beats", "loses"), "undecided")
    return np.where(p_equivalence <= ALPHA, "ties", different)


def live(draw: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    """Return a draw of pairs in which both runs live, from a draw of their differences."""

    def draw_sample(generator: np.random.Generator, pairs: int) -> Sample:
        return Sample(draw(generator, pairs), np.zeros(pairs, bool), np.zeros(pairs, bool))

    return draw_sample


def collapsing(champion_rate: float, twin_rate: float, loss: float, mean: float = 0.0, deviation: float = 1.0) -> Draw:
    """Return a draw of pairs whose runs collapse with these rates, and then lose points.

    Args:
        champion_rate: The probability that the champion's run collapses.
        twin_rate: The probability that the twin's run collapses.
        loss: What a collapsed run loses, in points.
        mean: The mean difference where both runs live.
        deviation: The deviation of the difference where both runs live.
    """

    def draw_sample(generator: np.random.Generator, pairs: int) -> Sample:
        champion, twin = generator.random((2, pairs)) < np.array([[champion_rate], [twin_rate]])
        points = generator.normal(mean, deviation, pairs) + loss * (twin.astype(float) - champion)
        return Sample(points, champion, twin)

    return draw_sample


def count_images(generator: np.random.Generator, pairs: int) -> np.ndarray:
    """Return differences of two accuracies, each a number of 360 images."""
    champion, twin = generator.binomial(360, 0.9, (2, pairs))
    return np.asarray((champion - twin) / 3.6)


def spread_unequally(generator: np.random.Generator, pairs: int) -> np.ndarray:
    """Return differences of which some vary ten times as much as others."""
    return generator.normal(0, generator.choice([0.3, 3.0], pairs), pairs)


def skew_exponentially(generator: np.random.Generator, pairs: int) -> np.ndarray:
    """Return exponential differences with a mean of 0 and a deviation of 1."""
    return generator.exponential(1, pairs) - 1


def skew_lognormally(generator: np.random.Generator, pairs: int) -> np.ndarray:
    """Return lognormal differences, whose logarithm has a deviation of 1, with a mean of 0."""
    return np.asarray(generator.lognormal(0, 1, pairs) - np.exp(0.5))


SYMMETRY, LIVE = "under symmetric differences", "where both live"
CASES = (
    Case("normal", live(lambda generator, pairs: generator.normal(0, 1, pairs))),
    Case("t3", live(lambda generator, pairs: generator.standard_t(3, pairs))),
    Case("k of 360 images", live(count_images)),
    Case("unequal spread", live(spread_unequally)),
    Case("normal, mean at the margin", live(lambda generator, pairs: generator.normal(0.5, 1, pairs)), wrong=("ties",)),
    Case("both arms collapse in 10 %", collapsing(0.1, 0.1, COLLAPSE_LOSS_POINTS)),
    Case(
        "one arm collapses in 10 %, true gap 2 points, deviation .3",
        collapsing(0.1, 0.0, COLLAPSE_LOSS_POINTS, 0.0, 0.3),
        ("ties",),
        LIVE,
        (5, 8, 12, 20, 40),
    ),
    Case(
        "the twin collapses in 5 %, equal means",
        collapsing(0.0, 0.05, COLLAPSE_LOSS_POINTS, -1.0, 1.0),
        DIFFERENT,
        LIVE,
    ),
    Case("exponential skew, mean 0", live(skew_exponentially), DIFFERENT, SYMMETRY),
    Case("lognormal skew, mean 0", live(skew_lognormally), DIFFERENT, SYMMETRY),
    Case(
        "exponential skew, mean at the margin",
        live(lambda generator, pairs: MARGIN_POINTS + skew_exponentially(generator, pairs) / 2),
        ("ties",),
        SYMMETRY,
    ),
    Case(
        "power: one deviation",
        live(lambda generator, pairs: generator.normal(1, 1, pairs)),
        pair_counts=(12,),
        right="beats",
    ),
    Case(
        "power without a condition: one deviation",
        live(lambda generator, pairs: generator.normal(1, 1, pairs)),
        assumption=SYMMETRY,
        pair_counts=(12,),
        right="beats",
    ),
    Case(
        "power without a condition: two deviations",
        live(lambda generator, pairs: generator.normal(2, 1, pairs)),
        assumption=SYMMETRY,
        pair_counts=(8, 12),
        right="beats",
    ),
    Case(
        "power: no difference, deviation .3, no collapse",
        live(lambda generator, pairs: generator.normal(0, 0.3, pairs)),
        assumption=LIVE,
        pair_counts=(12, 28, 29),
        right="ties",
    ),
)
