"""The cost of a training in floating-point operations: executed, and what ideal hardware would execute."""

from collections.abc import Mapping

from torch import Tensor, nn

from forcetune.pruning import dense_macs

FLOPS_PER_MAC = 2  # a multiplication and an addition
BACKWARD_PASSES = 2  # the gradients of the inputs and those of the weights, each as large as the forward pass
MAX_EPOCHS_FACTOR = 4  # of the epochs that a cheaper network may train at equal compute


def stretch_epochs(epochs: int, cost_fraction: float) -> int:
    """Return the epochs that cost as much as the dense network's: at least 1, at most MAX_EPOCHS_FACTOR times as many.

    Args:
        epochs: The epochs of the dense network.
        cost_fraction: The operations of an epoch as a fraction of the dense network's.
    """
    most = MAX_EPOCHS_FACTOR * epochs
    return max(1, min(int(epochs / cost_fraction + 1e-9), most)) if cost_fraction else most


class TrainingCost:
    """The floating-point operations of the training steps so far.

    A step costs three times its forward pass: the forward pass, the gradient of the inputs and the gradient of the
    weights. Convolutions and linear layers count, two operations for a multiply-add; norms, activations and the
    optimizer do not.

    Args:
        model: The network.
        masks: Its masks, by parameter name.
        input_shape: The shape of one sample, without the batch.

    Attributes:
        executed: The operations of the networks that were trained, dense or without their dead channels.
        sparse: The operations of hardware that skips every pruned weight. The gradient of the weights is dense there
            where a rule reads it.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> None:
        self.executed = 0.0
        self.sparse = 0.0
        self._layer_macs = dense_macs(model, input_shape)
        self._macs = sum(self._layer_macs.values())
        self.set_masks(masks)

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Count the later steps with other masks."""
        densities = {name: int(mask.sum()) / mask.numel() for name, mask in masks.items()}
        self._sparse_macs = sum(macs * densities.get(name, 1.0) for name, macs in self._layer_macs.items())

    def add_step(self, samples: int, macs_fraction: float, has_dense_gradient: bool) -> None:
        """Add a training step.

        Args:
            samples: The number of samples in the batch.
            macs_fraction: The fraction of the dense network's multiply-adds that was executed.
            has_dense_gradient: Whether the step needs the gradients of pruned weights.
        """
        self.executed += FLOPS_PER_MAC * samples * self._macs * macs_fraction * (1 + BACKWARD_PASSES)
        weight_gradient_macs = self._macs if has_dense_gradient else self._sparse_macs
        self.sparse += FLOPS_PER_MAC * samples * (BACKWARD_PASSES * self._sparse_macs + weight_gradient_macs)

    def metrics(self) -> dict[str, float]:
        """Return the metrics `training_flops` and `training_flops_sparse`."""
        return {"training_flops": self.executed, "training_flops_sparse": self.sparse}
