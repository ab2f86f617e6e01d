"""Masks of ResNet-50 and VGG-19 by FORCE in 60 steps on a device, against the published procedure.

This is a stage of gpu.py, which says how to run it. The images are 32x32, a step has a batch of 128, and the density is
0.05. The published procedure (naive.py) takes fewer steps, so that seconds a step are compared.
"""

from functools import partial

import naive
import torch
from gpu import show, stage_arguments
from gpu_steps import IMAGE_CLASSES, IMAGE_SHAPE, measure_seconds, random_dataset

from forcetune import models
from forcetune.pruning import find_masks

MASK_DENSITY, MASK_BATCH_SIZE, SMALL_BATCH_SIZE = 0.05, 128, 8
MASK_STEPS, PUBLISHED_STEPS = 60, 10
SMALL_STEPS = 2
NETWORKS = {"resnet50": "resnet50", "vgg19": "vgg19_bn"}
SMALL_NETWORKS = {"resnet50": "resnet8", "vgg19": "vgg_small"}


def main() -> None:
    """Measure and show each figure."""
    arguments = stage_arguments(__doc__)
    device = torch.device(arguments.device)
    steps, published_steps = (SMALL_STEPS, SMALL_STEPS) if arguments.small else (MASK_STEPS, PUBLISHED_STEPS)
    batch_size = SMALL_BATCH_SIZE if arguments.small else MASK_BATCH_SIZE
    dataset = random_dataset(batch_size * 4, batch_size).to(device)
    for figure, name in (SMALL_NETWORKS if arguments.small else NETWORKS).items():
        model = models.build(name, IMAGE_SHAPE, IMAGE_CLASSES).to(device)
        batches = dataset.batches(dataset.train, batch_size, seed=0)
        find_masks(model, batches, "force", MASK_DENSITY, iterations=1)  # the first call includes the set-up
        naive.force_masks(model, naive.forever(batches), MASK_DENSITY, 1)  # type: ignore[arg-type]
        forcetune_s = measure_seconds(
            partial(find_masks, model, batches, "force", MASK_DENSITY, iterations=steps), device
        )
        show(f"mask_{figure}_s", forcetune_s)
        published_s = measure_seconds(
            partial(naive.force_masks, model, naive.forever(batches), MASK_DENSITY, published_steps),  # type: ignore[arg-type]
            device,
        )
        show(f"mask_{figure}_over_published", (published_s / published_steps) / (forcetune_s / steps))


if __name__ == "__main__":
    main()
