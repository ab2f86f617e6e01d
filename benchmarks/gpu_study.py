"""A whole study on a device, as a user runs it, against loops that run one trial after another; and sharing a GPU.

A stage of gpu.py, which says how to run it. search_spaces/gpu.yaml is searched by `forcetune search` in an empty
folder. The eager loop is what a careful user writes: data on the device, bf16, forcetune's masks, a trial of each
method of the study; its process and its data are there already. The baseline (naive.py) starts a process for each
trial; two are timed.
"""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import naive
import torch
import yaml
from gpu import show, stage_arguments
from gpu_steps import CLASSES, DENSITY, SHAPE, SMALL_STEP, Size, forcetune_pass, pictures, seconds
from torch.nn import functional

from forcetune import data, models
from forcetune.data import Dataset
from forcetune.pruning import find_masks

STUDY = Path(__file__).parents[1] / "search_spaces" / "gpu.yaml"
BATCH, LR = 128, 0.1
EAGER_METHODS = ("random_erk", "snip", "force", "synflow")
BASELINE_METHODS = ("snip", "force")
SEARCH_LIMIT_S, BARRIER_S = 90.0, 60.0
MEBIBYTE = 2**20
STEP = Size()


@dataclass(frozen=True)
class StudySize:
    """The size of what is run: the study, the trials of both loops, and the trainings that share the device."""

    changes: Any = None  # sections of the study file
    epochs: int = 5
    iterations: int = 15  # the mean of the study's
    train_samples: int | None = None
    width: int | None = None
    step: Size = STEP
    sharing: tuple[int, ...] = (1, 2, 4, 8)
    passes: int = 10


_SMALL_TRIAL = {"train_samples": 200, "width": 4, "epochs": 1, "method": ["snip", "force"], "iterations": 2}
SMALL_STUDY = StudySize(
    changes={
        "trial": _SMALL_TRIAL,
        "search": {"trials": 4, "seed": 0},
        "resources": {"cpus": 1, "gpus": 0, "concurrent": 2},
    },
    epochs=1,
    iterations=2,
    train_samples=200,
    width=4,
    step=SMALL_STEP,
    sharing=(1, 2),
    passes=1,
)


def main() -> None:
    """Measure and show each figure; with a first argument `baseline`, train a trial as the baseline does."""
    if sys.argv[1:2] == ["baseline"]:
        device, method, *small = sys.argv[2:]
        baseline_trial(torch.device(device), method, SMALL_STUDY if small else StudySize())
        return
    arguments = stage_arguments(__doc__)
    device, size = torch.device(arguments.device), SMALL_STUDY if arguments.small else StudySize()
    rates: dict[str, float] = {}
    measurements: list[Callable[[], None]] = [
        lambda: measure_search(size, rates),
        lambda: measure_eager(size, device, rates),
        lambda: measure_baseline(size, device, rates),
        lambda: measure_sharing(size, device),
    ]
    failed = False
    for measure in measurements:
        try:
            measure()
        except Exception:  # the other figures do not need it
            traceback.print_exc()
            failed = True
    for figure, rate in {"study": "study", "steady": "study_steady"}.items():
        for loop in ("eager", "baseline"):
            if f"{rate}_trials_h" in rates and f"{loop}_trials_h" in rates:
                show(f"{figure}_over_{loop}", rates[f"{rate}_trials_h"] / rates[f"{loop}_trials_h"])
    sys.exit(failed)


def measure_search(size: StudySize, rates: dict[str, float]) -> None:
    """Search the study, and show what came of it and how fast."""
    study = yaml.safe_load(STUDY.read_text())
    for section, changes in (size.changes or {}).items():
        study[section] = {**study[section], **changes} if section == "trial" else changes
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "gpu.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        command = [sys.executable, "-c", "from forcetune.cli import main; main()", "search", "gpu.yaml"]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, timeout=SEARCH_LIMIT_S if size.changes is None else None)
        seconds_in_all = time.perf_counter() - started
        from forcetune.tracking import table

        trials = table(study["study"], f"sqlite:///{folder}/mlflow.db")
    steady_s = (trials["ended"].max() - trials["started"].min()) / 1000
    rates["study_trials_h"] = 3600 * len(trials) / seconds_in_all
    rates["study_steady_trials_h"] = 3600 * len(trials) / steady_s
    show("study_trials", len(trials))
    show("study_best_accuracy", trials["val_accuracy"].max())
    show("study_s", seconds_in_all)
    for name in ("study_trials_h", "study_steady_trials_h"):
        show(name, rates[name])


def measure_eager(size: StudySize, device: torch.device, rates: dict[str, float]) -> None:
    """Show the trials an hour of the eager loop, after a trial that is not counted."""
    eager_trial(size, device, EAGER_METHODS[0])
    taken = [seconds(lambda method=method: eager_trial(size, device, method), device) for method in EAGER_METHODS]
    rates["eager_trials_h"] = 3600 / mean(taken)
    show("eager_trials_h", rates["eager_trials_h"])


