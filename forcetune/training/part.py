"""The part of a pruned network that is trained: all of it, or what is left without its dead channels."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.training.compaction import Compaction, Obstacle, find_compaction
from forcetune.training.layout import lay_out

log = logging.getLogger(__name__)

# The share of the multiply-adds above which the whole network is trained. On a GPU, where it is not measured, less: a
# smaller network is captured anew, and few of its widths are multiples of what tensor cores take.
PAYS = {"cpu": 0.9, "cuda": 0.5}


class CompactedNetwork:
    """Translates between the network that is trained and the whole one, whose names everybody else speaks.

    input_shape: of one sample; without it, and where dead channels cannot be cut out, all of `model` is trained.
    What is cut out never counts: its weights stay as they were.
    """

    def __init__(self, model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...] | None) -> None:
        self.model = model
        found = _compaction(model, masks, input_shape) if input_shape else None
        self._found = found or Compaction(model, {}, share=1.0, draws=False)
        self.network = self._found.network
        self.masks = {name: self.shrink(name, mask) for name, mask in masks.items()}
        if input_shape:
            lay_out(self.network, input_shape)

    @property
    def share(self) -> float:
        """Of the network's multiply-adds, those that are trained."""
        return self._found.share

    def move_to(self, network: nn.Module) -> None:
        """Train another network of the same architecture in place of the one here, from the same weights."""
        network.load_state_dict(self.network.state_dict())
        self.network = network

    def shrink(self, name: str, whole: Tensor) -> Tensor:
        """What is trained of a tensor of the whole network's shape; `name` is its parameter's or buffer's."""
        return self._found.shrink(name, whole)

    def grow(self, name: str, small: Tensor) -> Tensor:
        """The tensor in the whole network's shape, 0 where nothing is trained."""
        whole = torch.zeros_like(_tensors(self.model)[name], dtype=small.dtype)
        self._found.grow(name, small, whole)
        return whole

    def write_back(self) -> None:
        """Let the whole network have what is trained."""
        if self.network is not self.model:
            whole = _tensors(self.model)
            for name, small in _tensors(self.network).items():
                self._found.grow(name, small, whole[name])

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state of the whole network."""
        self.model.load_state_dict(state)
        if self.network is not self.model:
            self.network.load_state_dict({name: self.shrink(name, tensor) for name, tensor in state.items()})

    def grow_optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state as one of the whole network's would have it."""
        return self._translated(state, self.grow)

    def shrink_optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        """The other way."""
        return self._translated(state, self.shrink)

    def _translated(self, state: dict[str, Any], translate: Any) -> dict[str, Any]:
        names = [name for name, _ in self.model.named_parameters()]
        each = {
            place: {
                key: translate(names[place], value) if isinstance(value, Tensor) and value.dim() else value
                for key, value in remembered.items()
            }
            for place, remembered in state["state"].items()
        }
        return {**state, "state": each}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def _compaction(model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...]) -> Compaction | None:
    """None where it cannot be, or is not worth it."""
    try:
        found = find_compaction(model, masks, input_shape)
    except Obstacle as obstacle:
        log.warning("trained whole: %s", obstacle)
        return None
    pays = found.share < PAYS.get(next(model.parameters()).device.type, 0.0)
    if found.draws and pays:
        log.warning("trained whole: %s has dropout", type(model).__name__)
    return found if pays and not found.draws else None
