"""ResNet-20's and ResNet-18's training steps on a device: images a second, time in kernels, and the roofline.

A stage of gpu.py, which says how to run it. Images a second are medians of whole passes taken in turn. The roofline
is the sum over the operations of one step's forward and backward pass run eagerly, each of which at least reads its
inputs and writes its outputs once and does its multiply-adds: the larger of bytes over the measured bandwidth and of
FLOPs over the measured rate of a matrix product. The step that is held against it also moves images and weights;
tensors that stay in the cache between two operations can make the share larger than it should be.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import naive
import torch
from gpu import show, stage_arguments
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from forcetune import models
from forcetune.data import Dataset, Images
from forcetune.pruning import find_masks
from forcetune.training import Training

DENSITY, SHAPE, CLASSES = 0.1, (3, 32, 32), 10


@dataclass(frozen=True)
class Size:
    """The size of what is measured: networks, images in a batch and in a pass, and passes of each arm."""

    network: str = "resnet20"
    larger_network: str = "resnet18"
    batch: int = 128
    images: int = 128 * 80
    passes: int = 5


SMALL_STEP = Size("convnet", "resnet8", batch=16, images=32, passes=1)


def main() -> None:
    """Measure and show each figure."""
    arguments = stage_arguments(__doc__)
    device, size = torch.device(arguments.device), SMALL_STEP if arguments.small else Size()
    dataset = pictures(size.images, size.batch)
    on_device = dataset.to(device)
    passes: dict[str, Callable[[], object]] = {
        "baseline": baseline_pass(size.network, dataset, device, size.batch),
        "eager": eager_pass(size.network, on_device, size.batch),
        "captured": forcetune_pass(size.network, on_device, size.batch, architecture="benchmark"),
    }
    compare(passes, size, device)
    if device.type == "cuda":
        for arm, figure in {"captured": "kernel_share", "eager": "kernel_share_eager"}.items():
            if share := kernels(passes[arm]):  # 0 where the machine does not let the profiler see kernels
                show(figure, share)
    show("evaluation_share", evaluation_share(size, on_device, device))
    show("roofline_share", roofline(size, on_device, device))
    compare_compiled(size, on_device, device)


def compare(passes: dict[str, Callable[[], object]], size: Size, device: torch.device) -> None:
    """Show the images a second of each arm, and the ratios of passes taken in turn."""
    for run in passes.values():  # what is set up only once
        run()
    rounds = [{arm: seconds(run, device) for arm, run in passes.items()} for _ in range(size.passes)]
    for arm in passes:
        show(f"images_s_{arm}", size.images / median(taken[arm] for taken in rounds))
    for arm in ("baseline", "eager"):
        show(f"over_{arm}", median(taken[arm] / taken["captured"] for taken in rounds))


def compare_compiled(size: Size, dataset: Dataset, device: torch.device) -> None:
    """Show what torch.compile gives and takes, unless the step could not be compiled."""
    warned: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = warned.append  # type: ignore[method-assign]
    logging.getLogger("forcetune.training").addHandler(handler)
    run = forcetune_pass(size.network, dataset, size.batch, compiled=True)
    first = seconds(run, device)
    later = median(seconds(run, device) for _ in range(size.passes))
    if warned:
        print(f"torch.compile: {warned[0].getMessage()}")
        return
    show("images_s_compiled", size.images / later)
    show("compile_s", first - later)


def pictures(count: int, held_out: int) -> Dataset:
    """Return random images, shifted and mirrored in training; `held_out` of them are for validation too."""
    generator = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=generator),
        torch.randint(CLASSES, (count,), generator=generator),
    )
    few = images.take(torch.arange(held_out))
    return Dataset(images, few, CLASSES, (0.5,) * 3, (0.25,) * 3, pad=4, flip=True, validation=few)


def pruned(name: str, device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network at its initial weights, and a random mask."""
    torch.manual_seed(0)
    model = models.build(name, SHAPE, CLASSES).to(device)
    return model, find_masks(model, [], "random", DENSITY)


