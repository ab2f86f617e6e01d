"""ResNet-20's and ResNet-18's training steps on a device: images a second, time in kernels, and the roofline.

This is a stage of gpu.py, which says how to run it. Images a second are medians of whole passes that run in turn.

The roofline is a sum over the operations of the forward and backward pass of a step that runs eagerly. An operation at
least reads its inputs and writes its outputs once and does its multiply-adds: it counts with the larger of its bytes
over the measured bandwidth and its FLOPs over the measured rate of a matrix product. The step that is compared with the
roofline also moves images and weights. Tensors that stay in the cache between two operations can make the share too
large.
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
from forcetune.training.layout import lay_out

STEP_DENSITY, IMAGE_SHAPE, IMAGE_CLASSES = 0.1, (3, 32, 32), 10


@dataclass(frozen=True)
class StepSize:
    """The size of the measurement: the networks, the images of a batch and of a pass, and the passes of each arm."""

    network: str = "resnet20"
    larger_network: str = "resnet18"
    batch_size: int = 128
    images: int = 128 * 80
    passes: int = 5


SMALL_STEP = StepSize("convnet", "resnet8", batch_size=16, images=32, passes=1)


def main() -> None:
    """Measure and show each figure."""
    arguments = stage_arguments(__doc__)
    device, size = torch.device(arguments.device), SMALL_STEP if arguments.small else StepSize()
    dataset = random_dataset(size.images, size.batch_size)
    on_device = dataset.to(device)
    passes: dict[str, Callable[[], object]] = {
        "baseline": baseline_pass(size.network, dataset, device, size.batch_size),
        "eager": eager_pass(size.network, on_device, size.batch_size),
        "captured": forcetune_pass(size.network, on_device, size.batch_size, architecture="benchmark"),
    }
    compare(passes, size, device)
    if device.type == "cuda":
        for arm, figure in {"captured": "kernel_share", "eager": "kernel_share_eager"}.items():
            if share := kernel_share(passes[arm]):  # 0 where the machine hides its kernels from the profiler
                show(figure, share)
    show("evaluation_share", evaluation_share(size, on_device, device))
    show("roofline_share", roofline_share(size, on_device, device))
    compare_compiled(size, on_device, device)


def compare(passes: dict[str, Callable[[], object]], size: StepSize, device: torch.device) -> None:
    """Show the images a second of each arm, and the ratios of passes that run in turn."""
    for run in passes.values():  # the first pass includes the set-up
        run()
    rounds = [{arm: measure_seconds(run, device) for arm, run in passes.items()} for _ in range(size.passes)]
    for arm in passes:
        show(f"images_s_{arm}", size.images / median(round_seconds[arm] for round_seconds in rounds))
    for arm in ("baseline", "eager"):
        show(f"over_{arm}", median(round_seconds[arm] / round_seconds["captured"] for round_seconds in rounds))


def compare_compiled(size: StepSize, dataset: Dataset, device: torch.device) -> None:
    """Show the speed with torch.compile and the seconds of compilation, unless the step cannot be compiled."""
    warnings: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = warnings.append  # type: ignore[assignment, method-assign]
    logging.getLogger("forcetune.training").addHandler(handler)
    run = forcetune_pass(size.network, dataset, size.batch_size, compiled=True)
    first_s = measure_seconds(run, device)
    later_s = median(measure_seconds(run, device) for _ in range(size.passes))
    if warnings:
        print(f"torch.compile: {warnings[0].getMessage()}")
        return
    show("images_s_compiled", size.images / later_s)
    show("compile_s", first_s - later_s)


def random_dataset(count: int, held_out: int) -> Dataset:
    """Return random images, shifted and mirrored in training; `held_out` of them also serve for validation."""
    generator = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (count, *IMAGE_SHAPE), dtype=torch.uint8, generator=generator),
        torch.randint(IMAGE_CLASSES, (count,), generator=generator),
    )
    validation = images.take(torch.arange(held_out))
    return Dataset(images, validation, IMAGE_CLASSES, (0.5,) * 3, (0.25,) * 3, pad=4, flip=True, validation=validation)


def pruned_network(name: str, device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network at its initial weights, and a random mask."""
    torch.manual_seed(0)
    model = models.build(name, IMAGE_SHAPE, IMAGE_CLASSES).to(device)
    return model, find_masks(model, [], "random", STEP_DENSITY)


def baseline_pass(name: str, dataset: Dataset, device: torch.device, batch_size: int) -> Callable[[], object]:
    """Return the baseline's training pass, which copies each batch to the device."""
    model, masks = pruned_network(name, device)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    batches = naive.loader(dataset, dataset.train, batch_size, training=True)

    def run() -> None:
        for inputs, targets in batches:
            naive.step(model, optimizer, inputs.to(device), targets.to(device))

    return run


