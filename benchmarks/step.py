"""What a training step of a pruned network costs without its dead channels, against the masked network at full size.

    python benchmarks/step.py

Both train the same masks on the same batch of 128 images, 3x32x32, one thread, in turn; a ratio is the median of the
repetitions' own ratios. Nothing is printed of a pair whose losses differ.
"""

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from saliency import BATCH, CLASSES, INPUT_SHAPE, random_batches
from torch import nn
from torch.nn import functional

from forcetune import models
from forcetune.pruning import find_masks
from forcetune.training import OPTIMIZERS, Masked, find_compaction


@dataclass(frozen=True)
class Case:
    """A network and its mask."""

    model: str
    method: str
    density: float
    iterations: int
    repeats: int


CASES = [
    Case("resnet20", "snip", 0.01, 1, 15),
    Case("resnet20", "force", 0.02, 20, 15),
    Case("vgg16_bn", "force", 0.01, 20, 5),
    Case("vgg16_bn", "force", 0.005, 20, 5),
]


class Arm:
    """A network in training on one batch."""

    def __init__(self, network: nn.Module, masks: dict[str, torch.Tensor]) -> None:
        self._network = network.train()
        self._held = Masked(network, masks)
        self._optimizer = OPTIMIZERS["sgd"](network.parameters(), 0.05, 0.9, 5e-4)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """As the training loop does it; the loss."""
        loss = functional.cross_entropy(self._network(inputs), targets)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._held.gradients()
        self._optimizer.step()
        self._held.weights()
        return loss.item()


def main() -> None:
    """Time each case and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    print(f"Training steps at batch {BATCH}, 1 thread, torch {torch.__version__}\n")
    print("| network | mask | sparsity | multiply-adds left | masked, s | compacted, s | masked / compacted |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for case in CASES:
        measure(case)


def measure(case: Case) -> None:
    """One row."""
    torch.manual_seed(0)
    model = models.build(case.model, INPUT_SHAPE, CLASSES)
    batches = random_batches(case.iterations)
    masks = find_masks(model, batches, case.method, case.density, case.iterations)
    found = find_compaction(model, masks, INPUT_SHAPE)
    arms = {
        "masked": Arm(copy.deepcopy(model), masks),
        "compacted": Arm(found.network, {name: found.shrink(name, mask) for name, mask in masks.items()}),
    }
    rounds = []
    for repeat in range(case.repeats + 1):
        seconds, losses = {}, []
        for name in list(arms)[:: 1 if repeat % 2 else -1]:
            started = time.perf_counter()
            losses.append(arms[name].step(*batches[0]))
            seconds[name] = time.perf_counter() - started
        if abs(losses[0] - losses[1]) > 1e-3 * abs(losses[0]):
            sys.exit(f"{case}: the losses differ, {losses}")
        rounds.append(seconds)
    rounds = rounds[1:]  # the first one is for what is set up only once
    masked, compacted = (median(seconds[name] for seconds in rounds) for name in arms)
    ratio = median(seconds["masked"] / seconds["compacted"] for seconds in rounds)
    print(
        f"| {case.model} | {case.method} | {1 - case.density:.1%} | {found.share:.2f} | {masked:.3f} | {compacted:.3f} "
        f"| {ratio:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
