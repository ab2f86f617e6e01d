"""Train a pruned network in a loop of your own.

    forcetune prune --model mlp --dataset digits --method snip --density 0.1 --out masks.npz
    python examples/plain_loop.py masks.npz

The argument is a file of masks, or a run of a study on digits whose network is `mlp`.
"""

import sys

import torch
from torch.nn import functional

import forcetune
from forcetune import data, models, training


def train(source: str, epochs: int = 10) -> torch.nn.Module:
    """Train a new network under the masks of a run or a file, and return it."""
    masks = forcetune.load_masks(source)
    dataset = data.load("digits")
    images, validation = dataset.split(seed=0)
    model = models.build(
        "mlp", dataset.input_shape, dataset.classes, seed=0
    )  # any module with parameters of these names
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    masked = training.hold(optimizer, model, masks)  # pruned weights are 0 now, and after every step
    for epoch in range(epochs):
        model.train()
        for inputs, targets in dataset.batches(images, 64, seed=epoch):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            masked.gradients()  # only a loop that clips needs this line: pruned weights do not count in the norm
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        accuracy = training.evaluate(model, dataset.batches(validation, 1024))["val_accuracy"]
        print(f"epoch {epoch + 1}: accuracy {accuracy:.4f}")
    return model


if __name__ == "__main__":
    train(sys.argv[1])
