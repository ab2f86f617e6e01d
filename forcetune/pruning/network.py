"""What a saliency sees: a model as a function of its prunable weights, which is never written to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from forcetune.pruning.masks import Masks, prunable

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Weights = dict[str, Tensor]


class Network:
    """The dense initial weights, the mask so far, and one step's batches.

    Forward passes run on copies of the buffers, so that batch norm's running statistics and
    whatever else a forward pass writes stay as they were.
    """

    def __init__(self, model: nn.Module, loss: Loss, seed: int) -> None:
        self.model = model
        self.loss = loss
        self.weights: Weights = {name: weight.detach() for name, weight in prunable(model).items()}
        self.masks: Masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}
        self.batches: Sequence[Batch] = ()
        self.input_shape: tuple[int, ...] | None = None  # of one sample, without the batch
        self.generator = torch.Generator().manual_seed(seed)
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @property
    def total(self) -> int:
        """N, the number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    def sparse_weights(self) -> Weights:
        """theta0 * m as leaves that gradients can be asked for."""
        return {n: (w * self.masks[n]).requires_grad_() for n, w in self.weights.items()}

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """The outputs for `inputs` with these prunable weights."""
        device = next(iter(weights.values())).device
        return functional_call(self.model, {**weights, **self._buffers}, (inputs.to(device),))

    def batch_loss(self, weights: Weights, batch: Batch, temperature: float = 1) -> Tensor:
        """The batch-mean loss with these prunable weights, the logits divided by `temperature`."""
        inputs, targets = batch
        logits = self.forward(weights, inputs)
        if temperature != 1:
            logits = logits / temperature
        return self.loss(logits, targets.to(logits.device))

    def gradients(self) -> Weights:
        """g(theta0 * m): the gradient at the sparse weights, for pruned weights too; its mean over the batches."""
        weights = self.sparse_weights()
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for batch in self.batches:
            for name, g in gradient(self.batch_loss(weights, batch), weights).items():
                total[name] += g
        return {name: g / len(self.batches) for name, g in total.items()}


def gradient(scalar: Tensor, weights: Weights, create_graph: bool = False) -> Weights:
    """d scalar / d weight by name; zeros where a weight plays no part."""
    found = torch.autograd.grad(scalar, list(weights.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Give back each module's mode and torch's random state, which dropout draws from."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
