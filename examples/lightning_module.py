"""Train a pruned network with Lightning (`pip install 'forcetune[examples]'`).

    forcetune prune --model mlp --dataset digits --method snip --density 0.1 --out masks.npz
    python examples/lightning_module.py masks.npz

The argument is a file of masks, or a run of a study on digits whose network is `mlp`.
"""

import sys

import lightning
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import forcetune
from forcetune import data, models, training


class PrunedClassifier(lightning.LightningModule):
    """A classifier whose pruned weights stay 0."""

    def __init__(self, network: torch.nn.Module, masks: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.masks = masks

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        inputs, targets = batch
        return functional.cross_entropy(self.network(inputs), targets)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        inputs, targets = batch
        self.log("val_accuracy", (self.network(inputs).argmax(1) == targets).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Lightning calls this once the network is on its device, where the masks have to be too.
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.masked = training.hold(optimizer, self.network, self.masks)
        return optimizer

    def on_after_backward(self) -> None:
        # Lightning computes the gradients inside of the optimizer's step, and clips them there.
        self.masked.gradients()


def train(source: str, epochs: int = 10) -> torch.nn.Module:
    """Train a new network under the masks of a run or a file, and return it."""
    masks = forcetune.load_masks(source)
    dataset = data.load("digits")
    images, validation = dataset.split(seed=0)
    loaders = [
        DataLoader(
            TensorDataset(*next(iter(dataset.batches(split, len(split))))), batch_size=64, shuffle=split is images
        )
        for split in (images, validation)
    ]
    model = models.build("mlp", dataset.input_shape, dataset.classes, seed=0)
    trainer = lightning.Trainer(
        max_epochs=epochs, gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(PrunedClassifier(model, masks), *loaders)
    return model


if __name__ == "__main__":
    train(sys.argv[1])
