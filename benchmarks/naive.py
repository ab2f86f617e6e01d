"""The baseline: pruning and training as in the published recipe, written plainly, with one process a trial.

    python benchmarks/naive.py '{"dataset": "digits", "model": "resnet8", "density": 0.05, "lr": 0.1, "epochs": 2}'

It follows the programs of the methods' authors (naver/force, ganguli-lab/Synaptic-Flow): a DataLoader with PIL
transforms, a deep copy of the network and a sorted top-k at every pruning step, and hooks that mask the gradients. The
command trains one trial, pruned by FORCE unless it names another method, and prints its validation accuracy and its
density. The other benchmarks import its functions.
"""

import copy
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from forcetune import data, models
from forcetune.data import Dataset, Images

Batch = tuple[Tensor, Tensor]


class TransformedImages(TorchDataset[tuple[Tensor, int]]):
    """A data set of PIL images that passes each image through the transforms when it is read."""

    def __init__(self, dataset: Dataset, images: Images, training: bool) -> None:
        arrays = images.inputs.permute(0, 2, 3, 1).cpu().numpy()
        self.arrays = arrays[..., 0] if arrays.shape[-1] == 1 else arrays
        self.targets = images.targets.tolist()
        crop = [transforms.RandomCrop(arrays.shape[1], padding=dataset.pad)] if training and dataset.pad else []
        flip = [transforms.RandomHorizontalFlip()] if training and dataset.flip else []
        normalize = [transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
        self.transform = transforms.Compose([*crop, *flip, *normalize])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(np.ascontiguousarray(self.arrays[index]))), self.targets[index]


def loader(dataset: Dataset, images: Images, batch_size: int, training: bool, workers: int = 1) -> "DataLoader[Batch]":
    """Return a loader of batches, shuffled and augmented for training."""
    transformed_images = TransformedImages(dataset, images, training)
    return DataLoader(transformed_images, batch_size, shuffle=training, num_workers=workers)  # type: ignore[arg-type]


def find_masks(
    model: nn.Module,
    batches: Iterator[Batch],
    input_shape: tuple[int, ...],
    method: str,
    density: float,
    iterations: int = 1,
) -> list[Tensor]:
    """Return the masks of `random`, `snip`, `force` or `synflow`; SNIP is FORCE in one step."""
    if method == "random":
        return random_masks(model, density)
    if method == "synflow":
        return synflow_masks(model, input_shape, density, iterations)
    return force_masks(model, batches, density, 1 if method == "snip" else iterations)


def random_masks(model: nn.Module, density: float) -> list[Tensor]:
    """Return masks that keep weights drawn uniformly over all layers."""
    scores = [torch.rand_like(weight) for weight in prunable_weights(model)]
    return keep_largest(scores, int(sum(layer.numel() for layer in scores) * density))


def synflow_masks(model: nn.Module, input_shape: tuple[int, ...], density: float, iterations: int) -> list[Tensor]:
    """Return the masks of SynFlow: iterative, on the network of absolute weights in float64, for an input of ones."""
    masks = [torch.ones_like(weight) for weight in prunable_weights(model)]
    for t in range(1, iterations + 1):
        network = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.abs_()
            for weight, mask in zip(prunable_weights(network), masks, strict=True):
                weight.mul_(mask)
        ones = torch.ones(1, *input_shape, dtype=torch.float64, device=masks[0].device)
        network(ones).sum().backward()
        scores = [
            (weight * gradient_of(weight)).abs().masked_fill(mask == 0, -1.0)
            for weight, mask in zip(prunable_weights(network), masks, strict=True)
        ]
        count = int(sum(layer.numel() for layer in scores) * math.exp(math.log(density) * t / iterations))
        masks = keep_largest([layer.detach() for layer in scores], count)
    return masks


