"""The training of one trial by two processes of gloo, against one process: its losses, and its cost.

    python benchmarks/parallel.py

First the losses of a small network in float64, epoch by epoch: two processes with half of each batch compute what one
process computes with the whole batch. Then the seconds of a step of larger networks in float32, with one thread for
each process, in turn on the same two cores: one process (the other one waits), then both. The first ratio is how much
sooner the step ends, the second what it costs in core seconds of both processes. Each is the median of the ratios of
the repetitions. Before the times, the losses of one step are compared; where they differ, the command ends.
"""

import argparse
import copy
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
from saliency import BATCH_SIZE, CLASSES, INPUT_SHAPE, random_batches
from torch import Tensor, distributed

from forcetune import data, models, pruning
from forcetune.training import ParallelTraining, TorchGroup, Training
from forcetune.training.parallel import ParallelStep
from forcetune.training.shared_norm import Share, share_norms
from forcetune.training.step import Recipe, Step

PROCESSES = 2
EPOCHS = 4


@dataclass(frozen=True)
class Case:
    """A network and its mask."""

    model: str
    density: float
    repeats: int


PARALLEL_CASES = [
    Case("resnet20", 1.0, 15),
    Case("resnet20", 0.05, 15),
    Case("vgg16_bn", 1.0, 5),
    Case("vgg16_bn", 0.05, 5),
]


def main() -> None:
    """Start the two processes, of which the first one prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the repetitions (1)")
    scale = parser.parse_args().scale
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=run, args=(rank, str(Path(folder) / "store"), scale)) for rank in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))


def run(rank: int, path: str, scale: float) -> None:
    """Take part in all measurements, as one of the two processes."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(path, PROCESSES)  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=10))
    group = TorchGroup()
    compare_losses(group)
    if not group.rank:
        print(f"\nTraining steps at batch {BATCH_SIZE}, 1 thread a process, torch {torch.__version__}\n")
        print(
            "| network | sparsity | summed, MB a step | one process, s | two processes, s | one / two "
            "| core seconds, two / one |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for case in PARALLEL_CASES:
        measure(case, max(1, round(case.repeats * scale)), group)
    distributed.destroy_process_group()


class DoubleBatches:
    """Batches in float64."""

    def __init__(self, batches: data.AnyBatches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self._batches:
            yield inputs.double(), targets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def compare_losses(group: TorchGroup) -> None:
    """Train a network in both processes and in the first one alone, and print both curves."""
    dataset = data.load("digits")
    training, validation = dataset.split(0)
    model = models.build("convnet", dataset.input_shape, dataset.classes, 16, 0).double()
    saliency_batches = DoubleBatches(dataset.batches(training, 128, 0))
    masks = pruning.find_masks(model, saliency_batches, "snip", 0.1)
    options = {"epochs": EPOCHS, "lr": 0.1, "input_shape": dataset.input_shape, "precision": "float32"}

    def train(make: Callable[..., Training], batches: data.AnyBatches) -> list[dict[str, float]]:
        validation_batches = DoubleBatches(dataset.batches(validation, 1024))
        return list(make(copy.deepcopy(model), masks, DoubleBatches(batches), validation_batches, **options))

    def make_parallel(*arguments: Any, **options: Any) -> Training:
        return ParallelTraining(*arguments, group=group, seed=0, shares_norms=True, **options)

    shares = dataset.batches(training, 128, 1).share(group.rank, group.size)
    both = train(make_parallel, shares)
    if group.rank:
        return
    alone = train(Training, dataset.batches(training, 128, 1))
    print(f"convnet on digits, 90 % sparsity by SNIP, batch 128, float64, torch {torch.__version__}\n")
    print(
        "| epoch | training loss, one process | two processes | relative difference | validation loss, one process "
        "| two processes | relative difference |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for expected, epoch in zip(alone, both, strict=True):
        cells = []
        for name in ("train_loss", "val_loss"):
            cells += [f"{expected[name]:.15f}", f"{epoch[name]:.15f}", f"{abs(epoch[name] / expected[name] - 1):.1e}"]
        print(f"| {epoch['epoch']} | {' | '.join(cells)} |", flush=True)


def measure(case: Case, repeats: int, group: TorchGroup) -> None:
    """Time the steps of a case in one process and in both, and print its row."""
    torch.manual_seed(0)
    model = models.build(case.model, INPUT_SHAPE, CLASSES)
    masks = pruning.find_masks(model, [], "random", case.density)
    inputs, targets = random_batches(1)[0]
    half = slice(group.rank * BATCH_SIZE // PROCESSES, (group.rank + 1) * BATCH_SIZE // PROCESSES)
    share = Share()
    network = copy.deepcopy(model).train()
    share_norms(network, group, share)
    counted = CountedGroup(group)
    parallel_step = ParallelStep(network, masks, Recipe(), counted, share)
    single_step = Step(copy.deepcopy(model).train(), masks, Recipe())

    def take_half_step() -> float:
        share.fraction = 1 / PROCESSES
        return float(parallel_step(inputs[half], targets[half], lr=0.05))

    single, shared = [], []
    for repeat in range(repeats + 1):
        distributed.barrier()
        if not group.rank:
            seconds, loss = time_call(lambda: float(single_step(inputs, targets, lr=0.05)))
            single.append(seconds)
        distributed.barrier()
        seconds, shared_loss = time_call(take_half_step)
        shared.append(seconds)
        if not repeat and not group.rank and abs(shared_loss / loss - 1) > 1e-4:
            sys.exit(f"{case}: the losses differ, {loss} and {shared_loss}")
    shared_core_seconds = group.gather(torch.tensor([seconds.core for seconds in shared])).sum(0).tolist()
    if not group.rank:
        sent = 4 * counted.elements / 1e6 / (repeats + 1)
        print(
            f"| {case.model} | {1 - case.density:.0%} | {sent:.2f} | {describe(single, shared, shared_core_seconds)} |"
        )


@dataclass(frozen=True)
class Seconds:
    """The time of a step, by the clock and on this process's cores."""

    wall: float
    core: float


def describe(single: list[Seconds], shared: list[Seconds], shared_core_seconds: list[float]) -> str:
    """Return the cells of the times, and of their ratios; the first repetition includes the set-up."""
    single_walls, shared_walls = ([seconds.wall for seconds in steps[1:]] for steps in (single, shared))
    sooner = [alone / both for alone, both in zip(single_walls, shared_walls, strict=True)]
    costs = [both / alone.core for alone, both in zip(single[1:], shared_core_seconds[1:], strict=True)]
    medians = f"{median(single_walls):.3f} | {median(shared_walls):.3f}"
    return f"{medians} | {median(sooner):.2f} | {median(costs):.2f}"


class CountedGroup:
    """A group that counts the numbers that are summed."""

    def __init__(self, group: TorchGroup) -> None:
        self.rank, self.size = group.rank, group.size
        self.elements = 0
        self._group = group

    def sum(self, tensor: Tensor) -> None:
        """Sum a tensor over the processes, and count its elements."""
        self.elements += tensor.numel()
        self._group.sum(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes."""
        return self._group.gather(tensor)

    def broadcast(self, tensors: Any) -> None:
        """Replace tensors by those of the first process."""
        self._group.broadcast(tensors)


def time_call(call: Callable[[], float]) -> tuple[Seconds, float]:
    """Return the time that a call takes, and its result."""
    started, core_started = time.perf_counter(), time.process_time()
    result = call()
    return Seconds(time.perf_counter() - started, time.process_time() - core_started), result


if __name__ == "__main__":
    main()
