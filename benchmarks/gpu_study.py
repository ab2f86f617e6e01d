"""A whole study on a device, as a user runs it, against loops that run one trial after another; and sharing a GPU.

This is a stage of gpu.py, which says how to run it. `forcetune search` searches search_spaces/gpu.yaml in an empty
folder. The eager loop is the code of a careful user: data on the device, bf16, forcetune's masks, and a trial of each
method of the study; its process and its data exist already. The baseline (naive.py) starts a process for each trial;
two are timed.
"""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import naive
import torch
import yaml
from gpu import show, stage_arguments
from gpu_steps import (
    IMAGE_CLASSES,
    IMAGE_SHAPE,
    SMALL_STEP,
    STEP_DENSITY,
    StepSize,
    forcetune_pass,
    measure_seconds,
    random_dataset,
)
from torch.nn import functional

from forcetune import data, models
from forcetune.data import Dataset
from forcetune.pruning import find_masks
from forcetune.training.layout import lay_out

STUDY_FILE = Path(__file__).parents[1] / "search_spaces" / "gpu.yaml"
STUDY_BATCH_SIZE, LEARNING_RATE = 128, 0.1
EAGER_METHODS = ("random_erk", "snip", "force", "synflow")
BASELINE_METHODS = ("snip", "force")
SEARCH_LIMIT_S, BARRIER_TIMEOUT_S = 90.0, 60.0
MEBIBYTE = 2**20
FULL_STEP = StepSize()


@dataclass(frozen=True)
class StudySize:
    """The size of the measurement: the study, the trials of both loops, and the trainings that share the device."""

    changes: Any = None  # the changed sections of the study file
    epochs: int = 5
    iterations: int = 15  # the mean of the study's trials
    train_samples: int | None = None
    width: int | None = None
    step: StepSize = FULL_STEP
    sharing: tuple[int, ...] = (1, 2, 4, 8)
    passes: int = 10


_SMALL_TRIAL = {"train_samples": 200, "width": 4, "epochs": 1, "method": ["random", "snip", "force"], "iterations": 2}
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
        device_name, method, *small = sys.argv[2:]
        baseline_trial(torch.device(device_name), method, SMALL_STUDY if small else StudySize())
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
        except Exception:  # the other figures do not depend on it
            traceback.print_exc()
            failed = True
    for figure, rate in {"study": "study", "steady": "study_steady"}.items():
        for loop in ("eager", "baseline"):
            if f"{rate}_trials_h" in rates and f"{loop}_trials_h" in rates:
                show(f"{figure}_over_{loop}", rates[f"{rate}_trials_h"] / rates[f"{loop}_trials_h"])
    sys.exit(failed)


def measure_search(size: StudySize, rates: dict[str, float]) -> None:
    """Run the search of the study, and show its result and its speed."""
    study = yaml.safe_load(STUDY_FILE.read_text())
    for section, changes in (size.changes or {}).items():
        study[section] = {**study[section], **changes} if section == "trial" else changes
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "gpu.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        command = [sys.executable, "-c", "from forcetune.cli import main; main()", "search", "gpu.yaml"]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, timeout=SEARCH_LIMIT_S if size.changes is None else None)
        command_s = time.perf_counter() - started
        from forcetune.tracking import load_table

        trials = load_table(study["study"], f"sqlite:///{folder}/mlflow.db").trials
    steady_s = (trials["ended"].max() - trials["started"].min()) / 1000
    rates["study_trials_h"] = 3600 * len(trials) / command_s
    rates["study_steady_trials_h"] = 3600 * len(trials) / steady_s
    show("study_trials", len(trials))
    show("study_best_accuracy", trials["val_accuracy"].max())
    show("study_s", command_s)
    for name in ("study_trials_h", "study_steady_trials_h"):
        show(name, rates[name])


def measure_eager(size: StudySize, device: torch.device, rates: dict[str, float]) -> None:
    """Show the trials an hour of the eager loop, after a trial that is not counted."""
    eager_trial(size, device, EAGER_METHODS[0])
    trial_seconds = [measure_seconds(partial(eager_trial, size, device, method), device) for method in EAGER_METHODS]
    rates["eager_trials_h"] = 3600 / mean(trial_seconds)
    show("eager_trials_h", rates["eager_trials_h"])


