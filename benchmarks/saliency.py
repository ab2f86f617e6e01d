"""The cost of FORCE masks, against the published procedure and against its bare forward and backward passes.

    python benchmarks/saliency.py --model resnet20 --iterations 10 --repeats 7

Each repetition runs all three in turn, on one thread. A ratio is the median of the ratios of the repetitions, so that
other load on the machine falls on both of its terms. Nothing is printed unless forcetune and the published procedure
give the same masks, bit for bit, in float64.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from naive import Batch, force_masks
from torch import Tensor, nn
from torch.nn import functional

from forcetune import models
from forcetune.pruning import find_masks

INPUT_SHAPE, CLASSES, BATCH_SIZE = (3, 32, 32), 10, 128


def main() -> None:
    """Check the masks, time all three and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    model = models.build(arguments.model, INPUT_SHAPE, CLASSES)
    batches = random_batches(arguments.iterations)
    if not has_equal_masks(model.double(), batches, arguments.density):
        sys.exit("the masks differ in float64: no ratios")
    model.float()
    is_equal_in_float32 = has_equal_masks(model, batches, arguments.density)
    rounds = measure(
        {
            "forcetune": lambda: forcetune_masks(model, batches, arguments.density),
            "published procedure": lambda: published_masks(model, batches, arguments.density),
            "bare passes": lambda: bare_passes(copy.deepcopy(model), batches),
        },
        arguments.repeats,
    )
    report(arguments, rounds, is_equal_in_float32)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help=f"one of {', '.join(models.MODELS)}")
    parser.add_argument("--iterations", type=int, default=10, help="pruning steps, one batch each")
    parser.add_argument("--density", type=float, default=0.01, help="fraction of weights kept")
    parser.add_argument("--repeats", type=int, default=7, help="times that each of the three is run")
    return parser.parse_args()


def random_batches(count: int) -> list[Batch]:
    """Return fixed random batches: a smooth random pattern for each class, under noise.

    On noise alone FORCE cuts a ResNet-20 in two at this density. Every score is then zero, and the choice of the kept
    weights is arbitrary.
    """
    generator = torch.Generator().manual_seed(0)
    channels, *size = INPUT_SHAPE
    patterns = torch.randn(CLASSES, channels, 4, 4, generator=generator)
    patterns = functional.interpolate(patterns, size=size, mode="bilinear")
    batches = []
    for _ in range(count):
        targets = torch.randint(CLASSES, (BATCH_SIZE,), generator=generator)
        batches.append((patterns[targets] + 0.3 * torch.randn(BATCH_SIZE, *INPUT_SHAPE, generator=generator), targets))
    return batches


def forcetune_masks(model: nn.Module, batches: list[Batch], density: float) -> list[Tensor]:
    """Return the masks of forcetune's FORCE, one step a batch."""
    return list(find_masks(model, batches, "force", density, iterations=len(batches)).values())


def published_masks(model: nn.Module, batches: list[Batch], density: float) -> list[Tensor]:
    """Return the masks of the baseline's FORCE, one step a batch."""
    return [mask.bool() for mask in force_masks(model, iter(batches), density, len(batches))]


def bare_passes(model: nn.Module, batches: list[Batch]) -> None:
    """Run the forward and backward passes that every saliency needs, and nothing else."""
    model.train()
    for inputs, targets in batches:
        model.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()


def has_equal_masks(model: nn.Module, batches: list[Batch], density: float) -> bool:
    """Return whether forcetune and the published procedure give equal masks in the model's precision."""
    dtype = next(model.parameters()).dtype
    batches = [(inputs.to(dtype), targets) for inputs, targets in batches]
    pairs = zip(forcetune_masks(model, batches, density), published_masks(model, batches, density), strict=True)
    return all(torch.equal(forcetune_mask, published_mask) for forcetune_mask, published_mask in pairs)


def measure(contenders: dict[str, Callable[[], object]], repeats: int) -> list[dict[str, float]]:
    """Return the seconds by contender, one dict a repetition; each repetition starts with the next contender."""
    names = list(contenders)
    rounds = []
    for repeat in range(repeats):
        offset = repeat % len(names)
        seconds = {}
        for name in [*names[offset:], *names[:offset]]:
            started = time.perf_counter()
            contenders[name]()
            seconds[name] = time.perf_counter() - started
        rounds.append(seconds)
    return rounds


def report(arguments: argparse.Namespace, rounds: list[dict[str, float]], is_equal_in_float32: bool) -> None:
    """Print the table, the two ratios and whether the masks are equal."""

    def ratio(numerator: str, denominator: str) -> float:
        return median(seconds[numerator] / seconds[denominator] for seconds in rounds)

    print(
        f"FORCE masks of {arguments.model}, density {arguments.density:g}, {arguments.iterations} steps of one batch "
        f"of {BATCH_SIZE}; median of {len(rounds)} repetitions in turn, 1 thread, torch {torch.__version__}\n"
    )
    print("| what | median seconds | ratio to forcetune |")
    print("|---|---:|---:|")
    for name in rounds[0]:
        print(f"| {name} | {median(seconds[name] for seconds in rounds):.3f} | {ratio(name, 'forcetune'):.3f} |")
    print(f"\npublished / forcetune: {ratio('published procedure', 'forcetune'):.3f}")
    print(f"forcetune / bare passes: {ratio('forcetune', 'bare passes'):.3f}")
    print(f"masks identical: in float64 yes, in float32 {'yes' if is_equal_in_float32 else 'no'}")


if __name__ == "__main__":
    main()
