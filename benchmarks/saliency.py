"""What finding FORCE masks costs, against the published procedure and against its bare forward and backward passes.

    python benchmarks/saliency.py --model resnet20 --iterations 10 --repeats 7

Each repetition runs all of them in turn, on one thread. A ratio is the median of the repetitions' own ratios,
so that what else the machine does meanwhile falls on both of its sides. Nothing is printed unless ours and the
published procedure give the same masks, bit for bit, in float64.
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

INPUT_SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 128


def main() -> None:
    """Check the masks, time the three and print the table."""
    arguments = parse()
    torch.set_num_threads(1)
    model = models.build(arguments.model, INPUT_SHAPE, CLASSES)
    batches = random_batches(arguments.iterations)
    if not same_masks(model.double(), batches, arguments.density):
        sys.exit("the masks differ in float64: no ratios")
    model.float()
    in_float32 = same_masks(model, batches, arguments.density)
    rounds = measure(
        {
            "forcetune": lambda: ours(model, batches, arguments.density),
            "published procedure": lambda: published(model, batches, arguments.density),
            "bare passes": lambda: bare(copy.deepcopy(model), batches),
        },
        arguments.repeats,
    )
    report(arguments, rounds, in_float32)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help=f"one of {', '.join(models.MODELS)}")
    parser.add_argument("--iterations", type=int, default=10, help="pruning steps, one batch each")
    parser.add_argument("--density", type=float, default=0.01, help="fraction of weights kept")
    parser.add_argument("--repeats", type=int, default=7, help="times that each of the three is run")
    return parser.parse_args()


def random_batches(count: int) -> list[Batch]:
    """Fixed random batches: a smooth random pattern for each class, under noise.

    On noise alone FORCE cuts a ResNet-20 in two at this density; every score is then zero, and which weights are
    kept is arbitrary.
    """
    generator = torch.Generator().manual_seed(0)
    channels, *size = INPUT_SHAPE
    patterns = torch.randn(CLASSES, channels, 4, 4, generator=generator)
    patterns = functional.interpolate(patterns, size=size, mode="bilinear")
    batches = []
    for _ in range(count):
        targets = torch.randint(CLASSES, (BATCH,), generator=generator)
        batches.append((patterns[targets] + 0.3 * torch.randn(BATCH, *INPUT_SHAPE, generator=generator), targets))
    return batches


def ours(model: nn.Module, batches: list[Batch], density: float) -> list[Tensor]:
    """FORCE as forcetune runs it, one step a batch."""
    return list(find_masks(model, batches, "force", density, iterations=len(batches)).values())


def published(model: nn.Module, batches: list[Batch], density: float) -> list[Tensor]:
    """The baseline's."""
    return [mask.bool() for mask in force_masks(model, iter(batches), density, len(batches))]


def bare(model: nn.Module, batches: list[Batch]) -> None:
    """The forward and backward passes that a saliency cannot do without, and nothing else."""
    model.train()
    for inputs, targets in batches:
        model.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()


def same_masks(model: nn.Module, batches: list[Batch], density: float) -> bool:
    """Whether ours and the published procedure's masks are equal bit for bit, in the model's precision."""
    dtype = next(model.parameters()).dtype
    batches = [(inputs.to(dtype), targets) for inputs, targets in batches]
    pairs = zip(ours(model, batches, density), published(model, batches, density), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def measure(contenders: dict[str, Callable[[], object]], repeats: int) -> list[dict[str, float]]:
    """Seconds by name, one dict a repetition; each repetition starts with another contender."""
    names = list(contenders)
    rounds = []
    for repeat in range(repeats):
        turn = repeat % len(names)
        seconds = {}
        for name in [*names[turn:], *names[:turn]]:
            started = time.perf_counter()
            contenders[name]()
            seconds[name] = time.perf_counter() - started
        rounds.append(seconds)
    return rounds


def report(arguments: argparse.Namespace, rounds: list[dict[str, float]], in_float32: bool) -> None:
    """Print the table and the two ratios."""

    def ratio(above: str, below: str) -> float:
        return median(seconds[above] / seconds[below] for seconds in rounds)

    print(
        f"FORCE masks of {arguments.model}, density {arguments.density:g}, {arguments.iterations} steps of one batch "
        f"of {BATCH}; median of {len(rounds)} repetitions in turn, 1 thread, torch {torch.__version__}\n"
    )
    print("| what | median seconds | ratio to forcetune |")
    print("|---|---:|---:|")
    for name in rounds[0]:
        print(f"| {name} | {median(seconds[name] for seconds in rounds):.3f} | {ratio(name, 'forcetune'):.3f} |")
    print(f"\npublished / forcetune: {ratio('published procedure', 'forcetune'):.3f}")
    print(f"forcetune / bare passes: {ratio('forcetune', 'bare passes'):.3f}")
    print(f"masks identical: in float64 yes, in float32 {'yes' if in_float32 else 'no'}")


if __name__ == "__main__":
    main()
