"""The cost of forcetune's training step of a pruned network, against a step of the masked network at full size.

    python benchmarks/step.py

The masked network has all its channels, with weights in torch's default order. The second arm has its weights channels
last. The third arm, forcetune's, also lacks the dead channels. All arms train the same masks on the same batch of 128
images of 3x32x32, on one thread, in turn. A ratio is the median of the ratios of the repetitions. Where the losses
differ, the command ends without a row.
"""

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from saliency import BATCH_SIZE, CLASSES, INPUT_SHAPE, random_batches

from forcetune import models
from forcetune.pruning import find_masks
from forcetune.training import find_compaction
from forcetune.training.layout import lay_out
from forcetune.training.step import Recipe, Step


@dataclass(frozen=True)
class Case:
    """A network and its mask."""

    model: str
    method: str
    density: float
    iterations: int
    repeats: int


STEP_CASES = [
    Case("resnet20", "snip", 0.01, 1, 15),
    Case("resnet20", "force", 0.02, 20, 15),
    Case("vgg16_bn", "force", 0.01, 20, 5),
    Case("vgg16_bn", "force", 0.005, 20, 5),
]


def main() -> None:
    """Time each case and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    print(f"Training steps at batch {BATCH_SIZE}, 1 thread, torch {torch.__version__}\n")
    print(
        "| network | mask | sparsity | multiply-adds left | masked, s | channels last, s | compacted, s "
        "| channels last / compacted | masked / compacted |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for case in STEP_CASES:
        measure(case)


def measure(case: Case) -> None:
    """Time the steps of a case and print its row."""
    torch.manual_seed(0)
    model = models.build(case.model, INPUT_SHAPE, CLASSES)
    batches = random_batches(case.iterations)
    masks = find_masks(model, batches, case.method, case.density, iterations=case.iterations)
    compaction = find_compaction(model, masks, INPUT_SHAPE)
    channels_last = copy.deepcopy(model)
    lay_out(channels_last, INPUT_SHAPE)
    lay_out(compaction.network, INPUT_SHAPE)
    arms = {
        "masked": Step(model.train(), masks, Recipe()),
        "channels last": Step(channels_last, masks, Recipe()),
        "compacted": Step(
            compaction.network, {name: compaction.shrink(name, mask) for name, mask in masks.items()}, Recipe()
        ),
    }
    rounds = []
    for repeat in range(case.repeats + 1):
        seconds, losses = {}, []
        for name in list(arms)[:: 1 if repeat % 2 else -1]:
            started = time.perf_counter()
            losses.append(float(arms[name](*batches[0], lr=0.05)))
            seconds[name] = time.perf_counter() - started
        if not repeat and max(losses) - min(losses) > 1e-4 * max(losses):  # later losses drift apart by rounding
            sys.exit(f"{case}: the losses differ, {losses}")
        rounds.append(seconds)
    rounds = rounds[1:]  # the first round includes the set-up
    cells = " | ".join(f"{median(seconds[name] for seconds in rounds):.3f}" for name in arms)
    ratios = (
        median(round_seconds[name] / round_seconds["compacted"] for round_seconds in rounds)
        for name in ("channels last", "masked")
    )
    print(
        f"| {case.model} | {case.method} | {1 - case.density:.1%} | {compaction.macs_fraction:.2f} | {cells} "
        f"| {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
