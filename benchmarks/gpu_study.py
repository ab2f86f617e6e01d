"""A whole study on a device, as a user runs it, against loops that run one trial after another; and sharing a GPU.

A part of gpu.py, which says how to run it. search_spaces/gpu.yaml is searched by `forcetune search` in an empty
folder. The eager loop is what a careful user writes: data on the device, bf16, FORCE's masks with our data path; its
process and its data are there already. The baseline (naive.py) starts a process for each trial; two are timed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import naive
import torch
import yaml
from gpu import part_arguments, show
from gpu_steps import CLASSES, DENSITY, SHAPE, Size, forcetune_pass, pictures, seconds, synchronize
from gpu_steps import SMALL as SMALL_SIZE
from torch.nn import functional

from forcetune import data, models
from forcetune.data import Dataset
from forcetune.pruning import find_masks

STUDY = Path(__file__).parents[1] / "search_spaces" / "gpu.yaml"
SMALL = {"train_samples": 200, "width": 4, "epochs": 1, "method": ["snip", "force"], "iterations": 2}
SMALL_SEARCH = {"search": {"trials": 4, "seed": 0}, "resources": {"cpus": 1, "gpus": 0, "concurrent": 2}}
EPOCHS, SMALL_EPOCHS, BATCH = 5, 1, 128  # as the study has them
ITERATIONS, SMALL_ITERATIONS = 15, 2  # of FORCE: the mean of the study's
LR = 0.1
TRIALS = 2  # timed of each loop
SHARING, SMALL_SHARING = (1, 2, 4, 8), (1, 2)
SHARING_PASSES, SMALL_SHARING_PASSES = 10, 1
MEBIBYTE = 2**20


def main() -> None:
    """Measure and show each figure; with a further argument `baseline`, train one trial as the baseline does."""
    if sys.argv[1:2] == ["baseline"]:
        baseline_trial(*sys.argv[2:])
        return
    arguments = part_arguments(__doc__)
    device, small = torch.device(arguments.device), arguments.small
    whole = search(small)
    eager = 3600 / mean(eager_trial(device, small) for _ in range(TRIALS))
    show("eager_trials_h", eager)
    show("study_over_eager", whole / eager)
    baseline = 3600 / mean(baseline_seconds(arguments.device, small) for _ in range(TRIALS))
    show("baseline_trials_h", baseline)
    show("study_over_baseline", whole / baseline)
    share(arguments.device, small)


def search(small: bool) -> float:
    """Search the study, show what came of it, and return the trials an hour of the whole command."""
    study = yaml.safe_load(STUDY.read_text())
    if small:
        study = {**study, "trial": {**study["trial"], **SMALL}, **SMALL_SEARCH}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "gpu.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        command = [sys.executable, "-c", "from forcetune.cli import main; main()", "search", "gpu.yaml"]
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder)
        taken = time.perf_counter() - started
        from forcetune.tracking import table

        trials = table(study["study"], f"sqlite:///{folder}/mlflow.db")
    ended = trials["started"] / 1000 + trials["train_seconds"] + trials["prune_seconds"]
    steady = ended.max() - (trials["started"] / 1000).min()
    show("study_trials", len(trials))
    show("study_best_accuracy", trials["val_accuracy"].max())
    show("study_s", taken)
    show("study_trials_h", 3600 * len(trials) / taken)
    show("study_steady_trials_h", 3600 * len(trials) / steady)
    return float(3600 * len(trials) / taken)


def eager_trial(device: torch.device, small: bool) -> float:
    """Return the seconds of one trial: FORCE's masks, then epochs of eager bf16 with validation after each."""
    dataset, training, validation = textures(small, device)
    synchronize(device)
    started = time.perf_counter()
    model = models.build("resnet20", SHAPE, CLASSES, width(small)).to(device, memory_format=torch.channels_last)
    iterations, epochs = (SMALL_ITERATIONS, SMALL_EPOCHS) if small else (ITERATIONS, EPOCHS)
    batches = dataset.batches(training, BATCH, seed=0)
    masks = find_masks(model, batches, "force", DENSITY, iterations)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for _ in range(epochs):
        model.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            schedule.step()
        validate(model, dataset.batches(validation, 1024), device)
    synchronize(device)
    return time.perf_counter() - started


