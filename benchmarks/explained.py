"""The numbers and the figures of docs/explanation: accuracy over sparsity with controls, layer densities, and noise.

    python benchmarks/explained.py accuracy --seeds 3    # minutes on one core; writes docs/explanation/accuracy.svg
    python benchmarks/explained.py layers                # half a minute; writes docs/explanation/layers.svg
    python benchmarks/explained.py noise                 # a minute

`accuracy` trains the network of search_spaces/digits.yaml with its recipe at one learning rate; the other two prune
ResNet-20 on the data set `textures`, on one thread, and train nothing.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy import stats

from forcetune import data, models, trial
from forcetune.pruning import Masks, find_masks
from forcetune.study import Trial

FIGURE_FOLDER = Path(__file__).parents[1] / "docs" / "explanation"
TRAINED_ARMS: dict[str, dict[str, Any]] = {  # what the accuracy is measured of; the first four are controls
    "random_uniform": {"method": "random_uniform"},
    "random_erk": {"method": "random_erk"},
    "small_dense": {"method": "random", "small_dense": "macs"},
    "force, shuffled": {"method": "force", "iterations": 20, "shuffle": True},
    "snip": {"method": "snip"},
    "force": {"method": "force", "iterations": 20},
    "synflow": {"method": "synflow", "iterations": 20},
}
LOOKS = {  # colour, line and marker of an arm
    "random_uniform": ("#9a9a9a", "--", "s"),
    "random_erk": ("#6b6b6b", "--", "o"),
    "small_dense": ("#444444", ":", "D"),
    "force, shuffled": ("#c98a00", "--", "^"),
    "snip": ("#7b4fb3", "-", "v"),
    "iter_snip": ("#b34f8f", "-", "<"),
    "force": ("#d1541f", "-", "^"),
    "synflow": ("#00806b", "-", "o"),
}
TRAINED_DENSITIES = (0.1, 0.05, 0.02, 0.01, 0.005)
RECIPE: dict[str, Any] = {
    "dataset": "digits",
    "model": "convnet",
    "width": 16,
    "epochs": 15,
    "batch_size": 64,
    "lr": 0.2,
}
LAYER_METHODS = ("random_erk", "snip", "iter_snip", "force", "synflow")
NOISE = 1e-6  # of the pixels, relative
MASK_DENSITY = 0.02  # of `layers` and `noise`
ITERATIONS = 20


def main() -> None:
    """Measure one of the three parts, print its table and draw its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["accuracy", "layers", "noise"])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm at each density")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "explained", "font.size": 9})
    if arguments.part == "accuracy":
        show_accuracy(arguments.seeds)
    elif arguments.part == "layers":
        show_layers()
    else:
        show_noise()


def show_accuracy(seeds: int) -> None:
    """Print and draw the validation accuracy of each arm at each density: mean and 95 % interval (Student's)."""
    accuracies = {
        (arm, density): [train(fields, density, seed) for seed in range(seeds)]
        for density in TRAINED_DENSITIES
        for arm, fields in TRAINED_ARMS.items()
    }
    print("| |", " | ".join(f"{1 - density:.1%}" for density in TRAINED_DENSITIES), "|")
    print("|---|" + "---:|" * len(TRAINED_DENSITIES))
    for arm in TRAINED_ARMS:
        cells = [format_interval(accuracies[arm, density]) for density in TRAINED_DENSITIES]
        print(f"| {arm} | {' | '.join(cells)} |")
    means = {key: 100 * mean(values) for key, values in accuracies.items()}
    spreads = {key: 100 * half_width(values) for key, values in accuracies.items()}
    draw_accuracy(means, spreads, seeds)


def draw_accuracy(means: dict[tuple[str, float], float], spreads: dict[tuple[str, float], float], seeds: int) -> None:
    """Draw the accuracy over sparsity, in percent, by arm and density, with half of the width of each interval."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for arm in TRAINED_ARMS:
        heights, errors = ([values[arm, density] for density in TRAINED_DENSITIES] for values in (means, spreads))
        color, line, marker = LOOKS[arm]
        axes.errorbar(
            TRAINED_DENSITIES,
            heights,
            errors,
            label=arm,
            color=color,
            linestyle=line,
            marker=marker,
            markersize=4,
            capsize=2,
        )
    axes.set(xscale="log", xlabel="sparsity", ylabel="validation accuracy, %", title=f"digits, convnet, {seeds} seeds")
    axes.set_ylim(0, 103)  # an interval may reach beyond what an accuracy can be
    axes.invert_xaxis()
    axes.set_xticks(TRAINED_DENSITIES, [f"{1 - density:.1%}" for density in TRAINED_DENSITIES])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    save(figure, "accuracy.svg")


def train(fields: dict[str, Any], density: float, seed: int) -> float:
    """Return the validation accuracy of a trial; that of guessing where no path is left."""
    *_, metrics = trial.run(Trial(**RECIPE, **fields, density=density, seed=seed))
    return metrics["val_accuracy"]


def half_width(values: list[float]) -> float:
    """Return half of the width of the 95 % interval of a mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def format_interval(values: list[float]) -> str:
    """Return a mean and its interval in percent."""
    return f"{100 * mean(values):.1f} ± {100 * half_width(values):.1f}"


