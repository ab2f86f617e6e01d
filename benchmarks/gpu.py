"""What a GPU makes of forcetune's training: images a second, the share of time that kernels run, and the roofline.

    PYTHONPATH=. python benchmarks/gpu.py

Needs torch and torchvision alone (run it from the repository's root where forcetune is not installed). Where there is
no GPU each figure is shown as not measured. Images a second are medians of whole passes taken in turn. The roofline
is the sum over the operations of one step run eagerly, each of which at least reads its inputs and writes its outputs
once and does its multiply-adds: the larger of bytes over the measured bandwidth and of FLOPs over the measured rate
of a matrix product.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import naive
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from forcetune import models
from forcetune.data import Dataset, Images
from forcetune.pruning import find_masks
from forcetune.training import Training

BATCH, DENSITY, SHAPE, CLASSES = 128, 0.1, (3, 32, 32), 10
ARMS = {
    "baseline": "naive.py: DataLoader with PIL, float32",
    "eager": "eager bf16, data already on the device",
    "captured": "forcetune: captured bf16 step",
    "compiled": "forcetune with torch.compile",
}
FIGURES = {
    "over baseline": "ResNet-20: forcetune over the baseline (aim 20)",
    "over eager": "ResNet-20: forcetune over eager bf16 (aim 4)",
    "compile seconds": "ResNet-20: seconds that torch.compile takes before the first step",
    "kernels": "ResNet-20: share of wall time in which kernels ran",
    "kernels eager": "ResNet-20: the same of eager bf16",
    "roofline": "ResNet-18: share of the roofline that the step reaches (aim 0.5)",
    "evaluation": "ResNet-20: validation over the training pass, as many images in each",
}


def main() -> None:
    """Measure what can be, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cpu: to see that the script runs; its figures mean nothing")
    parser.add_argument("--images", type=int, default=BATCH * 80, help="of a pass")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each")
    arguments = parser.parse_args()
    there = arguments.device != "cuda" or torch.cuda.is_available()
    rates, figures = measure(arguments) if there else ({}, {})
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU here"
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {name}\n")
    print("| ResNet-20, batch 128, 3x32x32, 90 % pruned | images/s |\n|---|---:|")
    for arm, what in ARMS.items():
        print(f"| {what} | {f'{rates[arm]:,.0f}' if arm in rates else 'not measured'} |")
    print("\n| figure | |\n|---|---:|")
    for figure, what in FIGURES.items():
        print(f"| {what} | {f'{figures[figure]:.2f}' if figure in figures else 'not measured'} |")


