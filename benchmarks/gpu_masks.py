"""Masks of ResNet-50 and VGG-19 by FORCE in 60 steps on a device, against the published procedure.

A part of gpu.py, which says how to run it. Images of 32x32, one batch of 128 a step, density 0.05. The published
procedure (naive.py) takes fewer steps, and its seconds a step are compared.
"""

import time
from collections.abc import Iterator

import naive
import torch
from gpu import part_arguments, show
from gpu_steps import CLASSES, SHAPE, pictures, synchronize

from forcetune import models
from forcetune.pruning import find_masks

DENSITY, BATCH, SMALL_BATCH = 0.05, 128, 8
STEPS, PUBLISHED_STEPS = 60, 10
SMALL_STEPS = 2
NETWORKS = {"resnet50": "resnet50", "vgg19": "vgg19_bn"}
SMALL_NETWORKS = {"resnet50": "resnet8", "vgg19": "vgg_small"}


def main() -> None:
    """Measure and show each figure."""
    arguments = part_arguments(__doc__)
    device = torch.device(arguments.device)
    steps, published = (SMALL_STEPS, SMALL_STEPS) if arguments.small else (STEPS, PUBLISHED_STEPS)
    batch = SMALL_BATCH if arguments.small else BATCH
    dataset = pictures(batch * 4, batch).to(device)
    for figure, name in (SMALL_NETWORKS if arguments.small else NETWORKS).items():
        model = models.build(name, SHAPE, CLASSES).to(device)
        batches = dataset.batches(dataset.train, batch, seed=0)
        find_masks(model, batches, "force", DENSITY, 1)  # kernels are loaded
        started = begin(device)
        find_masks(model, batches, "force", DENSITY, steps)
        ours = seconds_since(started, device)
        show(f"mask_{figure}_s", ours)
        started = begin(device)
        naive.force_masks(model, forever(batches), DENSITY, published)
        theirs = seconds_since(started, device)
        show(f"mask_{figure}_over_published", (theirs / published) / (ours / steps))


def begin(device: torch.device) -> float:
    """Return the time, once the device has nothing to do."""
    synchronize(device)
    return time.perf_counter()


def seconds_since(started: float, device: torch.device) -> float:
    """Return the seconds since then, once the device has nothing to do."""
    synchronize(device)
    return time.perf_counter() - started


def forever(batches: object) -> Iterator[naive.Batch]:
    """Yield the batches of pass after pass."""
    while True:
        yield from batches  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