def show_layers() -> None:
    """Print and draw the density of each layer of ResNet-20 under the masks of some methods."""
    densities = {method: measure_densities(prune(method)) for method in LAYER_METHODS}
    print("| method | lowest layer density | highest | layers below a tenth of the mean |\n|---|---:|---:|---:|")
    for method, values in densities.items():
        low = sum(value < MASK_DENSITY / 10 for value in values)
        print(f"| `{method}` | {min(values):.2%} | {max(values):.2%} | {low} of {len(values)} |")
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for method, values in densities.items():
        color, line, marker = LOOKS[method]
        axes.plot(range(1, len(values) + 1), values, label=method, color=color, linestyle=line, marker=marker, ms=3)
    axes.axhline(MASK_DENSITY, color="#9a9a9a", linewidth=0.8)
    axes.set(
        yscale="log", xlabel="layer", ylabel="density", title=f"ResNet-20 at {1 - MASK_DENSITY:.0%} sparsity, one seed"
    )
    axes.legend(frameon=False, fontsize=8)
    save(figure, "layers.svg")


def show_noise() -> None:
    """Print how far two masks agree whose images differ by a relative noise of NOISE."""
    print(
        "| method | iterations | weights in both masks, of those in either | by chance | layer densities: correlation |"
    )
    print("|---|---:|---:|---:|---:|")
    for method, iterations in [("snip", 1), ("synflow", 20), ("iter_snip", 20), ("force", 5), ("force", 20)]:
        first, second = prune(method, iterations), prune(method, iterations, NOISE)
        correlation = np.corrcoef(np.log(list(floored(first))), np.log(list(floored(second))))[0, 1]
        print(
            f"| `{method}` | {iterations} | {measure_overlap(first, second):.2f} | "
            f"{expect_overlap(first, second):.2f} | {correlation:.3f} |"
        )


def prune(method: str, iterations: int = ITERATIONS, noise: float = 0.0) -> Masks:
    """Return the masks of ResNet-20 on the first batches of `textures`, whose pixels get a relative noise."""
    dataset = data.load("textures")
    images, _ = dataset.split(seed=0)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (inputs * (1 + noise * torch.randn(inputs.shape, generator=generator)), targets)
        for inputs, targets in dataset.batches(images, 128, seed=0)
    ]
    model = models.build("resnet20", dataset.input_shape, dataset.classes, seed=0)
    return find_masks(model, batches, method, MASK_DENSITY, iterations=iterations)


def measure_densities(masks: Masks) -> list[float]:
    """Return the density of each layer."""
    return [float(mask.float().mean()) for mask in masks.values()]


def floored(masks: Masks) -> Iterator[float]:
    """Yield the density of each layer, that of half a weight where none is kept."""
    for mask in masks.values():
        yield max(float(mask.float().mean()), 0.5 / mask.numel())


def measure_overlap(first: Masks, second: Masks) -> float:
    """Return the weights that both masks keep, as a share of those that at least one of them keeps."""
    both = sum(int((first[name] & second[name]).sum()) for name in first)
    either = sum(int((first[name] | second[name]).sum()) for name in first)
    return both / either


def expect_overlap(first: Masks, second: Masks) -> float:
    """Return that share for masks with the same layer densities whose weights are drawn at random in each layer."""
    shares = [
        (mask.numel(), float(mask.float().mean()), float(second[name].float().mean())) for name, mask in first.items()
    ]
    both = sum(count * low * high for count, low, high in shares)
    either = sum(count * (low + high - low * high) for count, low, high in shares)
    return both / either


def save(figure: Any, name: str) -> None:
    """Write a figure; the same numbers give the same file."""
    figure.savefig(FIGURE_FOLDER / name, metadata={"Date": None})


if __name__ == "__main__":
    main()
