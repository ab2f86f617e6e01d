"""Which samples: the split by its seed, and the batches of each pass, for data in memory and streamed alike."""

import torch
from torch import Tensor

from forcetune.errors import InputError

NAMED = 5  # classes in a message


def divide(available: int, share: float | None, seed: int, samples: int | None) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation: `samples` of those available, or all, drawn and divided by `seed`.

    share: of those drawn, for validation; None where validation has samples of its own.
    """
    if samples is not None and not 2 <= samples <= available:
        raise InputError(f"train_samples {samples}: allowed: 2 to {available}, the training images there are")
    drawn = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[: samples or available]
    held_out = 0 if share is None else min(max(1, int(len(drawn) * share)), len(drawn) - 1)
    return drawn[held_out:], drawn[:held_out]


class Plain:
    """Batches of `batch_size`: in order, or shuffled anew in each pass where there is a generator.

    A last batch of a single sample is left out of a shuffled pass: batch norm cannot train on it.
    """

    def __init__(self, count: int, batch_size: int, generator: torch.Generator | None) -> None:
        self._count = count
        self._batch_size = min(batch_size, count)
        self._generator = generator

    def __len__(self) -> int:
        full, rest = divmod(self._count, self._batch_size)
        return full + (rest > (1 if self._generator and full else 0))

    def draw(self) -> list[Tensor]:
        """The indices of each batch of the next pass."""
        order = torch.arange(self._count)
        if self._generator:
            order = torch.randperm(self._count, generator=self._generator)
        return list(order.split(self._batch_size)[: len(self)])


class Balanced:
    """Batches of `per_class` samples of every class; passes go on where the one before ended.

    Raises InputError where a class has fewer samples than that.
    """

    def __init__(self, targets: Tensor, classes: int, per_class: int, generator: torch.Generator | None) -> None:
        if generator is None:
            raise ValueError("per_class draws samples: it needs a seed")
        counts = torch.bincount(targets, minlength=classes)
        _check_counts(counts.tolist(), per_class)
        self._per_class = per_class
        self._length = int(counts.min()) // per_class
        self._decks = [_Deck((targets == label).nonzero()[:, 0], generator) for label in range(classes)]

    def __len__(self) -> int:
        return self._length

    def draw(self) -> list[Tensor]:
        """The indices of each batch of the next pass, class by class."""
        return [torch.cat([deck.draw(self._per_class) for deck in self._decks]) for _ in range(self._length)]


Order = Plain | Balanced


class _Deck:
    """The samples of one class, dealt in a shuffled order, all of them before a new order is begun."""

    def __init__(self, indices: Tensor, generator: torch.Generator) -> None:
        self._indices = indices
        self._left = indices[:0]
        self._generator = generator

    def draw(self, count: int) -> Tensor:
        if len(self._left) < count:
            fresh = self._indices[torch.randperm(len(self._indices), generator=self._generator)]
            again = torch.isin(fresh, self._left[:count])  # these last, so that no sample is twice in a batch
            self._left = torch.cat([self._left, fresh[~again], fresh[again]])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


def state_of(generator: torch.Generator | None) -> Tensor | None:
    """What a generator draws next hangs on this; None where there is none."""
    return generator.get_state() if generator else None


def restore(generator: torch.Generator | None, state: Tensor | None) -> None:
    """Take a generator back to a state."""
    if generator and state is not None:
        generator.set_state(state)


def _check_counts(counts: list[int], needed: int) -> None:
    few = [f"class {label} has {count}" for label, count in enumerate(counts) if count < needed]
    if few:
        more = f" and {len(few) - NAMED} classes more have too few" if len(few) > NAMED else ""
        raise InputError(
            f"batches with {needed} samples of every class need {needed} training samples of each, but "
            f"{', '.join(few[:NAMED])}{more}; raise train_samples or lower samples_per_class"
        )
