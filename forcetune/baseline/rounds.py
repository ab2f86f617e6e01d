"""The pairs of comparisons night by night, as the nightly verdicts take them."""

from __future__ import annotations

from collections.abc import Sequence

from forcetune.analysis import Pairs
from forcetune.baseline.evidence import Pair, collect_pairs


def group_pairs_by_night(pairs: Sequence[Pair], until: str) -> dict[str, Pairs]:
    """Return the pairs of a comparison of each night, within a night in the order of their seeds.

    All stored pairs count, also those of nights that were judged by an earlier rule.

    Args:
        pairs: The pairs of the comparison.
        until: The date of the last night that counts.
    """
    nights = sorted({pair.night for pair in pairs if pair.night <= until})
    return {
        night: collect_pairs(sorted((pair for pair in pairs if pair.night == night), key=lambda pair: pair.seed))
        for night in nights
    }
