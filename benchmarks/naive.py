"""The baseline: pruning and training as the published recipe has them, told plainly, one process a trial.

    python benchmarks/naive.py '{"dataset": "digits", "model": "resnet8", "density": 0.05, "lr": 0.1, "epochs": 2}'

After FORCE's authors' program (naver/force), retold: a DataLoader with PIL transforms and one worker, a deep copy of
the network and a sorted top-k at every pruning step, hooks that mask the gradients. Trains one trial, pruned by
FORCE, and prints its validation accuracy; the other scripts here import its parts.
"""

import copy
import json
import math
import sys
from collections.abc import Iterator

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


class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Images as PIL has them, each through the transforms when it is asked for."""

    def __init__(self, dataset: Dataset, images: Images, training: bool) -> None:
        arrays = images.inputs.permute(0, 2, 3, 1).cpu().numpy()
        self.arrays = arrays[..., 0] if arrays.shape[-1] == 1 else arrays
        self.targets = images.targets.tolist()
        crop = [transforms.RandomCrop(arrays.shape[1], padding=dataset.pad)] if training and dataset.pad else []
        flip = [transforms.RandomHorizontalFlip()] if training and dataset.flip else []
        last = [transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
        self.transform = transforms.Compose([*crop, *flip, *last])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(np.ascontiguousarray(self.arrays[index]))), self.targets[index]


def loader(dataset: Dataset, images: Images, batch_size: int, training: bool) -> "DataLoader[Batch]":
    """Shuffled and augmented for training."""
    pictures = Pictures(dataset, images, training)
    return DataLoader(pictures, batch_size, shuffle=training, num_workers=1)  # type: ignore[arg-type]


def force_masks(model: nn.Module, batches: Iterator[Batch], density: float, iterations: int) -> list[Tensor]:
    """FORCE's iterative pruning, one batch a step, with cross-entropy as its loss.

    Every step works on a fresh deep copy of the whole network, its weights multiplied by the masks so far; the
    k-th score comes from a sorted top-k of all scores, and every score from there on is kept.
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
        saliency = [(theta * weight.grad).abs() for theta, weight in zip(initial, weights, strict=True)]
        scores = torch.cat([layer.flatten() for layer in saliency])
        keep = int(len(scores) * math.exp(math.log(density) * t / iterations))
        threshold = torch.topk(scores, keep, sorted=True).values[-1]
        masks = [(layer >= threshold).to(layer.dtype) for layer in saliency]
    return masks


def hook_masks(model: nn.Module, masks: list[Tensor]) -> None:
    """Zero the pruned weights, and from now on their gradients."""
    for weight, mask in zip(prunable_weights(model), masks, strict=True):
        with torch.no_grad():
            weight.mul_(mask)
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)


def prunable_weights(model: nn.Module) -> list[Tensor]:
    """The weights of every Conv2d and Linear, in module order."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    """One training step; the loss is read at each."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(
    model: nn.Module, training: "DataLoader[Batch]", validation: "DataLoader[Batch]", epochs: int, lr: float
) -> float:
    """SGD with momentum and a cosine epoch by epoch; the validation accuracy after the last of them, taken at each."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    found = 0.0
    for _ in range(epochs):
        model.train()
        for inputs, targets in training:
            step(model, optimizer, inputs, targets)
        schedule.step()
        found = accuracy(model, validation)
    return found


@torch.no_grad()
def accuracy(model: nn.Module, validation: "DataLoader[Batch]") -> float:
    """The share of the images put in their class."""
    model.eval()
    hits = [(model(inputs).argmax(1) == targets).float().sum().item() for inputs, targets in validation]
    return sum(hits) / len(validation.dataset)  # type: ignore[arg-type]


def main() -> None:
    """Train the trial that the command line names."""
    asked = {"batch_size": 128, "iterations": 10, "train_samples": None, **json.loads(sys.argv[1])}
    torch.set_num_threads(1)
    dataset = data.load(asked["dataset"])
    assert isinstance(dataset, Dataset)
    images, held_out = dataset.split(0, asked["train_samples"])
    model = models.build(asked["model"], dataset.input_shape, dataset.classes, asked.get("width"))
    training = loader(dataset, images, asked["batch_size"], training=True)
    masks = force_masks(model, forever(training), asked["density"], asked["iterations"])
    hook_masks(model, masks)
    validation = loader(dataset, held_out, asked["batch_size"], training=False)
    print(f"{train(model, training, validation, asked['epochs'], asked['lr']):.4f}")


def forever(batches: "DataLoader[Batch]") -> Iterator[Batch]:
    """Pass after pass."""
    while True:
        yield from batches


if __name__ == "__main__":
    main()
