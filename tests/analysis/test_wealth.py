"""The wealth of bets: its arithmetic by hand, its error however often it is read, and Holm's correction of families."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from forcetune.analysis.holm import adjust_by_holm
from forcetune.analysis.wealth import (
    ACCOUNT_SPACING_PAIRS,
    BET_LIMIT,
    FIRST_SHARE,
    RunningSpread,
    Wealth,
    adjust_for_family,
    share_of_account,
)


def test_a_bet_by_hand():
    """Bet on three pairs: one wins, one loses and one is beyond the limit of the stake."""
    wealth = Wealth(1, (1,), (0.5,))
    for outcome, total in ((1.0, 1.5), (-0.4, 1.5 * 0.8), (9.0, 1.5 * 0.8 * (1 + BET_LIMIT))):
        wealth.bet(np.array([[outcome]]))
        assert wealth.compute_totals()[0, 0] == pytest.approx(FIRST_SHARE * total)


def test_a_bet_and_its_mirror_image_gain_nothing():
    """Compare the gains of outcomes that are as likely as their mirror images."""
    wealth = Wealth(2, (5,), (0.125, 0.5))
    outcomes = np.array([0.0, 0.3, 1.0, 4.0, np.inf])
    gains = wealth.compute_gains(np.stack([outcomes, -outcomes]), 0.5)
    assert gains.sum(1) == pytest.approx(0)
    assert gains[1, 0].tolist() == [0, 0.075, 0.25, BET_LIMIT, BET_LIMIT]


def test_the_accounts_share_the_money():
    shares = share_of_account(np.arange(100_000))
    assert shares[0] == FIRST_SHARE
    assert 0.9999 < shares.sum() < 1
    assert (np.diff(shares) < 0).all()


def test_a_later_account_knows_no_earlier_pair():
    wealth = Wealth(1, (2,), (0.5,))
    for _ in range(ACCOUNT_SPACING_PAIRS):
        wealth.bet(np.array([[-2.0, np.nan]]))
    before = wealth.compute_totals()[0]
    wealth.bet(np.array([[1.0, 1.0]]))
    after = wealth.compute_totals()[0]
    assert after[0] == pytest.approx(1.5 * (before[0] + share_of_account(np.array(1))))
    assert after[1] == pytest.approx(1.5 * FIRST_SHARE), "a comparison without a pair opens no account"


def test_a_restart_forgets_all_pairs():
    wealth = Wealth(1, (2,), (0.25, 0.5))
    for _ in range(9):
        wealth.bet(np.ones((1, 2)))
    wealth.restart(np.array([True, False]))
    wealth.bet(np.ones((1, 2)))
    new, kept = wealth.compute_totals()[0]
    assert new == pytest.approx(FIRST_SHARE * (1.25 + 1.5) / 2)
    assert kept > 10


def test_both_bets_have_to_win_on_the_same_pairs():
    """Win the first bet on early pairs and the second one on later pairs: no account has both."""
    wealth = Wealth(2, (1,), (0.5,))
    for early in (1.0,) * 12 + (-1.0,) * 12:
        wealth.bet(np.array([[early], [-early]]))
    assert wealth.compute_totals().max() > 1
    assert wealth.compute_joint_total(0, 1)[0] < 1


@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy", "choice"])
def test_symmetric_differences_rarely_make_rich(draw):
    """Look after each of 200 pairs: Ville's inequality holds for any spread, also where it changes."""
    generator, runs = np.random.default_rng(0), 2000
    wealth, spread, largest = Wealth(1, (runs,), (0.125, 0.25, 0.5)), RunningSpread((runs,)), np.zeros(runs)
    for pair in range(200):
        sizes = generator.choice([0.1, 1.0, 5.0], runs) if draw == "choice" else np.abs(getattr(generator, draw)(runs))
        differences = (1 + pair % 7) * sizes * generator.choice([-1, 1], runs)
        wealth.bet((differences / spread.deviation)[None], spread.compute_caution(np.ones((1, 1))))
        spread.add(differences)
        largest = np.maximum(largest, wealth.compute_totals()[0])
    for level in (0.05, 0.2):
        assert (largest >= 1 / level).mean() <= stats.binom.ppf(0.999, runs, level) / runs


def test_a_spread_by_hand():
    """Measure 1, 3 and 2: the successive steps are 2 and -1, and few pairs make the deviation larger."""
    spread = RunningSpread((1,))
    deviations = []
    for value in (1.0, 3.0, np.nan, 2.0):
        deviations.append(spread.deviation[0])
        spread.add(np.array([value]))
    assert np.isnan(deviations[:2]).all()
    assert deviations[2:] == pytest.approx([np.sqrt(4 / 2 * 3)] * 2)
    assert spread.deviation[0] == pytest.approx(np.sqrt(5 / 4 * 2))


def test_a_change_of_the_mean_hardly_moves_the_spread():
    generator = np.random.default_rng(1)
    spread = RunningSpread((500,))
    for pair in range(100):
        spread.add(generator.standard_normal(500) + (10 if pair >= 50 else 0))
    assert np.median(spread.deviation) == pytest.approx(1.2, abs=0.1)


def test_bets_shrink_where_differences_are_skewed():
    generator = np.random.default_rng(2)
    spread = RunningSpread((2, 500))
    for _ in range(60):
        spread.add(np.stack([generator.standard_normal(500), generator.standard_exponential(500)]))
    (symmetric, high_tail), (_, low_tail) = spread.compute_caution(np.array([1, -1]).reshape(2, 1, 1))
    assert np.mean(symmetric == 1) > 0.8
    assert (high_tail == 1).all(), "a rare large difference does not speak against bets on large differences"
    assert np.median(low_tail) < 0.5


def test_families_are_corrected_as_by_statsmodels():
    p = np.random.default_rng(3).random((20, 6)) ** 4
    p[3, 2] = np.nan
    adjusted = adjust_by_holm(p)
    for row, adjusted_row in zip(p, adjusted, strict=True):
        is_tested = ~np.isnan(row)
        assert adjusted_row[is_tested] == pytest.approx(multipletests(row[is_tested], method="holm")[1])
        assert np.isnan(adjusted_row[~is_tested]).all()
    for row, adjusted_row in zip(p, adjust_for_family(p), strict=True):
        is_tested = ~np.isnan(row)
        assert adjusted_row[is_tested] == pytest.approx(multipletests(row[is_tested], method="bonferroni")[1])
        assert np.isnan(adjusted_row[~is_tested]).all()
