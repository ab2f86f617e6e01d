"""Train a pruned network with Transformers' Trainer (`pip install 'forcetune[examples]'`).

    forcetune prune --model mlp --dataset digits --method snip --density 0.1 --out masks.npz
    python examples/transformers_trainer.py masks.npz

The argument is a file of masks, or a run of a study on digits whose network is `mlp`.
"""

import sys
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import forcetune
from forcetune import data, models, training


class Classifier(torch.nn.Module):
    """A network as the Trainer calls it: with the labels, for the loss."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(pixel_values)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class PrunedTrainer(Trainer):
    """A Trainer that keeps pruned weights at 0."""

    def __init__(self, *arguments: Any, masks: dict[str, torch.Tensor], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.masks = masks

    def create_optimizer(self, *arguments: Any) -> torch.optim.Optimizer:
        # The Trainer calls this once the network is on its device, where the masks have to be too.
        optimizer = super().create_optimizer(*arguments)
        self.masked = training.hold(optimizer, self.model.network, self.masks)
        return optimizer

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **options)
        self.masked.gradients()  # before the Trainer clips them
        return loss


class Images(Dataset):
    """The images of one split, as the Trainer takes them."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self._inputs[index], "labels": self._targets[index]}


def train(source: str, epochs: int = 10) -> torch.nn.Module:
    """Train a new network under the masks of a run or a file, and return it."""
    masks = forcetune.load_masks(source)
    dataset = data.load("digits")
    images, validation = (Images(*next(iter(dataset.batches(split, len(split))))) for split in dataset.split(seed=0))
    model = models.build("mlp", dataset.input_shape, dataset.classes, seed=0)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            learning_rate=3e-3,
            max_grad_norm=1.0,
            report_to="none",
            save_strategy="no",
        )
        trainer = PrunedTrainer(
            model=Classifier(model), args=arguments, train_dataset=images, eval_dataset=validation, masks=masks
        )
        trainer.train()
        print(trainer.evaluate())
    return model


if __name__ == "__main__":
    train(sys.argv[1])
