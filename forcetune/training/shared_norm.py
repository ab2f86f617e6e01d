"""Batch norm over a batch that several processes share, with the statistics of all of its samples.

torch.nn.SyncBatchNorm does the same, but on a GPU alone, and it cannot leave out the batches that are not split.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from forcetune.training.processes import ProcessGroup


@dataclass
class Share:
    """The share of the current batch that this process has.

    Attributes:
        fraction: The samples of this process as a fraction of those of the batch; 1 where the batch is not split, and
            each process has all of it.
    """

    fraction: float = 1.0

    @property
    def is_split(self) -> bool:
        """Whether other processes have the other samples of the batch."""
        return self.fraction < 1


def share_norms(network: nn.Module, group: ProcessGroup, share: Share) -> None:
    """Let the batch norms of a network take the statistics of a whole batch where it is split among processes.

    The modules stay in their positions, with their parameters, buffers and hooks; their class becomes a subclass of
    what it was, as `torch.nn.utils.parametrize` does it.

    Args:
        network: The network, which is changed in place.
        group: The processes that share batches.
        share: The share that this process has of the current batch, which the training step keeps up to date.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            if not isinstance(module, _SharedNorm):
                module.__class__ = _make_shared_class(type(module))  # type: ignore[arg-type]  # a class is hashable
            module.__dict__["group"], module.__dict__["share"] = group, share


@cache
def _make_shared_class(norm: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Shared{norm.__name__}", (_SharedNorm, norm), {})


class _SharedNorm(_BatchNorm):
    """The part of a batch norm that replaces its forward pass in training, where the batch is split."""

    group: ProcessGroup
    share: Share

    def forward(self, inputs: Tensor) -> Tensor:
        if not (self.training and self.share.is_split):
            outputs: Tensor = super().forward(inputs)
            return outputs
        self._check_input_dim(inputs)  # type: ignore[no-untyped-call]
        outputs, mean, squares, count = _Normalization.apply(inputs, self.weight, self.bias, self.eps, self.group)
        self._track(mean, squares / (count - 1))
        return outputs

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Take the statistics of a batch into the running ones, as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


class _Normalization(torch.autograd.Function):
    """The normalization of a share of a batch by the mean and the variance of the batch.

    With x' = (x - mean) / sqrt(variance + eps) and n samples and positions in the batch, the gradient of the inputs is
    weight / sqrt(variance + eps) * (g - sum(g) / n - x' * sum(g * x') / n) [1502.03167]; the sums are over the batch.
    """

    @staticmethod
    def forward(
        context: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalize a share.

        Returns:
            The outputs; of the batch, by channel, the mean and the sum of the squared differences from it; and the
            number of samples and positions in the batch.
        """
        values, axes = _convert(inputs), _list_axes(inputs)
        own_mean = values.mean(axes)
        own_squares = (values - _expand(own_mean, values)).square().sum(axes)
        own_count = own_mean.new_full((1,), values.numel() // values.shape[1])
        gathered = group.gather(torch.cat([own_count, own_mean, own_squares]))
        counts, means, squares = gathered.split([1, len(own_mean), len(own_mean)], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        total_squares = (squares + counts * (means - mean).square()).sum(0)
        scale = (total_squares / count + eps).rsqrt()
        outputs = (values - _expand(mean, values)) * _expand(scale, values)
        if weight is not None:
            outputs = outputs * _expand(weight, values)
        if bias is not None:
            outputs = outputs + _expand(bias, values)
        context.save_for_backward(inputs, weight, mean, scale, count)
        context.group, context.has_bias = group, bias is not None
        context.mark_non_differentiable(mean, total_squares, count)
        return outputs.to(inputs.dtype), mean, total_squares, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, the weight and the bias; those of the last two are of the share alone."""
        inputs, weight, mean, scale, count = context.saved_tensors
        values, gradients, axes = _convert(inputs), _convert(gradient), _list_axes(inputs)
        normalized = (values - _expand(mean, values)) * _expand(scale, values)
        bias_gradient, weight_gradient = gradients.sum(axes), (gradients * normalized).sum(axes)
        sums = torch.cat([bias_gradient, weight_gradient])
        context.group.sum(sums)
        gradient_mean, product_mean = (sums / count).chunk(2)
        factor = scale if weight is None else scale * weight
        input_gradient = _expand(factor, values) * (
            gradients - _expand(gradient_mean, values) - normalized * _expand(product_mean, values)
        )
        return (
            input_gradient.to(inputs.dtype),
            None if weight is None else weight_gradient.to(weight.dtype),
            bias_gradient if context.has_bias else None,
            None,
            None,
        )


def _convert(tensor: Tensor) -> Tensor:
    """Return a tensor in at least single precision, in which torch computes the statistics of a batch too."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _list_axes(inputs: Tensor) -> list[int]:
    return [axis for axis in range(inputs.dim()) if axis != 1]


def _expand(channels: Tensor, inputs: Tensor) -> Tensor:
    """Return a value for each channel in a shape that goes with inputs (N, C, ...)."""
    return channels.view(1, -1, *[1] * (inputs.dim() - 2))
