"""What pruning a network in one setting has found, by which another density is spared the steps they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor

from forcetune.pruning.masks import Masks
from forcetune.pruning.network import Network


@dataclass(frozen=True)
class _Done:
    """A step that was taken: what it found, the state it left behind it, and the seconds it took."""

    found: Tensor | Masks
    state: list[Tensor]
    seconds: float


class PruningCache:
    """Steps taken once for all masks of the same weights, batches, method and options.

    How many weights the first step keeps plays no part in its scores: they serve every density, schedule and number
    of iterations. A later step finds the same masks wherever it and the steps before it keep the same numbers.
    """

    def __init__(self) -> None:
        self.reused = 0  # steps, of all masks so far
        self.seconds = 0.0  # that they took when they were taken
        self._done: dict[tuple[int, ...], _Done] = {}

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(
            tensor.numel() * tensor.element_size()
            for done in self._done.values()
            for tensor in (*(done.found.values() if isinstance(done.found, dict) else [done.found]), *done.state)
        )

    def scores(self, net: Network, take: Callable[[], Tensor]) -> Tensor:
        """The first step's: taken now, or as they were found before."""
        device = next(iter(net.weights.values())).device
        found = self._once((), net, lambda: take().cpu())
        assert isinstance(found, Tensor)
        return found.to(device)

    def masks(self, counts: Sequence[int], net: Network, take: Callable[[], Masks]) -> Masks:
        """The masks after the step that keeps the last of these numbers of weights."""
        device = next(iter(net.weights.values())).device
        found = self._once(tuple(counts), net, lambda: {name: mask.cpu() for name, mask in take().items()})
        assert isinstance(found, dict)
        return {name: mask.to(device) for name, mask in found.items()}

    def _once(self, key: tuple[int, ...], net: Network, take: Callable[[], Tensor | Masks]) -> Tensor | Masks:
        done = self._done.get(key)
        if done is None:
            started = perf_counter()
            found = take()
            done = self._done[key] = _Done(found, net.state(), perf_counter() - started)
        else:
            self.reused += 1
            self.seconds += done.seconds
            net.restore(done.state)
        return done.found
