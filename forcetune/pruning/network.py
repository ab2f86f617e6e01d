"""What a saliency sees: a model as a function of its prunable weights, which is never written to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from forcetune.errors import InputError
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
        self.count = self.total  # weights that this step keeps
        self.batches: Sequence[Batch] = ()
        self.input_shape: tuple[int, ...] | None = None  # of one sample, where a batch told it
        self.generator = torch.Generator().manual_seed(seed)
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @property
    def total(self) -> int:
        """N, the number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch. Raises InputError where neither a batch nor the first layer tells it."""
        if self.input_shape is not None:
            return self.input_shape
        first = next(iter(self.weights.values()))
        if first.dim() == 2:
            return (first.shape[1],)
        raise InputError(
            "the method asks for the shape of an input, and the first layer is a convolution, which fits any height "
            "and width: give one batch (its values are not used)"
        )

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
        return mean(gradient(self.batch_loss(weights, batch), weights) for batch in self.batches)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of the weights' type and device, the same on every device."""
        like = next(iter(self.weights.values()))
        return torch.randn(tuple(shape), generator=self.generator, dtype=like.dtype).to(like.device)

    def state(self) -> list[Tensor]:
        """All that a step leaves behind it beside its masks: where the generators are, and the buffers."""
        cuda = [torch.cuda.get_rng_state(device) for device in self._cuda()]
        buffers = [buffer.clone() for buffer in self._buffers.values()]
        return [self.generator.get_state(), torch.get_rng_state(), *cuda, *buffers]

    def restore(self, state: Sequence[Tensor]) -> None:
        """As it was when `state` was taken."""
        own, cpu, *rest = state
        self.generator.set_state(own)
        torch.set_rng_state(cpu)
        for device in self._cuda():
            torch.cuda.set_rng_state(rest.pop(0), device)
        for buffer, value in zip(self._buffers.values(), rest, strict=True):
            buffer.copy_(value)

    def _cuda(self) -> list[torch.device]:
        device = next(iter(self.weights.values())).device
        return [device] if device.type == "cuda" else []

    def settle_statistics(self, weights: Weights, inputs: Iterable[Tensor]) -> None:
        """Batch norm's statistics as their mean over these batches of inputs; the model is in eval mode then."""
        norms = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for name, buffer in self._buffers.items():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()
        for norm in norms:
            norm.momentum = None  # a plain mean over the batches seen
        try:
            self.model.train()
            with torch.no_grad():
                for batch in inputs:
                    self.forward(weights, batch)
        finally:
            self.model.eval()
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def gradient(scalar: Tensor, weights: Weights, create_graph: bool = False, retain: bool = False) -> Weights:
    """d scalar / d weight by name; zeros where a weight plays no part; `retain` the graph for another one."""
    found = torch.autograd.grad(
        scalar,
        list(weights.values()),
        retain_graph=create_graph or retain,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return dict(zip(weights, found, strict=True))


def mean(parts: Iterable[Weights]) -> Weights:
    """The mean of weight-shaped tensors, by name."""
    total: Weights = {}
    count = 0
    for part in parts:
        count += 1
        if count == 2:
            total = {name: value.clone() for name, value in total.items()}
        total = {name: total[name].add_(value) for name, value in part.items()} if total else part
    return total if count == 1 else {name: value / count for name, value in total.items()}


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
