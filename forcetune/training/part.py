"""The network that is trained in place of a pruned one: all of it, or what is left without its dead channels."""

import logging
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.models.preserving import list_tensors
from forcetune.training.compaction import Compaction, CompactionError, find_compaction
from forcetune.training.layout import lay_out

log = logging.getLogger(__name__)

# The fraction of the multiply-adds above which the whole network is trained, by device. It is lower on a GPU, where it
# is not measured: a smaller network is captured anew, and few of its widths are multiples of what tensor cores take.
MAX_COMPACTED_FRACTION = {"cpu": 0.9, "cuda": 0.5}


class CompactedNetwork:
    """The network that is trained, with translations from and to the whole network, which all other code uses.

    Weights that are cut out have no effect on the outputs, and stay as they are.

    Args:
        model: The whole network.
        masks: Its masks, by parameter name.
        input_shape: The shape of one sample, without the batch. All of `model` is trained without it, and where dead
            channels cannot be cut out.
        is_cut: Whether dead channels are cut out at all; not where pruned weights may return.

    Attributes:
        model: The whole network.
        network: The network that is trained; `model` itself where nothing is cut out.
        masks: The masks of `network`.
    """

    def __init__(
        self, model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...] | None, is_cut: bool = True
    ) -> None:
        self.model = model
        compaction = _find_worthwhile_compaction(model, masks, input_shape) if input_shape and is_cut else None
        self._compaction = compaction or Compaction(model, {}, macs_fraction=1.0, has_dropout=False)
        self.network = self._compaction.network
        self.masks = {name: self.shrink(name, mask) for name, mask in masks.items()}
        if input_shape:
            lay_out(self.network, input_shape)

    @property
    def macs_fraction(self) -> float:
        """The fraction of the whole network's multiply-adds that is trained, 0 to 1."""
        return self._compaction.macs_fraction

    def move_to(self, network: nn.Module) -> None:
        """Train another network of the same architecture in place of `network`, from the same weights."""
        network.load_state_dict(self.network.state_dict())
        self.network = network

    def shrink(self, name: str, tensor: Tensor) -> Tensor:
        """Return the trained part of a tensor in the whole network's shape; `name` is its parameter's or buffer's."""
        return self._compaction.shrink(name, tensor)

    def grow(self, name: str, small: Tensor) -> Tensor:
        """Return a trained tensor in the whole network's shape, 0 where nothing is trained."""
        tensor = torch.zeros_like(attrgetter(name)(self.model), dtype=small.dtype)
        self._compaction.grow(name, small, tensor)
        return tensor

    def write_back(self) -> None:
        """Write the trained weights and buffers into the whole network."""
        if self.network is not self.model:
            tensors = list_tensors(self.model)
            for name, small in list_tensors(self.network).items():
                self._compaction.grow(name, small, tensors[name])

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a `state_dict` of the whole network."""
        self.model.load_state_dict(state)
        if self.network is not self.model:
            self.network.load_state_dict({name: self.shrink(name, tensor) for name, tensor in state.items()})

    def grow_optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of an optimizer of `network` in the shapes of the whole network."""
        return self._translate_optimizer(state, self.grow)

    def shrink_optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of an optimizer of the whole network in the shapes of `network`."""
        return self._translate_optimizer(state, self.shrink)

    def _translate_optimizer(self, state: dict[str, Any], translate: Any) -> dict[str, Any]:
        names = [name for name, _ in self.model.named_parameters()]
        translated = {
            index: {
                key: translate(names[index], value) if isinstance(value, Tensor) and value.dim() else value
                for key, value in weight_state.items()
            }
            for index, weight_state in state["state"].items()
        }
        return {**state, "state": translated}


def _find_worthwhile_compaction(
    model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...]
) -> Compaction | None:
    """Return the compaction of a network; None where it is not possible, or saves too little."""
    try:
        compaction = find_compaction(model, masks, input_shape)
    except CompactionError as error:
        log.warning("the network is trained without compaction: %s", error)
        return None
    is_worthwhile = compaction.macs_fraction < MAX_COMPACTED_FRACTION.get(next(model.parameters()).device.type, 0.0)
    if compaction.has_dropout and is_worthwhile:
        log.warning("the network is trained without compaction: %s has dropout", type(model).__name__)
    return compaction if is_worthwhile and not compaction.has_dropout else None
