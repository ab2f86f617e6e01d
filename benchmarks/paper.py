"""The cost of the studies in search_spaces/paper: their trials, and the operations of pruning and training all of them.

    python benchmarks/paper.py                              # a minute: it builds each network once
    python benchmarks/paper.py --measure synflow_cifar10    # minutes: what `forcetune check` predicts on this machine

The data sets need not be on the disk: blank images in the same number and shape stand in for them, since neither the
count nor the time of a step depends on what they show. An operation is a multiplication or an addition; a training
step has three times those of a forward pass, the network counts dense, and layers other than convolutions and linear
ones are left out.
"""

import argparse
from functools import cache, partial
from pathlib import Path

import torch

from forcetune import models
from forcetune.data import DATASETS, Dataset, Images
from forcetune.formats import duration
from forcetune.pruning import dense_macs
from forcetune.run import predict_cost
from forcetune.study import Study, load_study

FILES = sorted((Path(__file__).parents[1] / "search_spaces" / "paper").glob("*.yaml"))
SIZES = {  # shape of a sample, classes, training and test images
    "cifar10": ((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": ((3, 32, 32), 100, 50_000, 10_000),
    "tiny_imagenet": ((3, 64, 64), 200, 100_000, 10_000),
    "imagenet": ((3, 224, 224), 1000, 1_281_167, 50_000),
}
VALIDATION = {"imagenet": 0.04}  # the share of the training images; 0.1 elsewhere
PEAK = 989e12  # operations a second of an H100 in bf16, by its data sheet
SHARE_OF_PEAK = 0.1  # that a training is assumed to reach


def main() -> None:
    """Print the table, or the prediction for one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=[path.stem for path in FILES], help="predict the cost of this study")
    arguments = parser.parse_args()
    for name in SIZES:
        DATASETS[name] = partial(make_stand_in, name)
    if arguments.measure:
        show_prediction(load_study(FILES[0].with_name(f"{arguments.measure}.yaml")))
        return
    print(f"| file | trials | operations | H100 hours at {SHARE_OF_PEAK:.0%} of its peak |\n|---|---:|---:|---:|")
    for path in FILES:
        study = load_study(path)
        operations = count_operations(study)
        hours = operations / (PEAK * SHARE_OF_PEAK) / 3600
        print(f"| {path.name} | {study.trials:,} | {operations / 1e18:,.0f} · 10¹⁸ | {hours:,.0f} |", flush=True)


def make_stand_in(name: str, root: str | None) -> Dataset:
    """Return blank images of a data set's sizes; all of them share the memory of one pixel."""
    shape, classes, *counts = SIZES[name]
    pixel = torch.zeros(1, dtype=torch.uint8)
    train, test = (Images(pixel.expand(count, *shape), torch.arange(count) % classes) for count in counts)
    share = VALIDATION.get(name, 0.1)
    return Dataset(train=train, test=test, classes=classes, mean=(0.5,) * 3, std=(0.25,) * 3, validation=share)


def count_operations(study: Study) -> float:
    """Return the operations of pruning and training all trials of a grid."""
    total = 0.0
    for configuration in study.grid():
        fields = configuration.fields()
        samples = fields.get("iterations", 1) * fields.get("batches_per_step", 0) * configuration.saliency_batch_size
        count = SIZES[configuration.dataset][2]
        share = VALIDATION.get(configuration.dataset, 0.1)
        images = 3 * samples + configuration.total_epochs * count * (3 * (1 - share) + share)
        total += 2.0 * count_macs(configuration.dataset, configuration.model) * images
    return total


@cache
def count_macs(dataset: str, model: str) -> int:
    """Return the multiply-adds of a forward pass of one sample."""
    shape, classes, *_ = SIZES[dataset]
    return sum(dense_macs(models.build(model, shape, classes), shape).values())


def show_prediction(study: Study) -> None:
    """Print what `forcetune check` predicts for a study on this machine."""
    cost = predict_cost(study)
    print(f"{study.study} on {cost.device}, {cost.at_once} trials at once: {cost.trials} trials")
    print(f"a trial takes {duration(cost.fastest)} to {duration(cost.slowest)}; the search {cost.hours / 24:,.0f} days")


if __name__ == "__main__":
    main()