def eager_trial(size: StudySize, device: torch.device, method: str) -> None:
    """Find masks, then train epochs of eager bf16 with validation after each."""
    dataset, training, validation = textures(size, device)
    model = models.build("resnet20", SHAPE, CLASSES, size.width).to(device, memory_format=torch.channels_last)
    batches = dataset.batches(training, BATCH, seed=0)
    masks = find_masks(model, batches, method, DENSITY, size.iterations)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, size.epochs * len(batches))
    for _ in range(size.epochs):
        model.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            schedule.step()
        eager_accuracy(model, dataset.batches(validation, 1024), device)


@torch.no_grad()
def eager_accuracy(model: torch.nn.Module, batches: Any, device: torch.device) -> float:
    """Return the share of the images that the network puts in their class."""
    model.eval()
    hits, count = torch.zeros((), device=device), 0
    for inputs, targets in batches:
        with torch.autocast(device.type, torch.bfloat16):
            hits += (model(inputs).argmax(1) == targets).sum()
        count += len(targets)
    return float(hits) / count


def measure_baseline(size: StudySize, device: torch.device, rates: dict[str, float]) -> None:
    """Show the trials an hour of the baseline, its processes included."""
    small = ["small"] if size is SMALL_STUDY else []
    commands = [[sys.executable, __file__, "baseline", device.type, method, *small] for method in BASELINE_METHODS]
    taken = [seconds(lambda command=command: subprocess.run(command, check=True), device) for command in commands]
    rates["baseline_trials_h"] = 3600 / mean(taken)
    show("baseline_trials_h", rates["baseline_trials_h"])


def baseline_trial(device: torch.device, method: str, size: StudySize) -> None:
    """Train one trial as the baseline does, its batches copied to the device."""
    dataset, training, validation = textures(size, torch.device("cpu"))
    model = models.build("resnet20", SHAPE, CLASSES, size.width).to(device)
    batches, held_out = (
        Moved(naive.loader(dataset, images, BATCH, training=train), device)
        for images, train in ((training, True), (validation, False))
    )
    feed = naive.forever(batches)  # type: ignore[arg-type]
    naive.hook_masks(model, naive.find_masks(model, feed, SHAPE, method, DENSITY, size.iterations))
    for _ in naive.train(model, batches, held_out, size.epochs, LR):  # type: ignore[arg-type]
        pass


class Moved:
    """The batches of a DataLoader, each copied to a device."""

    def __init__(self, loader: Any, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[naive.Batch]:
        for inputs, targets in self._loader:
            yield inputs.to(self._device), targets.to(self._device)


def textures(size: StudySize, device: torch.device) -> tuple[Dataset, Any, Any]:
    """Return the study's data set on the device, and its split."""
    dataset = data.load("textures").to(device)
    assert isinstance(dataset, Dataset)
    return dataset, *dataset.split(0, size.train_samples)


def measure_sharing(size: StudySize, device: torch.device) -> None:
    """Show what several trainings at once reach over one alone, and the memory that each takes.

    All processes are there from the beginning, each with its training set up; those that do not train wait.
    """
    count = max(size.sharing)
    context = get_context("spawn")
    barrier = context.Barrier(count)
    pool = context.Pool(count, initializer=_keep_barrier, initargs=(barrier,))
    results = pool.starmap(train_in_turn, [(device.type, number, size) for number in range(count)], chunksize=1)
    pool.close()
    pool.join()
    rates = {
        trainings: sum(size.passes / taken[trainings] for taken, _ in results[:trainings]) for trainings in size.sharing
    }
    for trainings in size.sharing[1:]:
        show(f"sharing_{trainings}", rates[trainings] / rates[1])
    if device.type == "cuda":
        show("memory_trial_mib", max(memory for _, memory in results) / count / MEBIBYTE)


_barrier: list[Any] = []  # of this process's trainings and the others'


def _keep_barrier(barrier: Any) -> None:
    _barrier[:] = [barrier]


def train_in_turn(device_name: str, number: int, size: StudySize) -> tuple[dict[int, float], float]:
    """Return the seconds of this training's passes by how many trained at once, and the GPU's bytes in use by all."""
    (barrier,) = _barrier
    torch.set_num_threads(1)
    device = torch.device(device_name)
    dataset = pictures(size.step.images, size.step.batch).to(device)
    run = forcetune_pass(size.step.network, dataset, size.step.batch, architecture="shared")
    run()
    taken = {}
    for trainings in size.sharing:
        barrier.wait(BARRIER_S)
        if number < trainings:
            taken[trainings] = seconds(lambda: [run() for _ in range(size.passes)], device)
    barrier.wait(BARRIER_S)
    free, total = torch.cuda.mem_get_info() if device.type == "cuda" else (0, 0)
    barrier.wait(BARRIER_S)  # all still hold what they took
    return taken, total - free


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
