"""Rules for the number of weights that each layer keeps where layers are not ranked against each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

Shape = Sequence[int]


@dataclass(frozen=True)
class LayerQuota:
    """The layer densities that a rule asks for.

    Attributes:
        shares: The density of each layer, up to a common factor.
        fixed: Index of a layer to its density, for the layers whose density the rule sets outright.
    """

    shares: list[float]
    fixed: dict[int, float] = field(default_factory=dict)


Rule = Callable[[Sequence[Shape], float], LayerQuota]  # of all weight shapes and the overall density


def uniform(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """Give every layer the same density."""
    return LayerQuota([1.0] * len(shapes))


def erdos_renyi_kernel(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """Give ERK densities: (in + out + height + width) / (in * out * height * width) [1707.04780, 1911.11134]."""
    return LayerQuota([sum(shape) / prod(shape) for shape in shapes])


def balanced(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """Give every layer the same number of weights."""
    return LayerQuota([1 / prod(shape) for shape in shapes])


def uniform_plus(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """Keep the first convolution dense, the last linear layer at 0.2 or more, others uniform [1902.09574]."""
    first = next((i for i, shape in enumerate(shapes) if len(shape) == 4), None)
    classifier = max((i for i, shape in enumerate(shapes) if len(shape) == 2), default=None)
    fixed = {} if first is None else {first: 1.0}
    if classifier is not None and density < 0.2:
        fixed[classifier] = 0.2
    return LayerQuota([1.0] * len(shapes), fixed)


def smart_ratio(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """Give the k-th layer from the end the density k^2 + k, linear layers 0.3: random tickets [2009.11094].

    This is the rule of the authors' program for ResNets (for VGG it divides by the squared position from the front).
    """
    back = range(len(shapes), 0, -1)
    return LayerQuota([k**2 + k for k in back], {i: 0.3 for i, shape in enumerate(shapes) if len(shape) == 2})


def copied(densities: list[float]) -> Rule:
    """Return a rule that scales the layer densities of another mask to the requested density."""
    return lambda shapes, density: LayerQuota(densities)


def allocate(rule: Rule, shapes: Sequence[Shape], count: int, capacities: Sequence[int] | None = None) -> list[int]:
    """Return the number of weights to keep in each layer.

    A layer that its share would overfill is kept whole, and the others share the remainder anew until none overfills.
    Where the layers of fixed density alone ask for more than `count`, they share it and the others stay empty. Where
    the others are full, the layers of fixed density take the remainder. Numbers are rounded down, and the missing
    weights go one each to the layers with the largest fractions, ties to the earlier layer.

    Args:
        rule: The rule that gives the layer densities.
        shapes: The weight shape of each layer.
        count: The number of weights to keep in all layers together.
        capacities: The largest number of weights that each layer can keep; None for all of its weights.

    Returns:
        The number of weights of each layer; they sum to `count`.
    """
    sizes = [prod(shape) for shape in shapes]
    capacities = sizes if capacities is None else capacities
    quota = rule(shapes, count / sum(sizes))
    free_layers = [i for i in range(len(sizes)) if i not in quota.fixed]
    fixed_counts = {i: min(density * sizes[i], capacities[i]) for i, density in quota.fixed.items()}
    ideal_counts = [0.0] * len(sizes)
    _distribute(count, fixed_counts, {i: fixed_counts[i] for i in fixed_counts}, ideal_counts)
    _distribute(
        count - sum(ideal_counts),
        {i: capacities[i] for i in free_layers},
        {i: quota.shares[i] * sizes[i] for i in free_layers},
        ideal_counts,
    )
    capacity_left = {i: capacities[i] - ideal_counts[i] for i in fixed_counts}
    _distribute(count - sum(ideal_counts), capacity_left, capacity_left, ideal_counts)
    return _round_down(ideal_counts, count, capacities)


def _distribute(
    amount: float, capacities: dict[int, float], proportions: dict[int, float], ideal_counts: list[float]
) -> None:
    """Add `amount` to `ideal_counts` in proportion to `proportions`, to each layer at most its capacity."""
    open_layers = {i for i in capacities if capacities[i] > 0}
    while open_layers and amount > 0:
        total = sum(proportions[i] for i in open_layers)
        if total == 0:  # only layers that a copied mask leaves empty have capacity
            proportions, total = capacities, sum(capacities[i] for i in open_layers)
        full = {i for i in open_layers if amount * proportions[i] / total >= capacities[i]}
        for i in full or open_layers:
            ideal_counts[i] += capacities[i] if i in full else amount * proportions[i] / total
        if not full:
            return
        amount -= sum(capacities[i] for i in full)
        open_layers -= full


def _round_down(ideal_counts: list[float], count: int, capacities: Sequence[int]) -> list[int]:
    """Round the numbers down, and give the missing weights to the layers with the largest fractions."""
    counts = [min(int(value), capacity) for value, capacity in zip(ideal_counts, capacities, strict=True)]
    while (missing := count - sum(counts)) > 0:
        unfilled = [i for i in range(len(counts)) if counts[i] < capacities[i]]
        for i in sorted(unfilled, key=lambda i: counts[i] - ideal_counts[i])[:missing]:
            counts[i] += 1
    return counts
