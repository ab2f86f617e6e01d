"""One training step of a pruned network: its loss, its gradients and the move of the optimizer, all under the masks."""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from forcetune.models.preserving import preserve_model
from forcetune.training.masked import Masked, MaskedDense

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (N, classes) and classes (N,): the mean over the N samples
Precision = Literal["bf16", "float32"]


def _sgd(weights: Iterable[nn.Parameter], lr: float | Tensor, momentum: float, weight_decay: float) -> Optimizer:
    optimizer = SGD(weights, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if momentum:  # the fused SGD fails on a weight whose first gradient comes later than those of others
        for weight in optimizer.param_groups[0]["params"]:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight.detach())
    return optimizer


def _adamw(weights: Iterable[nn.Parameter], lr: float | Tensor, momentum: float, weight_decay: float) -> Optimizer:
    """Return AdamW, with decoupled weight decay [1711.05101]; `momentum` is the first beta."""
    captured = isinstance(lr, Tensor)
    return AdamW(weights, lr, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True, capturable=captured)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


@dataclass(frozen=True)
class Recipe:
    """The settings that all steps of a training share.

    Attributes:
        optimizer: A row of OPTIMIZERS.
        momentum: The momentum of SGD, or the first beta of AdamW.
        weight_decay: The weight decay of the optimizer.
        clip_norm: The bound on the 2-norm of the gradient; None for no bound.
        loss: The training loss.
        precision: `bf16` (torch's autocast) or `float32`.
        compiled: Whether torch.compile compiles the network.
        keeps_dense_weights: Whether pruned weights stay underneath and are trained.
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    loss: Loss = functional.cross_entropy
    precision: Precision = "float32"
    compiled: bool = False
    keeps_dense_weights: bool = False


class Step:
    """A training step of the weights that `masks` keep.

    The shape of the first batch counts as the shape of all. Where the network is compiled, a batch of another shape
    (the last one of a pass) goes through the network without compilation.

    Args:
        network: The network that is trained.
        masks: Its masks, by parameter name.
        recipe: The settings of the training.
        lr: The learning rate at first; a tensor where the step is captured.
    """

    def __init__(self, network: nn.Module, masks: dict[str, Tensor], recipe: Recipe, lr: float | Tensor = 0.1) -> None:
        self.network = network
        self.masked = (MaskedDense if recipe.keeps_dense_weights else Masked)(network, masks)
        self.optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), lr, recipe.momentum, recipe.weight_decay)
        self.compile_seconds = 0.0
        self._recipe = recipe
        self._forward: Callable[[Tensor], Tensor] = network
        self._shape: torch.Size | None = None

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Move the weights by one step.

        Args:
            inputs: A batch (N, ...), on the device of the network.
            targets: The classes (N,) of the batch.
            lr: The learning rate of this step.

        Returns:
            The loss before the step, a scalar on the device.
        """
        self._set_up(inputs, targets)
        self._set_lr(lr)
        return self._run(inputs, targets)

    def compute_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradients of all weights, pruned ones included, and move none; `move` is the other half.

        Args:
            inputs: A batch (N, ...), on the device of the network.
            targets: The classes (N,) of the batch.

        Returns:
            The loss, a scalar on the device. The gradients are those of the network's parameters.
        """
        self._set_up(inputs, targets)
        return self._compute_gradients(inputs, targets)

    def move(self, lr: float) -> None:
        """Move the weights by the gradients that `compute_gradients` left."""
        self._set_lr(lr)
        self._move()

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Take over the state of an optimizer, each tensor in the memory order of its weight.

        The fused kernels read both in the order of the memory, whatever the strides are.

        Args:
            state: A state as torch's `state_dict` of an optimizer returns it.
        """
        for index, weight in enumerate(self.network.parameters()):
            weight_state = self.optimizer.state[weight]
            for name, value in state["state"].get(index, {}).items():
                if not isinstance(value, Tensor):
                    weight_state[name] = value
                elif isinstance(weight_state.get(name), Tensor):
                    weight_state[name].copy_(value)
                elif value.shape == weight.shape:
                    weight_state[name] = torch.empty_like(weight.detach()).copy_(value)
                else:
                    weight_state[name] = value.to(weight.device, copy=True)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the network and its loss are computed in the precision of the recipe."""
        if self._recipe.precision == "float32":
            return nullcontext()
        device = next(self.network.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)  # a captured step outlives the cache

    def _set_up(self, inputs: Tensor, targets: Tensor) -> None:
        if self._shape is None:
            self._shape = inputs.shape
            if self._recipe.compiled and self._forward is self.network:
                self._compile(inputs, targets)

    def _compile(self, inputs: Tensor, targets: Tensor) -> None:
        started = time.perf_counter()
        torch._dynamo.reset()  # the networks of earlier trainings count towards the limit on compiled networks
        compiled = torch.compile(self.network, dynamic=False)
        try:
            with preserve_model(self.network, weights=True), self.autocast():
                self._recipe.loss(compiled(inputs), targets).backward()
            self._forward = compiled
        except torch.OutOfMemoryError:
            raise  # another attempt with more memory can succeed
        except Exception as error:  # no compiler is installed, or the compiler cannot read the network
            log.warning("the network is not compiled: %s", str(error).partition("\n")[0])
        self.compile_seconds = time.perf_counter() - started

    def _run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self._compute_gradients(inputs, targets)
        self._move()
        return loss

    def _compute_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        forward = self._forward if inputs.shape == self._shape else self.network
        with self.autocast():
            loss = self._recipe.loss(forward(inputs), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def _move(self) -> None:
        self.masked.gradients()
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.clip_norm)
        self.optimizer.step()
        self.masked.weights()

    def _set_lr(self, lr: float) -> None:
        (group,) = self.optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
