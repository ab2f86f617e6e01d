"""Masks of ResNet-50 and VGG-19 by FORCE in 60 steps on a device, against the published procedure.

A stage of gpu.py, which says how to run it. Images of 32x32, one batch of 128 a step, density 0.05. The published
procedure (naive.py) takes fewer steps, and its seconds a step are compared.
"""

from functools import partial

import naive
import torch
from gpu import show, stage_arguments
from gpu_steps import CLASSES, SHAPE, pictures, seconds

from forcetune import models
from forcetune.pruning import find_masks

DENSITY, BATCH, SMALL_BATCH = 0.05, 128, 8
STEPS, PUBLISHED_STEPS = 60, 10
SMALL_STEPS = 2
NETWORKS = {"resnet50": "resnet50", "vgg19": "vgg19_bn"}
SMALL_NETWORKS = {"resnet50": "resnet8", "vgg19": "vgg_small"}


def main() -> None:
    """Measure and show each figure."""
    arguments = stage_arguments(__doc__)
    device = torch.device(arguments.device)
    steps, published_steps = (SMALL_STEPS, SMALL_STEPS) if arguments.small else (STEPS, PUBLISHED_STEPS)
    batch = SMALL_BATCH if arguments.small else BATCH
    dataset = pictures(batch * 4, batch).to(device)
    for figure, name in (SMALL_NETWORKS if arguments.small else NETWORKS).items():
        model = models.build(name, SHAPE, CLASSES).to(device)
        batches = dataset.batches(dataset.train, batch, seed=0)
        find_masks(model, batches, "force", DENSITY, 1)  # what is loaded only once
        naive.force_masks(model, naive.forever(batches), DENSITY, 1)  # type: ignore[arg-type]
        ours = seconds(partial(find_masks, model, batches, "force", DENSITY, steps), device)
        show(f"mask_{figure}_s", ours)
        published = seconds(
            partial(naive.force_masks, model, naive.forever(batches), DENSITY, published_steps),  # type: ignore[arg-type]
            device,
        )
        show(f"mask_{figure}_over_published", (published / published_steps) / (ours / steps))


if __name__ == "__main__":
    main()
