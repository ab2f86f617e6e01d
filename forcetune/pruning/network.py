"""The network that a saliency sees: a model, never written to, as a function of its prunable weights."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from forcetune.errors import InputError
from forcetune.models.preserving import preserve_model
from forcetune.pruning.masks import Masks, prunable

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Weights = dict[str, Tensor]


class Network:
    """A model at its dense initial weights, with the mask so far and the batches of one step.

    Forward passes run on copies of the buffers, so that batch norm's running statistics, and whatever else a forward
    pass writes, stay as they were in the model.

    Args:
        model: The model.
        loss: A function of (logits, targets) that returns the batch mean.
        seed: The seed of `generator`.

    Attributes:
        model: The model.
        loss: The loss function.
        weights: Parameter name to dense initial weight, theta0, in module order.
        masks: Parameter name to bool tensor, the mask so far, m; True keeps the weight.
        count: The number of weights that the step keeps.
        batches: The step's batches of (inputs, targets).
        input_shape: The shape of one sample, without the batch; None where no batch gives it.
        generator: The generator, on the CPU, of all that a saliency draws.
    """

    def __init__(self, model: nn.Module, loss: Loss, seed: int) -> None:
        self.model = model
        self.loss = loss
        self.weights: Weights = {name: weight.detach() for name, weight in prunable(model).items()}
        self.masks: Masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}
        self.count = self.total
        self.batches: Sequence[Batch] = ()
        self.input_shape: tuple[int, ...] | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @property
    def total(self) -> int:
        """N, the number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    def sample_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample, without the batch.

        Returns:
            `input_shape`, or the width of the first layer where that is linear.

        Raises:
            InputError: Neither a batch nor the first layer gives the shape.
        """
        if self.input_shape is not None:
            return self.input_shape
        first = next(iter(self.weights.values()))
        if first.dim() == 2:
            return (first.shape[1],)
        raise InputError(
            "the method needs the input shape, and a convolution as first layer does not determine it: pass one batch "
            "(its values are not used)"
        )

    def find_biases(self) -> dict[str, str]:
        """Return the parameter names of the biases of layers with a prunable weight, by the weight's parameter name."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        biases: dict[str, str] = {}
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                biases.setdefault(names[id(module.weight)], names[id(module.bias)])
        return {name: bias for name, bias in biases.items() if name in self.weights}

    def sparse_weights(self) -> Weights:
        """Return the sparse weights, theta0 * m, as leaves of a new graph.

        Returns:
            Parameter name to tensor, which requires a gradient.
        """
        return {n: (w * self.masks[n]).requires_grad_() for n, w in self.weights.items()}

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """Run the model with these prunable weights.

        Args:
            weights: Parameter name to tensor of the parameter's shape, all on one device.
            inputs: A batch of inputs; it is moved to the device of the weights.

        Returns:
            The outputs of the model.
        """
        device = next(iter(weights.values())).device
        outputs: Tensor = functional_call(self.model, {**weights, **self._buffers}, (inputs.to(device),))
        return outputs

    def batch_loss(self, weights: Weights, batch: Batch, temperature: float = 1) -> Tensor:
        """Return the loss of a batch with these prunable weights.

        Args:
            weights: Parameter name to tensor of the parameter's shape.
            batch: A batch of (inputs, targets).
            temperature: The number that the logits are divided by.

        Returns:
            The mean of the loss over the batch, a scalar.
        """
        inputs, targets = batch
        logits = self.forward(weights, inputs)
        if temperature != 1:
            logits = logits / temperature
        return self.loss(logits, targets.to(logits.device))

    def gradients(self) -> Weights:
        """Return g(theta0 * m), the gradient of the loss at the sparse weights.

        Returns:
            Parameter name to gradient, the mean over `batches`; pruned weights have gradients too.
        """
        weights = self.sparse_weights()
        return mean(gradient(self.batch_loss(weights, batch), weights) for batch in self.batches)

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, which are the same on every device.

        Args:
            shape: The shape of the tensor.

        Returns:
            A tensor of the weights' type, on their device.
        """
        weight = next(iter(self.weights.values()))
        return torch.randn(tuple(shape), generator=self.generator, dtype=weight.dtype).to(weight.device)

    def state(self) -> list[Tensor]:
        """Return everything that a step leaves behind other than its masks.

        Returns:
            The state of `generator`, of torch's generator on the CPU and, for a network on a GPU, on that GPU; then the
            buffers.
        """
        cuda = [torch.cuda.get_rng_state(device) for device in self._cuda_devices()]
        buffers = [buffer.clone() for buffer in self._buffers.values()]
        return [self.generator.get_state(), torch.get_rng_state(), *cuda, *buffers]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Restore the generators and buffers.

        Args:
            state: The result of an earlier call of `state`.
        """
        generator_state, cpu_state, *remaining = state
        self.generator.set_state(generator_state)
        torch.set_rng_state(cpu_state)
        for device in self._cuda_devices():
            torch.cuda.set_rng_state(remaining.pop(0), device)
        for buffer, value in zip(self._buffers.values(), remaining, strict=True):
            buffer.copy_(value)

    def _cuda_devices(self) -> list[torch.device]:
        device = next(iter(self.weights.values())).device
        return [device] if device.type == "cuda" else []

    def estimate_norm_statistics(self, weights: Weights, inputs: Iterable[Tensor]) -> None:
        """Set batch norm's statistics to their mean over batches of inputs, and put the model in eval mode.

        Args:
            weights: Parameter name to tensor of the parameter's shape.
            inputs: The batches of inputs.
        """
        # torch.optim.swa_utils.update_bn does this with the weights and the buffers of the model itself
        norms = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for name, buffer in self._buffers.items():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()
        for norm in norms:
            norm.momentum = None  # the plain mean over the batches
        try:
            self.model.train()
            with torch.no_grad():
                for batch in inputs:
                    self.forward(weights, batch)
        finally:
            self.model.eval()
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Let a saliency differentiate, and restore the modes of the model and torch's random state at the end.

    Args:
        model: The model.
    """
    # torch's fast attention kernels have no second derivative, and on a GPU they add up in any order
    with preserve_model(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def gradient(scalar: Tensor, weights: Weights, create_graph: bool = False, retain_graph: bool = False) -> Weights:
    """Return d scalar / d weight by name, zeros where a weight plays no part.

    Args:
        scalar: The tensor to differentiate.
        weights: Parameter name to tensor that requires a gradient.
        create_graph: Whether the gradient can be differentiated again.
        retain_graph: Whether the graph is kept for another gradient.
    """
    gradients = torch.autograd.grad(
        scalar,
        list(weights.values()),
        retain_graph=create_graph or retain_graph,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return dict(zip(weights, gradients, strict=True))


def mean(terms: Iterable[Weights]) -> Weights:
    """Return the mean of weight-shaped tensors, by name."""
    total: Weights = {}
    count = 0
    for term in terms:
        count += 1
        if count == 2:
            total = {name: value.clone() for name, value in total.items()}
        total = {name: total[name].add_(value) for name, value in term.items()} if total else term
    return total if count == 1 else {name: value / count for name, value in total.items()}
