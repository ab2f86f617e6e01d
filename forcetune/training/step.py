"""One step of training a pruned network: its loss, its gradients and the optimizer's move, all held to the masks."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from forcetune.training.masked import Masked

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (N, classes) and classes (N,), their mean
Precision = Literal["bf16", "float32"]


def _sgd(weights: Iterable[nn.Parameter], lr: float | Tensor, momentum: float, weight_decay: float) -> Optimizer:
    optimizer = SGD(weights, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if momentum:  # the fused one fails on a weight whose first gradient comes later than those of others
        for weight in optimizer.param_groups[0]["params"]:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight.detach())
    return optimizer


def _adamw(weights: Iterable[nn.Parameter], lr: float | Tensor, momentum: float, weight_decay: float) -> Optimizer:
    """Decoupled weight decay [1711.05101]; `momentum` is the first beta."""
    captured = isinstance(lr, Tensor)
    return AdamW(weights, lr, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True, capturable=captured)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


@dataclass(frozen=True)
class Recipe:
    """What is the same in all steps of a training."""

    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    loss: Loss = functional.cross_entropy
    precision: Precision = "float32"
    compiled: bool = False


class Step:
    """Takes steps of the weights that `masks` keep.

    The first batch's shape counts as that of all; where the network is compiled, batches of another one (the last of
    a pass) go through it as it is. lr: a tensor where steps are to be captured.
    """

    def __init__(self, network: nn.Module, masks: dict[str, Tensor], recipe: Recipe, lr: float | Tensor = 0.1) -> None:
        self.network = network
        self.held = Masked(network, masks)
        self.optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), lr, recipe.momentum, recipe.weight_decay)
        self.compile_seconds = 0.0
        self._recipe = recipe
        self._forward: Callable[[Tensor], Tensor] = network
        self._shape: torch.Size | None = None

    def __call__(self, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Move the weights by one step; the loss before it, on the device."""
        self._meet(inputs, targets)
        self._set_lr(lr)
        return self._run(inputs, targets)

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Take over an optimizer's state, each tensor in the memory order of its weight.

        The fused kernels read both in the order of the memory, whatever the strides say.
        """
        for place, weight in enumerate(self.network.parameters()):
            mine = self.optimizer.state[weight]
            for name, value in state["state"].get(place, {}).items():
                if not isinstance(value, Tensor):
                    mine[name] = value
                elif isinstance(mine.get(name), Tensor):
                    mine[name].copy_(value)
                elif value.shape == weight.shape:
                    mine[name] = torch.empty_like(weight.detach()).copy_(value)
                else:
                    mine[name] = value.to(weight.device, copy=True)

    def autocast(self) -> AbstractContextManager[None]:
        """In force where the network is fed."""
        if self._recipe.precision == "float32":
            return nullcontext()
        device = next(self.network.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)  # a captured step would outlive its cache

    def _meet(self, inputs: Tensor, targets: Tensor) -> None:
        if self._shape is None:
            self._shape = inputs.shape
            if self._recipe.compiled and self._forward is self.network:
                self._compile(inputs, targets)

    def _compile(self, inputs: Tensor, targets: Tensor) -> None:
        started = time.perf_counter()
        torch._dynamo.reset()  # earlier trainings' networks count against the number that it compiles
        compiled = torch.compile(self.network, dynamic=False)
        try:
            with as_it_was(self.network), self.autocast():
                self._recipe.loss(compiled(inputs), targets).backward()
            self._forward = compiled
        except torch.OutOfMemoryError:
            raise  # more room helps
        except Exception as error:  # no compiler here, or what the compiler cannot read
            log.warning("not compiled: %s", str(error).partition("\n")[0])
        self.compile_seconds = time.perf_counter() - started

    def _run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        forward = self._forward if inputs.shape == self._shape else self.network
        with self.autocast():
            loss = self._recipe.loss(forward(inputs), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.held.gradients()
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.clip_norm)
        self.optimizer.step()
        self.held.weights()
        return loss.detach()

    def _set_lr(self, lr: float) -> None:
        (group,) = self.optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@contextmanager
def as_it_was(network: nn.Module) -> Iterator[None]:
    """Give a network its weights, its buffers and torch its random state back."""
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    before = [tensor.clone() for tensor in tensors]
    with torch.random.fork_rng({tensor.device for tensor in tensors if tensor.is_cuda}):
        try:
            yield
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
