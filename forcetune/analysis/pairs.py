"""Pairs of runs as verdicts take them, and the combination of the verdicts on their accuracy and on their collapses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Two-sided and uncorrected. Evidence of this strength contradicts a verdict for the other arm: three collapses of one
# arm alone are enough.
LEANING_P = 0.25


@dataclass(frozen=True)
class Pairs:
    """The runs of a champion and of its twin, one pair a seed.

    Attributes:
        differences: The differences in points, champion minus twin, of the pairs in which both runs live, of shape
            (live pairs,).
        champion_collapses: Whether the champion's run collapsed or diverged, of shape (pairs,).
        twin_collapses: Whether the twin's run collapsed or diverged, of shape (pairs,).
    """

    differences: np.ndarray
    champion_collapses: np.ndarray
    twin_collapses: np.ndarray

    def __len__(self) -> int:
        """Return the number of pairs, live or not."""
        return len(self.champion_collapses)

    @property
    def champion_alone(self) -> int:
        """The number of pairs in which the champion's run alone collapsed or diverged."""
        return int((self.champion_collapses & ~self.twin_collapses).sum())

    @property
    def twin_alone(self) -> int:
        """The number of pairs in which the twin's run alone collapsed or diverged."""
        return int((self.twin_collapses & ~self.champion_collapses).sum())


def find_leaning(p: np.ndarray | float, is_better: np.ndarray | bool) -> np.ndarray:
    """Return the direction in which evidence leans: `beats`, `loses` or `undecided`.

    Args:
        p: The two-sided p of no difference, without a correction; NaN without evidence.
        is_better: Whether the evidence is for the champion, of the shape of p.
    """
    return np.where(np.asarray(p) <= LEANING_P, np.where(is_better, "beats", "loses"), "undecided")


def combine_parts(live: str, collapses: str, live_leaning: str, collapse_leaning: str) -> str:
    """Return the verdict on both parts.

    `beats` and `loses` need one part that says so, while the other part neither says nor leans towards the opposite.
    `ties` needs a tie where both runs live, and collapses that tie or lean in no direction.

    Args:
        live: The verdict where both runs live.
        collapses: The verdict on the collapses.
        live_leaning: The direction in which the live differences lean, as `find_leaning` returns it.
        collapse_leaning: The direction in which the collapses lean.
    """
    opposites = {"beats": "loses", "loses": "beats"}
    for verdict, other_part, other_leaning in ((live, collapses, collapse_leaning), (collapses, live, live_leaning)):
        if verdict in opposites:
            return "undecided" if opposites[verdict] in (other_part, other_leaning) else verdict
    is_even = collapses == "ties" or collapse_leaning == "undecided"
    return "ties" if live == "ties" and is_even else "undecided"