def force_masks(model: nn.Module, batches: Iterator[Batch], density: float, iterations: int) -> list[Tensor]:
    """Return the masks of FORCE's iterative pruning, one batch a step, with cross-entropy as its loss.

    Every step works on a fresh deep copy of the whole network, its weights multiplied by the masks so far. The
    authors keep every score from the k-th on: where more scores are 0 than are to be pruned, that keeps all weights,
    and the network is trained dense. Here exactly k are kept.
    """
    initial = [weight.detach() for weight in prunable_weights(model)]
    masks = [torch.ones_like(weight) for weight in initial]
    for t in range(1, iterations + 1):
        inputs, targets = next(batches)
        network = copy.deepcopy(model).train()
        weights = prunable_weights(network)
        with torch.no_grad():
            for weight, mask in zip(weights, masks, strict=True):
                weight.mul_(mask)
        functional.cross_entropy(network(inputs), targets).backward()
        saliency = [(theta * gradient_of(weight)).abs() for theta, weight in zip(initial, weights, strict=True)]
        count = int(sum(layer.numel() for layer in saliency) * math.exp(math.log(density) * t / iterations))
        masks = keep_largest(saliency, count)
    return masks


def keep_largest(scores: list[Tensor], count: int) -> list[Tensor]:
    """Return masks, float32, that keep the `count` largest scores over all layers, by a sorted top-k."""
    flat_scores = torch.cat([layer.flatten() for layer in scores])
    flat_mask = torch.zeros(len(flat_scores), device=flat_scores.device)
    flat_mask[torch.topk(flat_scores, count, sorted=True).indices] = 1
    layer_masks = flat_mask.split([layer.numel() for layer in scores])
    return [mask.view(layer.shape) for mask, layer in zip(layer_masks, scores, strict=True)]


def hook_masks(model: nn.Module, masks: list[Tensor]) -> None:
    """Zero the pruned weights now, and their gradients in every backward pass from now on."""
    for weight, mask in zip(prunable_weights(model), masks, strict=True):
        with torch.no_grad():
            weight.mul_(mask)
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)


def prunable_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of every Conv2d and Linear, in module order."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    """Take a training step and return its loss, which is read back from the device at every step."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(
    model: nn.Module, training: "DataLoader[Batch]", validation: "DataLoader[Batch]", epochs: int, lr: float
) -> Iterator[float]:
    """Train by SGD with momentum and a cosine schedule by step; yield the validation accuracy after each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(training))
    for _ in range(epochs):
        model.train()
        for inputs, targets in training:
            step(model, optimizer, inputs, targets)
            schedule.step()
        yield accuracy(model, validation)


def gradient_of(weight: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a weight after a backward pass."""
    assert weight.grad is not None
    return weight.grad


@torch.no_grad()
def accuracy(model: nn.Module, validation: "DataLoader[Batch]") -> float:
    """Return the share of the images that are classified correctly."""
    model.eval()
    hits = [(model(inputs).argmax(1) == targets).float().sum().item() for inputs, targets in validation]
    share: float = sum(hits) / len(validation.dataset)  # type: ignore[arg-type]
    return share


def run_trial(trial: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Prune and train a network; yield the validation accuracy after each epoch, with the density of the masks."""
    fields = {"method": "force", "batch_size": 128, "iterations": 10, "seed": 0, "workers": 1, **trial}
    torch.manual_seed(fields["seed"])
    dataset = data.load(fields["dataset"])
    assert isinstance(dataset, Dataset)
    images, held_out = dataset.split(fields["seed"], fields.get("train_samples"))
    model = models.build(fields["model"], dataset.input_shape, dataset.classes, fields.get("width"), fields["seed"])
    training = loader(dataset, images, fields["batch_size"], training=True, workers=fields["workers"])
    pruning_fields = fields["method"], fields["density"], fields["iterations"]
    masks = find_masks(model, forever(training), dataset.input_shape, *pruning_fields)
    hook_masks(model, masks)
    density = sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    validation = loader(dataset, held_out, fields["batch_size"], training=False, workers=fields["workers"])
    for val_accuracy in train(model, training, validation, fields["epochs"], fields["lr"]):
        yield val_accuracy, density


def main() -> None:
    """Train the trial that the command line describes, and print its result."""
    torch.set_num_threads(1)
    *_, (val_accuracy, density) = run_trial(json.loads(sys.argv[1]))
    print(json.dumps({"val_accuracy": val_accuracy, "density": density}))


def forever(batches: "DataLoader[Batch]") -> Iterator[Batch]:
    """Yield the batches without end, pass after pass."""
    while True:
        yield from batches


if __name__ == "__main__":
    main()
