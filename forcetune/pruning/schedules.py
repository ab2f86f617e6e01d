"""Schedules: functions from the final density, a step t and the T iterations to the density after step t.

The order of the floating-point operations is part of the definition: the counts are `int()` of a product of doubles,
and one weight more or less at an early step changes hundreds at the end.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float, int, int], float]


def exponential(density: float, t: int, iterations: int) -> float:
    """Return density^(t/T): every step removes the same share of the remaining weights [arXiv 2006.09081]."""
    return math.exp(math.log(density) * t / iterations)


def linear(density: float, t: int, iterations: int) -> float:
    """Return 1 - t(1 - density)/T: every step removes the same number of weights."""
    return 1 - t * (1 - density) / iterations


def cubic(density: float, t: int, iterations: int) -> float:
    """Return 1 - (1 - density)(1 - (1 - t/T)^3): fast at first, slow towards the end [arXiv 1710.01878]."""
    return 1 - (1 - density) * (1 - (1 - t / iterations) ** 3)


def halving(density: float, t: int, iterations: int) -> float:
    """Return 1/2 at the first step, then halve the distance to `density` at every step but the last [arXiv 2006.00896].

    The last step reaches `density`. Densities of 1/2 and above are reached at once.
    """
    return density if t == iterations else density + max(0.5 - density, 0) * 0.5 ** (t - 1)


SCHEDULES: dict[str, Schedule] = {
    "exponential": exponential,
    "linear": linear,
    "cubic": cubic,
    "halving": halving,
}


def weight_counts(total: int, density: float, iterations: int, schedule: Schedule) -> list[int]:
    """Return the number of weights kept after each of `iterations` steps; the last is exactly int(total * density)."""
    steps = [int(total * schedule(density, t, iterations)) for t in range(1, iterations)]
    return [*steps, int(total * density)]
