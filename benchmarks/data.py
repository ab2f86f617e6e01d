"""Images a second that reach a network: forcetune's data path against a DataLoader with PIL transforms.

    python benchmarks/data.py

The images have the size of CIFAR's. They are shifted and mirrored at random, normalised, and come in shuffled batches
of 128. Whole passes run in turn on one thread (the DataLoader's worker is a process of its own). The ratio is the
median of the ratios of the repetitions.
"""

import argparse
import time
from collections.abc import Iterable
from statistics import median

import torch
from naive import loader
from torch import Tensor

from forcetune.data import Dataset, Images

LOADER_BATCH_SIZE = 128


def main() -> None:
    """Time both data paths and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of a pass")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (arguments.images, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randint(10, (arguments.images,), generator=generator),
    )
    dataset = Dataset(images, images, 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), pad=4, flip=True)
    paths: dict[str, Iterable[tuple[Tensor, Tensor]]] = {
        "DataLoader": loader(dataset, images, LOADER_BATCH_SIZE, training=True),
        "forcetune": dataset.batches(images, LOADER_BATCH_SIZE, seed=0),
    }
    rounds = [{name: time_pass(path) for name, path in paths.items()} for _ in range(arguments.repeats)]
    print("| data path | images/s |")
    print("|---|---:|")
    for name in paths:
        print(f"| {name} | {arguments.images / median(round_seconds[name] for round_seconds in rounds):,.0f} |")
    ratio = median(round_seconds["DataLoader"] / round_seconds["forcetune"] for round_seconds in rounds)
    print(f"\nforcetune / DataLoader: {ratio:.1f}")


def time_pass(path: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the seconds of a whole pass."""
    started = time.perf_counter()
    for inputs, _ in path:
        assert len(inputs) > 0
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