def baseline_pass(name: str, dataset: Dataset, device: torch.device, batch: int) -> Callable[[], object]:
    """Return the baseline's training pass, which copies each batch to the device."""
    model, masks = pruned(name, device)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    batches = naive.loader(dataset, dataset.train, batch, training=True)

    def run() -> None:
        for inputs, targets in batches:
            naive.step(model, optimizer, inputs.to(device), targets.to(device))

    return run


def eager_pass(name: str, dataset: Dataset, batch: int) -> Callable[[], object]:
    """Return a plain loop under autocast: data on the device, weights channels last, no value asked for."""
    model, masks = pruned(name, dataset.train.inputs.device)
    model.to(memory_format=torch.channels_last)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    batches = dataset.batches(dataset.train, batch, seed=0)
    device = dataset.train.inputs.device.type

    def run() -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return run


def forcetune_pass(name: str, dataset: Dataset, batch: int, **options: Any) -> Callable[[], object]:
    """Return a call that trains the next epoch, with one batch of validation."""
    model, masks = pruned(name, dataset.train.inputs.device)
    batches = dataset.batches(dataset.train, batch, seed=0), dataset.batches(dataset.test, batch)
    settings = {"lr": 0.05, "input_shape": SHAPE, "precision": "bf16", "lr_schedule": "constant", **options}
    epochs: Iterator[object] = iter(Training(model, masks, *batches, epochs=10**6, **settings))
    return lambda: next(epochs)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, until the device is done."""
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
    """Return the share of a pass's wall time in which at least one kernel ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    spans = sorted((e.time_range.start, e.time_range.end) for e in profiled.events() if e.device_type.name == "CUDA")
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6 / wall


def evaluation_share(size: Size, dataset: Dataset, device: torch.device) -> float:
    """Return the seconds of validating as many images as a training pass has, over those of that pass."""
    model, masks = pruned(size.network, device)
    batches = dataset.batches(dataset.train, size.batch, seed=0), dataset.batches(dataset.train, 1024)
    settings = {"lr": 0.05, "input_shape": SHAPE, "precision": "bf16", "lr_schedule": "constant"}
    both = iter(Training(model, masks, *batches, epochs=10**6, architecture="validated", **settings))
    alone = forcetune_pass(size.network, dataset, size.batch, architecture="another")
    for _ in range(2):
        taken = seconds(lambda: next(both), device), seconds(alone, device)
    return taken[0] / taken[1] - 1


def roofline(size: Size, dataset: Dataset, device: torch.device) -> float:
    """Return what a step of the larger network would take at the measured peaks, over what it takes."""
    run = forcetune_pass(size.larger_network, dataset, size.batch, architecture="larger")
    run()
    taken = median(seconds(run, device) for _ in range(3)) / len(dataset.batches(dataset.train, size.batch))
    model, _ = pruned(size.larger_network, device)
    model.to(memory_format=torch.channels_last)
    inputs = torch.randn(size.batch, *SHAPE, device=device)
    targets = torch.randint(CLASSES, (size.batch,), device=device)
    counted = Counted(bandwidth(device), arithmetic(device))
    with counted:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
    return counted.seconds / taken


class Counted(TorchDispatchMode):
    """A mode that adds up the least seconds of each operation at these peaks, in bytes and FLOPs a second."""

    def __init__(self, bandwidth: float, arithmetic: float) -> None:
        super().__init__()
        self.seconds = 0.0
        self._peaks = bandwidth, arithmetic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it unless it is only another view of a tensor."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = {id(t): t for t in torch.utils._pytree.tree_leaves((args, out)) if isinstance(t, Tensor)}
            moved = sum(t.numel() * t.element_size() for t in touched.values())
            counter = flop_registry.get(func.overloadpacket)
            flops = counter(*args, **(kwargs or {}), out_val=out) if counter else 0
            self.seconds += max(moved / self._peaks[0], flops / self._peaks[1])
        return out


def bandwidth(device: torch.device) -> float:
    """Return the bytes a second of a copy, read and written."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    taken = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * source.numel() * source.element_size() / taken


def arithmetic(device: torch.device) -> float:
    """Return the FLOPs a second of a product of bf16 matrices."""
    rows = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(rows, rows, dtype=torch.bfloat16, device=device)
    taken = min(seconds(lambda: matrix @ matrix, device) for _ in range(5))
    return 2 * rows**3 / taken


if __name__ == "__main__":
    main()