def eager_trial(size: StudySize, device: torch.device, method: str) -> None:
    """Find masks, then train in eager bf16 with a validation after each epoch."""
    dataset, training, validation = load_textures(size, device)
    model = models.build("resnet20", IMAGE_SHAPE, IMAGE_CLASSES, size.width).to(device)
    lay_out(model, IMAGE_SHAPE)
    batches = dataset.batches(training, STUDY_BATCH_SIZE, seed=0)
    masks = find_masks(model, batches, method, STEP_DENSITY, iterations=size.iterations)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
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
    """Return the share of the images that are classified correctly."""
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
    trial_seconds = [measure_seconds(partial(subprocess.run, command, check=True), device) for command in commands]
    rates["baseline_trials_h"] = 3600 / mean(trial_seconds)
    show("baseline_trials_h", rates["baseline_trials_h"])


def baseline_trial(device: torch.device, method: str, size: StudySize) -> None:
    """Train a trial as the baseline does, with batches that are copied to the device."""
    dataset, training, validation = load_textures(size, torch.device("cpu"))
    model = models.build("resnet20", IMAGE_SHAPE, IMAGE_CLASSES, size.width).to(device)
    batches, held_out = (
        DeviceLoader(naive.loader(dataset, images, STUDY_BATCH_SIZE, training=train), device)
        for images, train in ((training, True), (validation, False))
    )
    feed = naive.forever(batches)  # type: ignore[arg-type]
    naive.hook_masks(model, naive.find_masks(model, feed, IMAGE_SHAPE, method, STEP_DENSITY, size.iterations))
    for _ in naive.train(model, batches, held_out, size.epochs, LEARNING_RATE):  # type: ignore[arg-type]
        pass


class DeviceLoader:
    """A DataLoader whose batches are copied to a device."""

    def __init__(self, loader: Any, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[naive.Batch]:
        for inputs, targets in self._loader:
            yield inputs.to(self._device), targets.to(self._device)


def load_textures(size: StudySize, device: torch.device) -> tuple[Dataset, Any, Any]:
    """Return the study's data set on the device, and its split."""
    dataset = data.load("textures").to(device)
    assert isinstance(dataset, Dataset)
    return dataset, *dataset.split(0, size.train_samples)


def measure_sharing(size: StudySize, device: torch.device) -> None:
    """Show the speed of several trainings at once over that of one alone, and the memory of each training.

    All processes exist from the beginning, each with its training set up; the processes that do not train wait.
    """
    count = max(size.sharing)
    context = get_context("spawn")
    barrier = context.Barrier(count)
    pool = context.Pool(count, initializer=_keep_barrier, initargs=(barrier,))
    results = pool.starmap(train_in_turn, [(device.type, number, size) for number in range(count)], chunksize=1)
    pool.close()
    pool.join()
    rates = {
        trainings: sum(size.passes / pass_seconds[trainings] for pass_seconds, _ in results[:trainings])
        for trainings in size.sharing
    }
    for trainings in size.sharing[1:]:
        show(f"sharing_{trainings}", rates[trainings] / rates[1])
    if device.type == "cuda":
        show("memory_trial_mib", max(memory for _, memory in results) / count / MEBIBYTE)


_shared_barrier: list[Any] = []  # set in each process of the pool; its trainings start together by it


def _keep_barrier(barrier: Any) -> None:
    _shared_barrier[:] = [barrier]


def train_in_turn(device_name: str, number: int, size: StudySize) -> tuple[dict[int, float], float]:
    """Return the seconds of this training's passes by the number of trainings at once, and the GPU's bytes in use."""
    (barrier,) = _shared_barrier
    torch.set_num_threads(1)
    device = torch.device(device_name)
    dataset = random_dataset(size.step.images, size.step.batch_size).to(device)
    run = forcetune_pass(size.step.network, dataset, size.step.batch_size, architecture="shared")
    run()
    pass_seconds = {}
    for trainings in size.sharing:
        barrier.wait(BARRIER_TIMEOUT_S)
        if number < trainings:
            pass_seconds[trainings] = measure_seconds(lambda: [run() for _ in range(size.passes)], device)
    barrier.wait(BARRIER_TIMEOUT_S)
    free, total = torch.cuda.mem_get_info() if device.type == "cuda" else (0, 0)
    barrier.wait(BARRIER_TIMEOUT_S)  # until here all processes keep their memory
    return pass_seconds, total - free


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
