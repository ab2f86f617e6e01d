"""The tests of accuracy where both runs of a pair live: exact sign flips, and a second test where pairs are skewed.

If the mask does not matter, the arms of a pair are exchangeable: a difference is as likely with the other sign, so all
2**n flips of n signs are equally likely, whatever the distribution. That makes the test of a difference exact at any
number of pairs [Fisher 1935, The design of experiments, section 21; Pitman 1937]. A tie is the rejection of both
margins, by one test each (TOST) [Schuirmann 1987]. Arms that differ and yet have equal means, or a mean at the margin,
are tested by the same flips only under the assumption that differences are symmetric about their mean. Skewed
differences break it: the flips then err on the side that the long tail does not reach. So a second test takes the
skewness into account. A decision that it does not support at a strict level assumes symmetric differences; where a
sample is visibly skewed, the second test has to agree, or nothing is decided. benchmarks/deciding/pairs.py has the
simulations that both levels come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forcetune.analysis.flips import sign_flip_p
from forcetune.analysis.holm import adjust_by_holm
from forcetune.analysis.skewness import hall_p, measure_skewness

SHOWN_SKEWNESS = 2.05  # in deviations of the skewness of normal samples, of which 2 % have more on that side
STRICT_SHARE = 1 / 9  # of the level, for the second test of a decision without a condition: .005 of .045


@dataclass(frozen=True)
class LiveTests:
    """The tests of comparisons by their differences.

    All arrays have the shape (comparisons,), with NaN for a comparison without a difference.

    Attributes:
        mean: The means of the differences.
        skewness: Their skewness, in standard deviations of the skewness of normal samples.
        p_difference: The two-sided p of a mean of 0, by sign flips.
        p_equivalence: The p of a mean at the margin or beyond, the larger of two one-sided p (TOST), by sign flips.
        second_p_difference: The p of a mean of 0 by the second test.
        second_p_equivalence: The p of a mean at the margin or beyond by the second test.
    """

    mean: np.ndarray
    skewness: np.ndarray
    p_difference: np.ndarray
    p_equivalence: np.ndarray
    second_p_difference: np.ndarray
    second_p_equivalence: np.ndarray

    def correct(self) -> "LiveTests":
        """Return the tests with each kind of p corrected by Holm's method over all comparisons."""
        p_values = {name: adjust_by_holm(values) for name, values in vars(self).items() if "p_" in name}
        return LiveTests(self.mean, self.skewness, **p_values)

    def decide(self, index: int, level: float) -> tuple[str, bool]:
        """Return the verdict on a comparison, and whether it assumes symmetric differences.

        Args:
            index: The index of the comparison.
            level: The level of the tests.
        """
        is_positive, skewness = self.mean[index] > 0, self.skewness[index]
        claims = (
            ("ties", self.p_equivalence, self.second_p_equivalence, abs(skewness)),
            (
                "beats" if is_positive else "loses",
                self.p_difference,
                self.second_p_difference,
                -skewness if is_positive else skewness,
            ),
        )
        for verdict, p, second_p, adverse_skewness in claims:
            agrees = second_p[index] <= level
            if p[index] <= level and (agrees or adverse_skewness <= SHOWN_SKEWNESS):
                return verdict, not second_p[index] <= STRICT_SHARE * level
        return "undecided", False


def run_live_tests(samples: Sequence[np.ndarray], margin: float) -> LiveTests:
    """Run the tests of comparisons.

    Args:
        samples: For each comparison its differences, of shape (pairs,); pairs may be 0.
        margin: The difference below which a difference does not matter, in the unit of the differences.
    """
    columns = np.full((6, len(samples)), np.nan)
    sizes = np.array([len(sample) for sample in samples], int)
    for pairs in set(sizes[sizes > 0]):
        block = np.stack([sample for sample in samples if len(sample) == pairs], axis=1)
        columns[:, sizes == pairs] = _test_block(block, margin)
    return LiveTests(*columns)


def _test_block(block: np.ndarray, margin: float) -> np.ndarray:
    """Return the fields of `LiveTests` for samples of equal size, of shape (pairs, columns)."""
    mean = block.mean(0)
    upwards = block * np.where(mean < 0, -1, 1)  # flips are symmetric: the other direction has a larger p
    p_values = [
        (np.minimum(1, 2 * one_sided_p(upwards)), np.maximum(one_sided_p(block + margin), one_sided_p(margin - block)))
        for one_sided_p in (sign_flip_p, hall_p)
    ]
    return np.stack([mean, measure_skewness(block), *p_values[0], *p_values[1]])
