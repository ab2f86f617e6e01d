"""The processes that train one network together, and what they exchange over torch.distributed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, distributed


class LostProcessError(RuntimeError):
    """The error of a process whose exchange with the others has failed: one of them has ended, or does not answer."""


class ProcessGroup(Protocol):
    """The processes that train one network together; all of them make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0; the first one measures the network and saves its checkpoints."""

    @property
    def size(self) -> int:
        """The number of processes."""

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, the same bits in each of them.

        Args:
            tensor: The tensor, contiguous, of the same shape in each process.

        Raises:
            LostProcessError: A process has ended, or does not answer.
        """

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, stacked in their order.

        Args:
            tensor: The tensor, contiguous, of the same shape in each process.

        Raises:
            LostProcessError: A process has ended, or does not answer.
        """

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process.

        Args:
            tensors: The tensors, of the same shapes in each process.

        Raises:
            LostProcessError: A process has ended, or does not answer.
        """


class TorchGroup:
    """The default process group of torch.distributed, which the caller has set up, as a `ProcessGroup`."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return distributed.get_rank()

    @property
    def size(self) -> int:
        """The number of processes."""
        return distributed.get_world_size()

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes."""
        with _explain_failures():
            distributed.all_reduce(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, stacked in their order."""
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        with _explain_failures():
            distributed.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        with torch.no_grad():
            for tensor in tensors:
                contiguous = tensor.contiguous()  # its memory order may differ from process to process
                with _explain_failures():
                    distributed.broadcast(contiguous, src=0)
                if contiguous is not tensor:
                    tensor.copy_(contiguous)


@contextmanager
def _explain_failures() -> Iterator[None]:
    """Turn an error of an exchange into LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostProcessError(f"an exchange between the processes of the trial failed: {reason}") from error
