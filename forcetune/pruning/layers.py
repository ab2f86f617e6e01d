"""How many weights each layer keeps where layers are not ranked against each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

Shape = Sequence[int]


@dataclass(frozen=True)
class LayerQuota:
    """What a rule asks for: densities in proportion to `shares`, but for the layers whose density it sets outright."""

    shares: list[float]
    fixed: dict[int, float] = field(default_factory=dict)


Rule = Callable[[Sequence[Shape], float], LayerQuota]  # from the layers' weight shapes and the density of them all


def uniform(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """The same density in every layer."""
    return LayerQuota([1.0] * len(shapes))


def erdos_renyi_kernel(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """ERK: (in + out + height + width) / (in * out * height * width) [1707.04780, 1911.11134]."""
    return LayerQuota([sum(shape) / prod(shape) for shape in shapes])


def balanced(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """The same number of weights in every layer."""
    return LayerQuota([1 / prod(shape) for shape in shapes])


def uniform_plus(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """Uniform, but the first convolution dense and the last linear layer at 0.2 or more [1902.09574]."""
    first = next((i for i, shape in enumerate(shapes) if len(shape) == 4), None)
    classifier = max((i for i, shape in enumerate(shapes) if len(shape) == 2), default=None)
    fixed = {} if first is None else {first: 1.0}
    if classifier is not None and density < 0.2:
        fixed[classifier] = 0.2
    return LayerQuota([1.0] * len(shapes), fixed)


def smart_ratio(shapes: Sequence[Shape], density: float) -> LayerQuota:
    """k^2 + k for the k-th layer from the end, linear layers at 0.3: random tickets [2009.11094].

    As the authors' program has it for ResNets (for VGG it divides by the squared place from the front).
    """
    back = range(len(shapes), 0, -1)
    return LayerQuota([k**2 + k for k in back], {i: 0.3 for i, shape in enumerate(shapes) if len(shape) == 2})


def copied(densities: list[float]) -> Rule:
    """The layers' densities of another mask, scaled to the density asked for."""
    return lambda shapes, density: LayerQuota(densities)


def allocate(rule: Rule, shapes: Sequence[Shape], count: int, room: Sequence[int] | None = None) -> list[int]:
    """Weights to keep in each layer, `count` in all and at most `room` (all of it) in each.

    A layer that its share would overfill is kept whole and the others share the rest anew, until none
    overfills. Where the layers of fixed density alone ask for more than `count`, they share it and the
    others are left empty; where the others are full, the fixed ones take what is left over. Numbers are
    rounded down, and the weights still missing go one each to the layers with the largest fractions,
    ties to the earlier layer.
    """
    sizes = [prod(shape) for shape in shapes]
    room = sizes if room is None else room
    wish = rule(shapes, count / sum(sizes))
    free = [i for i in range(len(sizes)) if i not in wish.fixed]
    asked = {i: min(density * sizes[i], room[i]) for i, density in wish.fixed.items()}
    wanted = [0.0] * len(sizes)
    _share(count, asked, {i: asked[i] for i in asked}, wanted)
    _share(count - sum(wanted), {i: room[i] for i in free}, {i: wish.shares[i] * sizes[i] for i in free}, wanted)
    left = {i: room[i] - wanted[i] for i in asked}
    _share(count - sum(wanted), left, left, wanted)
    return _whole(wanted, count, room)


def _share(amount: float, room: dict[int, float], parts: dict[int, float], wanted: list[float]) -> None:
    """Add `amount` to `wanted` in proportion to `parts`, to each at most its room."""
    open_layers = {i for i in room if room[i] > 0}
    while open_layers and amount > 0:
        total = sum(parts[i] for i in open_layers)
        if total == 0:  # only layers that a copied mask leaves empty have room
            parts, total = room, sum(room[i] for i in open_layers)
        full = {i for i in open_layers if amount * parts[i] / total >= room[i]}
        for i in full or open_layers:
            wanted[i] += room[i] if i in full else amount * parts[i] / total
        if not full:
            return
        amount -= sum(room[i] for i in full)
        open_layers -= full


def _whole(wanted: list[float], count: int, room: Sequence[int]) -> list[int]:
    counts = [min(int(value), most) for value, most in zip(wanted, room, strict=True)]
    while (missing := count - sum(counts)) > 0:
        can = [i for i in range(len(counts)) if counts[i] < room[i]]
        for i in sorted(can, key=lambda i: counts[i] - wanted[i])[:missing]:
            counts[i] += 1
    return counts
