"""The cost of a mask of every method on ResNet-20, in seconds and in training passes of the same batch.

    python benchmarks/methods.py --iterations 20 --repeats 3

Each repetition finds a mask with every method in turn, on one thread, with a bare forward and backward pass before each
mask. A ratio is the median of the ratios of the repetitions.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from saliency import BATCH_SIZE, CLASSES, INPUT_SHAPE
from torch.nn import functional

from forcetune import models
from forcetune.pruning import METHODS, find_masks

METHODS_AT_START = [name for name, row in METHODS.items() if not row.starts_dense]  # the others prune in training


def main() -> None:
    """Time every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help=f"one of {', '.join(models.MODELS)}")
    parser.add_argument("--iterations", type=int, default=20, help="pruning steps of the iterative methods")
    parser.add_argument("--density", type=float, default=0.01, help="fraction of weights kept")
    parser.add_argument("--repeats", type=int, default=3, help="times that each method is run")
    parser.add_argument("--methods", default=",".join(METHODS_AT_START), help="with commas between")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.methods.split(",")
    rounds = [measure(arguments, names) for _ in range(arguments.repeats)]
    print(
        f"{arguments.model}, density {arguments.density:g}, T = {arguments.iterations}, "
        f"one batch of {BATCH_SIZE} a step; median of {arguments.repeats} repetitions in turn, 1 thread, "
        f"torch {torch.__version__}\n"
    )
    print("| method | seconds | training passes |")
    print("|---|---:|---:|")
    for name in names:
        seconds, ratio = (median(costs[name][index] for costs in rounds) for index in (0, 1))
        print(f"| `{name}` | {seconds:.2f} | {ratio:.1f} |")


def measure(arguments: argparse.Namespace, names: list[str]) -> dict[str, tuple[float, float]]:
    """Return, by method, the seconds of a mask and their ratio to the training pass just before it."""
    model = models.build(arguments.model, INPUT_SHAPE, CLASSES)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((BATCH_SIZE, *INPUT_SHAPE), generator=generator)
    batch = inputs, torch.arange(BATCH_SIZE) % CLASSES

    def training_pass() -> None:
        model.zero_grad()
        functional.cross_entropy(model(inputs), batch[1]).backward()

    costs = {}
    for name in names:
        pass_seconds = time_call(training_pass)
        find = partial(find_masks, model, [batch], name, arguments.density, iterations=arguments.iterations)
        seconds = time_call(find)
        costs[name] = seconds, seconds / pass_seconds
    return costs


def time_call(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