@torch.no_grad()
def validate(model: torch.nn.Module, batches: Any, device: torch.device) -> float:
    """Return the share of the images that the network puts in their class."""
    model.eval()
    hits, count = torch.zeros((), device=device), 0
    for inputs, targets in batches:
        with torch.autocast(device.type, torch.bfloat16):
            hits += (model(inputs).argmax(1) == targets).sum()
        count += len(targets)
    return float(hits) / count


def baseline_seconds(device: str, small: bool) -> float:
    """Return the seconds of one trial of the baseline, its process included."""
    command = [sys.executable, __file__, "baseline", device, *(["small"] if small else [])]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def baseline_trial(name: str, *small: str) -> None:
    """Train one trial as the baseline does, on the device of this name."""
    device = torch.device(name)
    dataset, training, validation = textures(bool(small), torch.device("cpu"))
    iterations, epochs = (SMALL_ITERATIONS, SMALL_EPOCHS) if small else (ITERATIONS, EPOCHS)
    model = models.build("resnet20", SHAPE, CLASSES, width(bool(small))).to(device)
    batches, held_out = (
        Moved(naive.loader(dataset, part, BATCH, training=train), device)
        for part, train in ((training, True), (validation, False))
    )
    masks = naive.force_masks(model, naive.forever(batches), DENSITY, iterations)  # type: ignore[arg-type]
    naive.hook_masks(model, masks)
    for _ in naive.train(model, batches, held_out, epochs, LR):  # type: ignore[arg-type]
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


def textures(small: bool, device: torch.device) -> tuple[Dataset, Any, Any]:
    """Return the study's data set on the device, and its split."""
    dataset = data.load("textures").to(device)
    assert isinstance(dataset, Dataset)
    return dataset, *dataset.split(0, SMALL["train_samples"] if small else None)  # type: ignore[arg-type]


def width(small: bool) -> int | None:
    """Return the width of the network, None for its own."""
    return SMALL["width"] if small else None  # type: ignore[return-value]


def share(device: str, small: bool) -> None:
    """Show what several trainings at once reach over one alone, and the memory that each takes."""
    counts, passes = (SMALL_SHARING, SMALL_SHARING_PASSES) if small else (SHARING, SHARING_PASSES)
    rates: dict[int, float] = {}
    used: dict[int, float] = {}
    for count in counts:
        rates[count], used[count] = at_once(device, count, passes, small)
        if count > 1:
            show(f"sharing_{count}", rates[count] / rates[1])
    if device == "cuda":
        show("memory_trial_mib", (used[max(counts)] - used[1]) / (max(counts) - 1) / MEBIBYTE)


def at_once(device: str, count: int, passes: int, small: bool) -> tuple[float, float]:
    """Return the passes a second of so many trainings at once, and the bytes of the GPU in use meanwhile."""
    context = get_context("spawn")
    ready, done = context.Barrier(count), context.Barrier(count)
    with context.Pool(count, initializer=join, initargs=(ready, done)) as pool:
        results = pool.starmap(train_passes, [(device, passes, small)] * count, chunksize=1)
    return sum(passes / taken for taken, _ in results), max(memory for _, memory in results)


_barriers: list[Any] = []


def join(ready: Any, done: Any) -> None:
    """Keep the barriers at which the trainings of this process wait for the others."""
    _barriers[:] = [ready, done]


def train_passes(device_name: str, passes: int, small: bool) -> tuple[float, float]:
    """Return the seconds of so many passes while the others train too, and the bytes of the GPU in use at the end."""
    ready, done = _barriers
    torch.set_num_threads(1)
    device = torch.device(device_name)
    size = SMALL_SIZE if small else Size()
    dataset = pictures(size.images, size.batch).to(device)
    run = forcetune_pass(size.network, dataset, size.batch, architecture="shared")
    run()
    ready.wait()
    taken = seconds(lambda: [run() for _ in range(passes)], device)
    free, total = torch.cuda.mem_get_info() if device.type == "cuda" else (0, 0)
    done.wait()  # all still hold what they took
    return taken, total - free


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
