"""Groups of processes whose members are threads, so that a test of what they compute starts no process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from forcetune.training import LostProcessError


class ThreadGroup:
    """A member of a group, which adds up in the order of the ranks."""

    def __init__(self, rank, size, board, barrier):
        self.rank, self.size = rank, size
        self.sums = []  # the number of elements of each sum
        self._board, self._barrier = board, barrier

    def gather(self, tensor):
        self._board[self.rank] = tensor.detach().clone()
        self._wait()
        gathered = torch.stack([self._board[rank] for rank in range(self.size)])
        self._wait()
        return gathered

    def sum(self, tensor):
        self.sums.append(tensor.numel())
        tensor.copy_(self.gather(tensor).sum(0))

    def broadcast(self, tensors):
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self.gather(tensor)[0])

    def _wait(self):
        try:
            self._barrier.wait(timeout=60)
        except threading.BrokenBarrierError as error:
            raise LostProcessError("another thread has ended") from error


def run_together(size, work):
    """Return the results of a function of a ThreadGroup, which runs in as many threads, by rank."""
    board, barrier = {}, threading.Barrier(size)

    def run(rank):
        try:
            return work(ThreadGroup(rank, size, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        return [future.result() for future in [threads.submit(run, rank) for rank in range(size)]]
