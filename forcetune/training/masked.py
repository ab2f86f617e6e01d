"""Holding pruned weights at exactly zero while an optimizer runs."""

import torch
from torch import Tensor, nn


class Masked:
    """The masks of a model in training.

    Gradients are masked before clipping, so that pruned weights do not count in the norm; weights are masked
    after the step, since momentum and weight decay move what has no gradient; momentum is cleared where a
    mask changes.
    """

    def __init__(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self._names = list(masks)
        self._weights: list[Tensor] = [parameters[name] for name in self._names]
        # in the weights' order in memory, or the products are taken one by one
        self._factors = [torch.empty_like(weight.detach()) for weight in self._weights]
        self.change(masks)

    def change(self, masks: dict[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put these masks in force now; with an optimizer, also on what it remembers of each weight."""
        for name, factor in zip(self._names, self._factors, strict=True):
            factor.copy_(masks[name])
        self.weights()
        if optimizer:
            for weight, factor in zip(self._weights, self._factors, strict=True):
                for remembered in optimizer.state[weight].values():
                    if isinstance(remembered, Tensor) and remembered.shape == weight.shape:
                        remembered.mul_(factor)

    def gradients(self) -> None:
        """Zero the gradients of pruned weights."""
        pairs = [(w.grad, f) for w, f in zip(self._weights, self._factors, strict=True) if w.grad is not None]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [factor for _, factor in pairs])

    @torch.no_grad()
    def weights(self) -> None:
        """Zero the pruned weights."""
        torch._foreach_mul_(self._weights, self._factors)


def hold(optimizer: torch.optim.Optimizer, model: nn.Module, masks: dict[str, Tensor]) -> Masked:
    """Let an optimizer's every step leave pruned weights at 0: for training loops of one's own.

    Their gradients are zeroed before the step and the weights after it; a loop that clips gradients calls
    `.gradients()` of what is returned before it clips, so that pruned weights do not count in the norm.
    """
    held = Masked(model, masks)
    optimizer.register_step_pre_hook(lambda *called: held.gradients())
    optimizer.register_step_post_hook(lambda *called: held.weights())
    return held