def eager_pass(name: str, dataset: Dataset, batch_size: int) -> Callable[[], object]:
    """Return a plain loop under autocast: data on the device, weights channels last, no value read back."""
    model, masks = pruned_network(name, dataset.train.inputs.device)
    lay_out(model, IMAGE_SHAPE)
    naive.hook_masks(model, [mask.float() for mask in masks.values()])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    batches = dataset.batches(dataset.train, batch_size, seed=0)
    device = dataset.train.inputs.device.type

    def run() -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return run


def forcetune_pass(name: str, dataset: Dataset, batch_size: int, **options: Any) -> Callable[[], object]:
    """Return a call that trains the next epoch, with one batch of validation."""
    model, masks = pruned_network(name, dataset.train.inputs.device)
    batches = dataset.batches(dataset.train, batch_size, seed=0), dataset.batches(dataset.test, batch_size)
    settings: dict[str, Any] = {
        "lr": 0.05,
        "input_shape": IMAGE_SHAPE,
        "precision": "bf16",
        "lr_schedule": "constant",
        **options,
    }
    epochs: Iterator[object] = iter(Training(model, masks, *batches, epochs=10**6, **settings))
    return lambda: next(epochs)


def measure_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, until the device has finished its work."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def kernel_share(run: Callable[[], object]) -> float:
    """Return the share of a pass's wall time in which at least one kernel ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
    spans = sorted((e.time_range.start, e.time_range.end) for e in profiler.events() if e.device_type.name == "CUDA")
    busy_us, covered_until_us = 0.0, 0.0
    for start_us, end_us in spans:
        busy_us += max(0.0, end_us - max(start_us, covered_until_us))
        covered_until_us = max(covered_until_us, end_us)
    return busy_us / 1e6 / wall_s


def evaluation_share(size: StepSize, dataset: Dataset, device: torch.device) -> float:
    """Return the seconds of a validation over those of a training pass with as many images."""
    model, masks = pruned_network(size.network, device)
    batches = dataset.batches(dataset.train, size.batch_size, seed=0), dataset.batches(dataset.train, 1024)
    settings: dict[str, Any] = {"lr": 0.05, "input_shape": IMAGE_SHAPE, "precision": "bf16", "lr_schedule": "constant"}
    validated_epochs = iter(Training(model, masks, *batches, epochs=10**6, architecture="validated", **settings))
    training_pass = forcetune_pass(size.network, dataset, size.batch_size, architecture="another")
    for _ in range(2):
        seconds = measure_seconds(lambda: next(validated_epochs), device), measure_seconds(training_pass, device)
    return seconds[0] / seconds[1] - 1


def roofline_share(size: StepSize, dataset: Dataset, device: torch.device) -> float:
    """Return the time of a step of the larger network at the measured peaks, over its measured time."""
    run = forcetune_pass(size.larger_network, dataset, size.batch_size, architecture="larger")
    run()
    step_s = median(measure_seconds(run, device) for _ in range(3)) / len(
        dataset.batches(dataset.train, size.batch_size)
    )
    model, _ = pruned_network(size.larger_network, device)
    lay_out(model, IMAGE_SHAPE)
    inputs = torch.randn(size.batch_size, *IMAGE_SHAPE, device=device)
    targets = torch.randint(IMAGE_CLASSES, (size.batch_size,), device=device)
    counter = RooflineCounter(measure_bandwidth(device), measure_arithmetic(device))
    with counter:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
    return counter.seconds / step_s


class RooflineCounter(TorchDispatchMode):
    """A mode that adds up the least seconds of each operation.

    bandwidth, arithmetic: the peaks, in bytes and FLOPs a second.
    """

    def __init__(self, bandwidth: float, arithmetic: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0
        self._peaks = bandwidth, arithmetic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it unless it is only a view of a tensor."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = {id(t): t for t in torch.utils._pytree.tree_leaves((args, out)) if isinstance(t, Tensor)}
            moved_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
            flop_counter = flop_registry.get(func.overloadpacket)
            flops = flop_counter(*args, **(kwargs or {}), out_val=out) if flop_counter else 0
            self.seconds += max(moved_bytes / self._peaks[0], flops / self._peaks[1])
        return out


def measure_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that a copy reads and writes."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    shortest_s = min(measure_seconds(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * source.numel() * source.element_size() / shortest_s


def measure_arithmetic(device: torch.device) -> float:
    """Return the FLOPs a second of a product of bf16 matrices."""
    rows = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(rows, rows, dtype=torch.bfloat16, device=device)
    shortest_s = min(measure_seconds(lambda: matrix @ matrix, device) for _ in range(5))
    return 2 * rows**3 / shortest_s


if __name__ == "__main__":
    main()
