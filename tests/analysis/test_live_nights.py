"""The nightly verdicts on differences: how often all of them together err, also where bets begin anew."""

import numpy as np
import pytest
from scipy import stats
from shared_constants import MARGIN_POINTS

from forcetune.analysis.live_nights import LiveNights
from forcetune.analysis.sequential import LIVE_LEVEL

PAIRS, SERIES, COMPARISONS = 240, 200, 3


@pytest.fixture(scope="module")
def share_of_families():
    """Return a function of a mean, and the verdicts that some families of comparisons had."""

    def follow(mean):
        generator, shape = np.random.default_rng(0), (SERIES, COMPARISONS)
        nights, history = LiveNights(shape, MARGIN_POINTS, LIVE_LEVEL), []
        for _ in range(PAIRS):
            nights.add(mean + generator.standard_normal(shape))
            nights.judge()
            history.append(nights.verdicts)
        return np.array(history)

    return follow


def get_share(history, *names):
    """Return the share of the families in which any comparison had one of these verdicts on any night."""
    return np.isin(history, names).any((0, 2)).mean()


LIMIT = stats.binom.ppf(0.999, SERIES, LIVE_LEVEL) / SERIES


def test_ties_and_losses_at_the_margin_err_together_once(share_of_families):
    assert get_share(share_of_families(MARGIN_POINTS), "ties", "loses") <= LIMIT


def test_bets_that_begin_anew_err_no_more_often(share_of_families):
    """Follow means within the margin: many comparisons beat and then tie, which starts their bets again."""
    history = share_of_families(0.35)
    has_flipped = ((history[:-1] == "beats") & (history[1:] == "ties")).any(0)
    assert has_flipped.mean() > 0.02
    assert get_share(history, "loses") <= LIMIT


def test_the_p_of_a_comparison_does_not_depend_on_decisions_about_others():
    """Judge a comparison beside one that is decided and beside one that is not."""
    weak = np.tile([1.0, 0.0, 0.5], 4)
    p_values = []
    for other in (np.full(12, 2.0), np.tile([1.0, -1.0], 6)):
        nights = LiveNights((2,), MARGIN_POINTS, LIVE_LEVEL)
        for differences in zip(weak, other, strict=True):
            nights.add(np.array(differences))
        nights.judge()
        p_values.append(nights.p_difference[0])
    assert p_values[0] == p_values[1] < 1
