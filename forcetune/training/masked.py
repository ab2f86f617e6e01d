"""Masks that keep pruned weights at exactly 0 while an optimizer runs."""

import torch
from torch import Tensor, nn


class Masked:
    """The masks of a model in training; making them sets the pruned weights to 0.

    Gradients are masked before they are clipped, so that pruned weights do not count in the norm. Weights are masked
    after the step, since momentum and weight decay move a weight without a gradient. Momentum is cleared where other
    masks prune a weight (`set_masks`).

    Args:
        model: The network that is trained.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
    """

    def __init__(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self._names = list(masks)
        self._weights: list[Tensor] = [parameters[name] for name in self._names]
        # In the memory order of the weights, since torch takes the products one by one otherwise.
        self._factors = [torch.empty_like(weight.detach()) for weight in self._weights]
        self.begin(masks)

    def begin(self, masks: dict[str, Tensor]) -> None:
        """Put masks on the weights that the model has now, at the start of a training."""
        self.set_masks(masks)

    def set_masks(self, masks: dict[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set other masks, and set the weights that they prune to 0.

        Args:
            masks: The masks, of the same parameters as before.
            optimizer: An optimizer, whose state of each pruned weight is set to 0 too.
        """
        for name, factor in zip(self._names, self._factors, strict=True):
            factor.copy_(masks[name])
        self.weights()
        if optimizer:
            for weight, factor in zip(self._weights, self._factors, strict=True):
                for value in optimizer.state[weight].values():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        value.mul_(factor)

    def dense_weights(self) -> dict[str, Tensor]:
        """Return the weights that the masks are put on, by parameter name; pruned ones are 0 here."""
        return {name: weight.detach() for name, weight in zip(self._names, self._weights, strict=True)}

    def gradients(self) -> None:
        """Zero the gradients of pruned weights."""
        pairs = [(w.grad, f) for w, f in zip(self._weights, self._factors, strict=True) if w.grad is not None]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [factor for _, factor in pairs])

    @torch.no_grad()
    def weights(self) -> None:
        """Zero the pruned weights."""
        torch._foreach_mul_(self._weights, self._factors)


class MaskedDense(Masked):
    """The masks of a model whose dense weights stay underneath and go on training [2006.07253].

    The model holds weight * mask between the steps. The gradient at that point moves the dense weights, pruned ones
    included, with their momentum and weight decay.

    Args:
        model: The network that is trained.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
    """

    def __init__(self, model: nn.Module, masks: dict[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self._dense = [parameters[name].detach().clone() for name in masks]
        super().__init__(model, masks)

    @torch.no_grad()
    def begin(self, masks: dict[str, Tensor]) -> None:
        """Take the weights that the model has now underneath, and put masks on them."""
        torch._foreach_copy_(self._dense, self._weights)
        self.set_masks(masks)

    @torch.no_grad()
    def set_masks(self, masks: dict[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set other masks. The dense weights and the state of the optimizer stay."""
        for name, factor in zip(self._names, self._factors, strict=True):
            factor.copy_(masks[name])
        torch._foreach_copy_(self._weights, self._dense)
        torch._foreach_mul_(self._weights, self._factors)

    def dense_weights(self) -> dict[str, Tensor]:
        """Return the weights underneath, by parameter name."""
        return dict(zip(self._names, self._dense, strict=True))

    @torch.no_grad()
    def load_dense_weights(self, weights: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
        """Take over weights underneath and masks, by parameter name."""
        for name, dense in zip(self._names, self._dense, strict=True):
            dense.copy_(weights[name])
        self.set_masks(masks)

    @torch.no_grad()
    def gradients(self) -> None:
        """Give the model its dense weights, which the gradients are to move."""
        torch._foreach_copy_(self._weights, self._dense)

    @torch.no_grad()
    def weights(self) -> None:
        """Take the moved weights underneath, and give the model weight * mask."""
        torch._foreach_copy_(self._dense, self._weights)
        torch._foreach_mul_(self._weights, self._factors)


def hold(optimizer: torch.optim.Optimizer, model: nn.Module, masks: dict[str, Tensor]) -> Masked:
    """Keep pruned weights at 0 through every step of an optimizer, for a training loop of the user's own.

    The gradients of pruned weights are set to 0 before each step, and the weights after it. A loop that clips gradients
    calls `.gradients()` of the returned object before it clips, so that pruned weights do not count in the norm.

    Args:
        optimizer: The optimizer of the loop.
        model: The network that the loop trains.
        masks: A bool tensor for each masked parameter, by its name; True keeps.

    Returns:
        The masks of the model.
    """
    masked = Masked(model, masks)
    optimizer.register_step_pre_hook(lambda *arguments: masked.gradients())
    optimizer.register_step_post_hook(lambda *arguments: masked.weights())
    return masked
