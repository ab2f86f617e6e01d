"""The latency of exported networks over the dense network's, and their accuracy over a small dense network's.

    python benchmarks/deploy.py [--case resnet20] [--repeats 5] [--seeds 3]

Latency: a network is pruned and trained for few epochs on images of 3x32x32 (`textures`), exported to ONNX in float32
and int8, and measured in ONNX Runtime on one thread beside the dense network, in turn. A ratio is the median of the
ratios of the repetitions, each of 200 runs after 20. The difference is the largest between two logits, against the
trained network in torch on the whole validation split, as a share of the logits' range.

Accuracy: a network is pruned and trained with several seeds and exported; for each seed the widest dense network of the
same model that is as quick, as measured, is trained by the same recipe. The difference is that of their accuracies on
the validation split.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median, stdev

import torch

from forcetune import models
from forcetune.deploy import TrainedNetwork, export_network
from forcetune.deploy.export import PRUNED, QUANTIZED, SMALL_DENSE, Export
from forcetune.deploy.files import NetworkWriter
from forcetune.deploy.measurement import BATCH_SIZES, measure_latencies
from forcetune.pruning import Architecture
from forcetune.study import Trial
from forcetune.trial import TrialRun, prepare

LATENCY_CASES = {
    "resnet20": Trial(dataset="textures", model="resnet20", method="snip", density=0.01, epochs=2),
    "vgg16": Trial(dataset="textures", model="vgg16_bn", method="force", density=0.005, iterations=20, epochs=1),
}
ACCURACY_CASES = {
    "digits": Trial(
        dataset="digits", model="convnet", width=16, method="force", density=0.05, epochs=15, batch_size=64
    ),
    "fashion": Trial(
        dataset="fashion_mnist", model="resnet8", method="force", density=0.05, epochs=5, train_samples=10000
    ),
}


def main() -> None:
    """Measure the cases and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*LATENCY_CASES, *ACCURACY_CASES], action="append")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    cases = arguments.case or [*LATENCY_CASES, *ACCURACY_CASES]
    torch.set_num_threads(1)
    for name in cases:
        if name in LATENCY_CASES:
            compare_latency(LATENCY_CASES[name], arguments.repeats)
        else:
            compare_accuracy(ACCURACY_CASES[name], arguments.seeds)


def train(trial: Trial) -> TrainedNetwork:
    """Prune and train a network, and return it as a run would keep it."""
    trial_run = TrialRun(prepare(trial))
    *_, metrics = trial_run
    prepared = trial_run.prepared
    return TrainedNetwork(
        network=prepared.model.eval(),
        masks=trial_run.masks,
        trial=trial,
        run_id="benchmark",
        metrics={**prepared.metrics, **metrics},
        architecture=Architecture(trial.model, trial.width, prepared.dataset.input_shape, prepared.dataset.classes),
    )


def compare_latency(trial: Trial, repeats: int) -> None:
    """Print the latency of an exported network beside the dense one, for each batch size."""
    with tempfile.TemporaryDirectory() as folder:
        export = export_network(train(trial), folder, int8=True, max_loss=100, rival=False)
        paths = {"dense": write_dense(trial, export, Path(folder)), PRUNED: export.paths[0], QUANTIZED: export.paths[1]}
        assert export.input_format is not None
        print_conditions(export)
        print(
            "| network | mask | sparsity | multiply-adds left | batch | dense, ms | float32, ms | int8, ms "
            "| dense / float32 | dense / int8 | largest difference |"
        )
        print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        for size in BATCH_SIZES:
            turns = [measure_latencies(paths, export.input_format, size) for _ in range(repeats)]
            milliseconds = [median(turn[name].p50_ms for turn in turns) for name in paths]
            ratios = [
                median(turn["dense"].p50_ms / turn[name].p50_ms for turn in turns) for name in (PRUNED, QUANTIZED)
            ]
            cells = [
                trial.model,
                trial.method,
                f"{1 - trial.density:.1%}",
                f"{export.macs_fraction:.3f}",
                str(size),
                *(f"{value:.3f}" for value in milliseconds),
                *(f"{ratio:.2f}" for ratio in ratios),
                f"{export.verifications[PRUNED].relative_difference:.1e}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def write_dense(trial: Trial, export: Export, folder: Path) -> Path:
    """Write the dense network, which an export deletes after its measurement."""
    assert export.input_format is not None
    network = models.build(trial.model, export.input_format.shape, export.classes, trial.width).eval()
    return NetworkWriter(folder, "onnx", export.input_format, {}).write("dense", network, None)[0]


def compare_accuracy(trial: Trial, seeds: int) -> None:
    """Print the accuracy of exported networks beside that of small dense networks of equal latency, seed by seed."""
    rows: list[dict[str, float]] = []
    for seed in range(seeds):
        seeded = trial.model_copy(update={"seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            export = export_network(train(seeded), folder, int8=True, max_loss=100, rival=True)
        if not rows:
            print_conditions(export)
            print(
                "| network | mask | sparsity | seed | width of the small dense one | pruned, ms | small dense, ms "
                "| pruned | int8 | small dense | largest difference |"
            )
            print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        rows.append(export.accuracies)
        print_accuracy(seeded, export)
    differences = [100 * (row[PRUNED] - row[SMALL_DENSE]) for row in rows]
    print(f"\n{trial.dataset}: {summarize(differences)} points, pruned less small dense\n", flush=True)


def print_accuracy(trial: Trial, export: Export) -> None:
    """Print the row of a seed."""
    assert export.rival is not None
    latencies = [export.costs[name].latencies[1].p50_ms for name in (PRUNED, SMALL_DENSE)]
    accuracies = [export.accuracies[name] for name in (PRUNED, QUANTIZED, SMALL_DENSE)]
    cells = [
        f"{trial.model} on {trial.dataset}",
        trial.method,
        f"{1 - trial.density:.1%}",
        str(trial.seed),
        str(export.rival.trial.width),
        *(f"{value:.4f}" for value in latencies),
        *(f"{accuracy:.2%}" for accuracy in accuracies),
        f"{export.verifications[PRUNED].relative_difference:.1e}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def summarize(values: Sequence[float]) -> str:
    """Return the mean of some values, with their standard deviation where there are several."""
    mean = sum(values) / len(values)
    return f"{mean:+.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{mean:+.2f}"


def print_conditions(export: Export) -> None:
    """Print what measured."""
    print(f"\n{export.runtime}, one thread of {export.machine}, torch {torch.__version__}\n", flush=True)


if __name__ == "__main__":
    main()