def measure(arguments: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Images a second of each arm, and the figures."""
    device, dataset = torch.device(arguments.device), pictures(arguments.images)
    on_device = dataset.to(device)
    passes: dict[str, Callable[[], object]] = {
        "baseline": baseline_pass(dataset, device),
        "eager": eager_pass("resnet20", on_device),
        "captured": forcetune_pass("resnet20", on_device, architecture="benchmark"),
        "compiled": forcetune_pass("resnet20", on_device, compiled=True),
    }
    first = {arm: seconds(each, device) for arm, each in passes.items()}  # what is set up only once
    rounds = [{arm: seconds(each, device) for arm, each in passes.items()} for _ in range(arguments.repeats)]
    rates = {arm: arguments.images / median(each[arm] for each in rounds) for arm in passes}
    figures = {
        "over baseline": median(each["baseline"] / each["captured"] for each in rounds),
        "over eager": median(each["eager"] / each["captured"] for each in rounds),
        "compile seconds": first["compiled"] - median(each["compiled"] for each in rounds),
        "evaluation": evaluation_share(on_device, device),
    }
    if device.type == "cuda":
        figures["kernels"] = kernels(passes["captured"])
        figures["kernels eager"] = kernels(passes["eager"])
    figures["roofline"] = roofline(on_device, device)
    return rates, figures


def pictures(count: int) -> Dataset:
    """Random images, shifted and mirrored in training; one batch of them for validation."""
    generator = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=generator),
        torch.randint(CLASSES, (count,), generator=generator),
    )
    few = images.take(torch.arange(BATCH))
    return Dataset(images, few, CLASSES, (0.5,) * 3, (0.25,) * 3, pad=4, flip=True, validation=few)


def pruned(name: str, device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network at its initial weights and a random mask."""
    torch.manual_seed(0)
    model = models.build(name, SHAPE, CLASSES).to(device)
    return model, find_masks(model, [], "random", DENSITY)


def baseline_pass(dataset: Dataset, device: torch.device) -> Callable[[], object]:
    """The baseline's training pass, with what it needs to feed a GPU."""
    model, masks = pruned("resnet20", device)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    batches = naive.loader(dataset, dataset.train, BATCH, training=True)

    def run() -> None:
        for inputs, targets in batches:
            naive.step(model, optimizer, inputs.to(device), targets.to(device))

    return run


def eager_pass(name: str, dataset: Dataset) -> Callable[[], object]:
    """A plain loop under autocast; data and moves on the device, weights channels last, no value asked for."""
    model, masks = pruned(name, dataset.train.inputs.device)
    model.to(memory_format=torch.channels_last)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    batches = dataset.batches(dataset.train, BATCH, seed=0)
    device = dataset.train.inputs.device.type

    def run() -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return run


def forcetune_pass(name: str, dataset: Dataset, **how: Any) -> Callable[[], object]:
    """The next epoch of a training, with one batch of validation."""
    model, masks = pruned(name, dataset.train.inputs.device)
    batches = dataset.batches(dataset.train, BATCH, seed=0), dataset.batches(dataset.test, BATCH)
    settings = {"lr": 0.05, "input_shape": SHAPE, "precision": "bf16", "lr_schedule": "constant", **how}
    epochs: Iterator[object] = iter(Training(model, masks, *batches, epochs=10**6, **settings))
    return lambda: next(epochs)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, until the device is done."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def kernels(run: Callable[[], object]) -> float:
    """The share of a pass's wall time in which at least one kernel ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as told:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    spans = sorted((e.time_range.start, e.time_range.end) for e in told.events() if e.device_type.name == "CUDA")
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6 / wall


def evaluation_share(dataset: Dataset, device: torch.device) -> float:
    """Validation of as many images as a training pass has, over that pass."""
    model, masks = pruned("resnet20", device)
    batches = dataset.batches(dataset.train, BATCH, seed=0), dataset.batches(dataset.train, 1024)
    settings = {"lr": 0.05, "input_shape": SHAPE, "precision": "bf16", "lr_schedule": "constant"}
    both = iter(Training(model, masks, *batches, epochs=10**6, architecture="benchmark", **settings))
    alone = forcetune_pass("resnet20", dataset, architecture="another")
    for _ in range(2):
        taken = seconds(lambda: next(both), device), seconds(alone, device)
    return taken[0] / taken[1] - 1


def roofline(dataset: Dataset, device: torch.device) -> float:
    """What a step of ResNet-18 would take at the measured peaks, over what it takes."""
    run = forcetune_pass("resnet18", dataset, architecture="resnet18")
    run()
    taken = median(seconds(run, device) for _ in range(3)) / len(dataset.batches(dataset.train, BATCH))
    model, _ = pruned("resnet18", device)
    model.to(memory_format=torch.channels_last)
    inputs, targets = torch.randn(BATCH, *SHAPE, device=device), torch.randint(CLASSES, (BATCH,), device=device)
    counted = Counted(bandwidth(device), arithmetic(device))
    with counted:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
    return counted.seconds / taken


class Counted(TorchDispatchMode):
    """Adds up the least seconds that each operation needs at these peaks, bytes and FLOPs a second."""

    def __init__(self, bandwidth: float, arithmetic: float) -> None:
        super().__init__()
        self.seconds = 0.0
        self._peaks = bandwidth, arithmetic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and count it unless it only looks at a tensor in another way."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = {id(t): t for t in torch.utils._pytree.tree_leaves((args, out)) if isinstance(t, Tensor)}
            moved = sum(t.numel() * t.element_size() for t in touched.values())
            counter = flop_registry.get(func.overloadpacket)
            flops = counter(*args, **(kwargs or {}), out_val=out) if counter else 0
            self.seconds += max(moved / self._peaks[0], flops / self._peaks[1])
        return out


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    taken = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * source.numel() * source.element_size() / taken


def arithmetic(device: torch.device) -> float:
    """FLOPs a second of a product of bf16 matrices."""
    size = 8192 if device.type == "cuda" else 512
    one = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    taken = min(seconds(lambda: one @ one, device) for _ in range(5))
    return 2 * size**3 / taken


if __name__ == "__main__":
    main()
