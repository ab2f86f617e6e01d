"""The distance of pruning at initialization from its ceilings: ResNet-14 on 10,000 images of Fashion-MNIST.

    python benchmarks/ceilings.py                       # both comparisons; a second call goes on where the first ended
    python benchmarks/ceilings.py --equal epochs --seeds 1 --epochs 2 --methods force,rigl   # a short one

Methods at initialization, random pruning and a small dense network stand beside methods that prune while they train
and lottery tickets of five levels: once with the same epochs, once with as many operations of training
(`equal_compute`). Each comparison is a grid study of forcetune, whose stores stay in the folder of the results.
"""

import argparse
import contextlib
from pathlib import Path
from typing import Any

import pandas as pd

from forcetune import run_study
from forcetune.formats import format_flops
from forcetune.report.results import load
from forcetune.study import Study
from forcetune.study.comparison import list_configurations

RESULTS_FOLDER = Path(__file__).parent / "ceilings-results"
METHODS_AT_INITIALIZATION = ["force", "synflow", "snip", "random_erk"]
CEILING_METHODS = ["lottery", "dpf", "rigl", "gradual_magnitude", "snap_it", "skeletonization"]
SMALL_DENSE = "small dense"
DENSITIES = [0.05, 0.01]
TICKET_LEVELS = 5
FIELDS = {"dataset": "fashion_mnist", "train_samples": 10_000, "model": "resnet14", "width": 8, "batch_size": 128}


def main() -> None:
    """Run the comparisons that were asked for, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal", choices=["epochs", "compute"], help="this comparison only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--methods", default=",".join([*METHODS_AT_INITIALIZATION, *CEILING_METHODS]))
    parser.add_argument("--folder", type=Path, default=RESULTS_FOLDER, help="folder of the stores")
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    comparisons = [arguments.equal] if arguments.equal else ["epochs", "compute"]
    studies = [make_study(equal, methods, arguments.seeds, arguments.epochs) for equal in comparisons]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(arguments.folder):
        for study in studies:
            run_study(study)
        tables = [summarize(study) for study in studies]
    print(
        f"\nValidation accuracy in percent, mean ± deviation of {arguments.seeds} seeds, and the operations of "
        f"a training; `epochs`: {arguments.epochs}\n"
    )
    columns = [(number, density) for number in range(len(tables)) for density in DENSITIES]
    heads = [f"equal {comparisons[number]}, {100 * (1 - density):.0f} % pruned" for number, density in columns]
    print(f"| method | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for row in [*methods, SMALL_DENSE]:
        print(f"| {row} | {' | '.join(tables[number].get((row, density), '-') for number, density in columns)} |")


def make_study(equal: str, methods: list[str], seeds: int, epochs: int) -> dict[str, Any]:
    """Return the grid study of a comparison."""
    iterative = [name for name in methods if name in ("force", "synflow")]
    domains: dict[str, Any] = {
        "method": [*dict.fromkeys([*methods, "random"])],
        "small_dense": {"choices": ["macs"], "when": {"method": "random"}},
        "density": DENSITIES,
        "seed": list(range(seeds)),
    }
    if iterative:
        domains["iterations"] = {"choices": [20], "when": {"method": iterative}}
    if "lottery" in methods:
        when = {"method": "lottery"}
        domains["rewind_step"] = {"choices": [0], "when": when}
    return {
        "study": f"ceilings-{equal}-{epochs}-epochs",
        "trial": {**FIELDS, **domains, "epochs": epochs, "equal_compute": equal == "compute"},
        "search": {"sampler": "grid"},
        "resources": {"cpus": 1, "concurrent": 2},
    }


def summarize(study: dict[str, Any]) -> dict[tuple[str, float], str]:
    """Return accuracy and operations for each method and requested density."""
    requested = pd.DataFrame(list_configurations(Study.from_dict(study)))[["trial", "density"]]
    trials = load(study["study"]).trials.merge(requested, on="trial", suffixes=("", "_requested"))
    trials["row"] = trials["method"].where(trials["small_dense"].isna(), SMALL_DENSE)
    cells = {}
    for row in trials["row"].unique():
        for density in DENSITIES:
            group = trials[(trials["row"] == row) & (trials["density_requested"] == density)]
            accuracies, flops = 100 * group["val_accuracy"], group["training_flops"].mean()
            cells[row, density] = f"{accuracies.mean():.1f} ± {accuracies.std():.1f}, {format_flops(flops)}"
    return cells


if __name__ == "__main__":
    main()
