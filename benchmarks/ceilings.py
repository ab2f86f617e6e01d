"""The distance of pruning at initialization from its ceilings: ResNet-14 on 10,000 images of Fashion-MNIST.

    python benchmarks/ceilings.py                                               # all; a second call goes on
    python benchmarks/ceilings.py --equal epochs --seeds 0 --methods rigl,dpf   # a part of it
    python benchmarks/ceilings.py --table                                       # the results that there are

Methods at initialization, random pruning and a small dense network stand beside methods that prune while they train
and lottery tickets of five prunings: once with the same epochs, once with as many operations of training
(`equal_compute`). Each comparison of a method with a seed is a grid study of forcetune with a trial for each density.
Its trials are kept as a table in ceilings-results/, and its stores in ceilings-results/stores, where a study that was
interrupted goes on.
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from forcetune import run_study
from forcetune.formats import format_flops
from forcetune.report.results import load
from forcetune.study import Study
from forcetune.study.comparison import list_configurations

RESULTS_FOLDER = Path(__file__).parent / "ceilings-results"
ITERATIVE_METHODS = ["force", "synflow"]
SMALL_DENSE = "small_dense"
METHODS = [
    "force", "synflow", "snip", "random_erk", SMALL_DENSE,
    "lottery", "dpf", "rigl", "gradual_magnitude", "snap_it", "skeletonization",
]  # fmt: skip
COMPARISONS = ["epochs", "compute"]
DENSITIES = [0.05, 0.01]
FIELDS = {"dataset": "fashion_mnist", "train_samples": 10_000, "model": "resnet14", "width": 8, "batch_size": 128}
COLUMNS = ["val_accuracy", "training_flops", "training_flops_sparse"]


def main() -> None:
    """Run the comparisons that were asked for, and print the table of all results in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal", choices=COMPARISONS, help="this comparison only")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=RESULTS_FOLDER, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    for seed in map(int, arguments.seeds.split(",")):
        for equal in [arguments.equal] if arguments.equal else COMPARISONS:
            for method in arguments.methods.split(","):
                path = arguments.folder / f"equal-{equal}-{arguments.epochs}-seed-{seed}-{method}.csv"
                if not arguments.table and not path.exists():
                    run_comparison(path, make_study(equal, method, seed, arguments.epochs))
    print_table(arguments.folder, arguments.epochs)


def run_comparison(path: Path, study: dict[str, Any]) -> None:
    """Run the study of a method in a comparison, and write its trials as a table, unless one of them has failed."""
    stores = path.parent / "stores"
    stores.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(stores):
        run_study(study)
        trials = list_trials(study)
    failed = trials[~trials["outcome"].isin(["trained", "collapsed"])]
    if len(failed):
        sys.exit(f"{study['study']}: {len(failed)} trials failed, so that {path.name} was not written:\n{failed}")
    trials.to_csv(path, index=False)


def make_study(equal: str, method: str, seed: int, epochs: int) -> dict[str, Any]:
    """Return the grid study of a method in a comparison with a seed."""
    fields: dict[str, Any] = {"method": method}
    if method == SMALL_DENSE:
        fields = {"method": "random", "small_dense": "macs"}
    elif method in ITERATIVE_METHODS:
        fields["iterations"] = 20
    elif method == "lottery":
        fields["rewind_step"] = 0
    trial = {**FIELDS, **fields, "density": DENSITIES, "seed": seed, "epochs": epochs}
    return {
        "study": f"ceilings-{equal}-{epochs}-epochs-seed-{seed}-{method.replace('_', '-')}",
        "trial": {**trial, "equal_compute": equal == "compute"},
        "search": {"sampler": "grid"},
        "resources": {"cpus": 1, "concurrent": 2},
    }


def list_trials(study: dict[str, Any]) -> pd.DataFrame:
    """Return the trials of a study, one row each: densities, outcome, accuracy, cost of the training."""
    requested = pd.DataFrame(list_configurations(Study.from_dict(study)))[["trial", "density"]]
    trials = load(study["study"]).trials.merge(requested, on="trial", suffixes=("", "_requested"))
    columns = ["density_requested", "density", "outcome", *COLUMNS]
    return trials.reindex(columns=columns).sort_values("density_requested", ascending=False)


def print_table(folder: Path, epochs: int) -> None:
    """Print accuracies, their deviations over seeds, and the operations of a training, by method and comparison."""
    cells = [(equal, density) for equal in COMPARISONS for density in DENSITIES]
    heads = [f"equal {equal}, {100 * (1 - density):.0f} % pruned" for equal, density in cells]
    print("\nValidation accuracy in percent, mean ± deviation over seeds, and the operations of a training\n")
    print(f"| method | seeds | {' | '.join(heads)} |\n|---|---|{'---:|' * len(heads)}")
    for method in METHODS:
        paths = {equal: sorted(folder.glob(f"equal-{equal}-{epochs}-seed-*-{method}.csv")) for equal in COMPARISONS}
        results = {equal: [pd.read_csv(path) for path in paths[equal]] for equal in COMPARISONS}
        seeds = " and ".join(str(len(tables)) for tables in results.values())
        row = " | ".join(summarize(results[equal], density) for equal, density in cells)
        print(f"| {method} | {seeds} | {row} |")


def summarize(tables: list[pd.DataFrame], density: float) -> str:
    """Return the cell of a method at a requested density."""
    if not tables:
        return "-"
    trials = pd.concat(tables)
    trials = trials[trials["density_requested"] == density]
    living = trials[trials["outcome"] == "trained"]
    if living.empty:
        return f"{len(trials)} collapsed"
    accuracy = f"{100 * living['val_accuracy'].mean():.1f}"
    deviation = f" ± {100 * living['val_accuracy'].std():.1f}" if len(living) > 1 else ""
    collapses = f", {len(trials) - len(living)} collapsed" if len(trials) > len(living) else ""
    return f"{accuracy}{deviation}, {format_flops(living['training_flops'].mean())}{collapses}"


if __name__ == "__main__":
    main()
