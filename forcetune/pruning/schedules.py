"""The density after each pruning step.

The order of the floating-point operations is part of the definition: the counts are `int()` of a
product of doubles, and one weight more or less at an early step changes hundreds at the end.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float, int, int], float]


def exponential(density: float, t: int, iterations: int) -> float:
    """density^(t/T): the same share of what is left goes at every step [arXiv 2006.09081]."""
    return math.exp(math.log(density) * t / iterations)


def linear(density: float, t: int, iterations: int) -> float:
    """1 - t(1 - density)/T: the same number of weights goes at every step."""
    return 1 - t * (1 - density) / iterations


SCHEDULES: dict[str, Schedule] = {"exponential": exponential, "linear": linear}


def weight_counts(total: int, density: float, iterations: int, schedule: Schedule) -> list[int]:
    """Weights kept after each of `iterations` steps; the last is exactly int(total * density)."""
    steps = [int(total * schedule(density, t, iterations)) for t in range(1, iterations)]
    return [*steps, int(total * density)]
