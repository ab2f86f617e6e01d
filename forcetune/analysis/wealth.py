"""The wealth of bets against hypotheses: evidence on paired differences that may be read after every pair.

A hypothesis says that differences are symmetric about a centre, or about a point on one side of it. Before each pair a
fraction of the wealth is bet on the other side, in proportion to the distance of the pair from the centre, and with a
limit. If the hypothesis holds, no bet gains on average: the bet of a difference and that of its mirror image cancel.
The wealth then exceeds 1 / alpha on any night with a probability of at most alpha [Ville 1939], so that 1 / wealth is a
p that holds however often it is read. Bets of this form are those of Waudby-Smith and Ramdas (2024) on means; with a
symmetric limit they are exact for symmetric differences of any spread, as are those of de la Peña (1999), and a long
linear part keeps them near the mean where differences are skewed. Accounts that open one after the other see a change
after many pairs [Shin, Ramdas and Rinaldo 2023]. benchmarks/verdicts.py compares the forms.
"""

import numpy as np

from forcetune.analysis.pairs import LEANING_P

BET_LIMIT = 0.95  # of the wealth, so that no pair takes all of it
FIRST_SHARE = 0.9  # of the money is bet from the first pair on; what is left opens later accounts
ACCOUNT_SPACING_PAIRS = 4  # between the openings of accounts
ACCOUNT_HALF_LIFE = 8  # the number of later accounts that get half of the money of all later accounts, about
WEALTH_CAP = 1e200  # above it nothing is left to show, and a product of years must not overflow
CAUTION = 4.0  # by which bets shrink for each unit of skewness that is more than noise
SKEWNESS_NOISE = 1.0  # the standard errors of a normal sample's skewness that count as noise


class Wealth:
    """The wealth of bets against several hypotheses, for a batch of comparisons.

    The money is divided among accounts that open one after the other, and in each of them among stakes. An account
    knows no pair before its opening: so the wealth also grows where a difference has changed after many pairs.

    Args:
        hypotheses: The number of hypotheses.
        shape: The shape of the batch of comparisons.
        stakes: The bets, as fractions of the wealth for each deviation from the centre.
    """

    def __init__(self, hypotheses: int, shape: tuple[int, ...], stakes: tuple[float, ...]) -> None:
        self._stakes = np.array(stakes).reshape(-1, 1, *[1] * len(shape))
        self._accounts = np.zeros((0, len(stakes), hypotheses, *shape))
        self._opened = np.zeros(shape, int)
        self._pairs = np.zeros(shape, int)

    def bet(self, outcomes: np.ndarray, caution: np.ndarray | float = 1.0) -> None:
        """Bet on one pair of each comparison.

        Args:
            outcomes: The distances from the centres, in deviations, positive where the bets win, of shape (hypotheses,
                *shape); NaN where a comparison has no pair.
            caution: The factor of the stakes, at most 1, of the shape of the outcomes. Like the deviation it may depend
                on the pairs before alone.
        """
        has_pair = ~np.isnan(outcomes).any(0)
        self._open_accounts(has_pair & (self._pairs % ACCOUNT_SPACING_PAIRS == 0))
        self._accounts *= 1 + self.compute_gains(np.where(has_pair, outcomes, 0.0), caution)
        np.minimum(self._accounts, WEALTH_CAP, out=self._accounts)
        self._pairs += has_pair

    def compute_gains(self, outcomes: np.ndarray, caution: np.ndarray | float) -> np.ndarray:
        """Return the gain of each bet as a fraction of the wealth, of shape (stakes, hypotheses, *shape).

        Args:
            outcomes: The distances from the centres, in deviations, of shape (hypotheses, *shape).
            caution: The factor of the stakes, at most 1, of the shape of the outcomes.
        """
        return np.asarray(np.clip(self._stakes * caution * outcomes, -BET_LIMIT, BET_LIMIT))

    def compute_totals(self) -> np.ndarray:
        """Return the wealth of the bets against each hypothesis, of shape (hypotheses, *shape)."""
        return np.asarray(self._accounts.sum((0, 1)))

    def compute_joint_total(self, first: int, second: int) -> np.ndarray:
        """Return the wealth of the bets against two hypotheses of which one holds.

        Of each account the poorer half counts, so that both bets have to win on the same pairs.

        Args:
            first: The index of a hypothesis.
            second: The index of the other one.

        Returns:
            The wealth, of the batch's shape.
        """
        return np.asarray(np.minimum(self._accounts[:, :, first].sum(1), self._accounts[:, :, second].sum(1)).sum(0))

    def restart(self, is_restarted: np.ndarray) -> None:
        """Begin anew, without memory of a pair.

        Args:
            is_restarted: Whether a comparison begins anew, of the batch's shape.
        """
        self._accounts[..., is_restarted] = 0
        self._opened[is_restarted] = 0
        self._pairs[is_restarted] = 0

    def _open_accounts(self, is_due: np.ndarray) -> None:
        """Open the next account of the comparisons for which it is due."""
        if not is_due.any():
            return
        numbers = self._opened[is_due]
        if (missing := numbers.max() + 1 - len(self._accounts)) > 0:
            self._accounts = np.concatenate([self._accounts, np.zeros((missing, *self._accounts.shape[1:]))])
        money = share_of_account(numbers) / len(self._stakes)
        self._accounts[(numbers, slice(None), slice(None), *np.nonzero(is_due))] = money[:, None, None]
        self._opened += is_due


def share_of_account(number: np.ndarray) -> np.ndarray:
    """Return the share of the money with which an account opens; the shares of all accounts sum to 1.

    Args:
        number: The number of the account, from 0.
    """
    later = (1 - FIRST_SHARE) * (ACCOUNT_HALF_LIFE + 1)
    return np.where(number == 0, FIRST_SHARE, later / ((number + ACCOUNT_HALF_LIFE) * (number + ACCOUNT_HALF_LIFE + 1)))


class RunningSpread:
    """The deviation and the skewness of the differences so far, for a batch of comparisons.

    The deviation is that of successive differences [von Neumann 1941], which a change of the mean hardly moves.

    Args:
        shape: The shape of the batch.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._pairs = np.zeros(shape)
        self._last = np.full(shape, np.nan)
        self._square_steps = np.zeros(shape)
        self._powers = np.zeros((3, *shape))  # the sums of the differences, of their squares and of their cubes

    @property
    def deviation(self) -> np.ndarray:
        """The standard deviation; NaN before two pairs, and taken larger where few pairs tell it."""
        steps = self._pairs - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(steps > 0, np.sqrt(self._square_steps / (2 * steps) * (1 + 2 / steps)), np.nan)

    def compute_caution(self, directions: np.ndarray) -> np.ndarray:
        """Return the factor by which bets shrink: 1, and less where skewness speaks for them that is more than noise.

        Where rare differences are far on the other side, most samples lack them, and their mean lies on this side.

        Args:
            directions: 1 for bets that win on large differences and -1 for the others, of a shape that fits.
        """
        pairs = np.maximum(self._pairs, 1)
        mean, square, cube = self._powers / pairs
        variance = square - mean**2
        has_spread = (variance > 1e-12 * (1 + mean**2)) & (self._pairs > 2)
        skewness = (cube - 3 * mean * square + 2 * mean**3) / np.where(has_spread, variance, 1) ** 1.5
        error = np.sqrt(6 * np.maximum(pairs - 2, 0) / ((pairs + 1) * (pairs + 3)))
        surplus = np.maximum(-directions * skewness - SKEWNESS_NOISE * error, 0)
        return np.where(has_spread, 1 / (1 + CAUTION * surplus), 1.0)

    def add(self, differences: np.ndarray) -> None:
        """Add one pair of each comparison.

        Args:
            differences: Of the batch's shape; NaN where a comparison has no pair.
        """
        has_pair = ~np.isnan(differences)
        steps = np.where(has_pair & (self._pairs > 0), differences - self._last, 0.0)
        self._square_steps += steps**2
        self._powers += np.where(has_pair, differences, 0.0) ** np.array([1, 2, 3]).reshape(3, *[1] * differences.ndim)
        self._last = np.where(has_pair, differences, self._last)
        self._pairs += has_pair


def adjust_for_family(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted by Bonferroni's method along the last axis, over those that are not NaN.

    Each comparison then has a fixed share of the error, for all its claims, nights and windows of bets together. Holm's
    method gives a comparison more on the night on which others are decided, and bounds `beats` and `loses` apart from
    `ties`; comparisons are rarely decided on one night, so it would gain little.

    Args:
        p: Of shape (..., comparisons), from 0 to 1.

    Returns:
        The adjusted p values, of the same shape, at most 1.
    """
    return np.asarray(np.minimum(p * (~np.isnan(p)).sum(-1, keepdims=True), 1))


def lean(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Return the direction in which evidence leans: `beats`, `loses` or `undecided`.

    Args:
        better: The largest wealth of the bets that the champion is better.
        worse: The largest wealth of the bets that it is worse.
    """
    is_shown = 2 / np.maximum(np.maximum(better, worse), 1) <= LEANING_P
    return np.where(is_shown, np.where(better > worse, "beats", "loses"), "undecided")
