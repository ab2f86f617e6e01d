"""The training of a network whose masks a rule changes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from forcetune.data import AnyBatches
from forcetune.training.average import Average
from forcetune.training.captured import make_step
from forcetune.training.changes import ChangingMasks
from forcetune.training.loop import Diverged, Training
from forcetune.training.masked import Masked, MaskedDense
from forcetune.training.part import CompactedNetwork


class RuledTraining(Training):
    """A training whose masks a rule changes; `masks` are those at its start.

    The rule decides after some steps, and this class carries the decision out: it sets pruned weights and their state
    in the optimizer to 0, keeps dense weights underneath, rewinds weights where a level begins, and cuts dead channels
    out once no decision depends on them. Each epoch's metrics have `mask_density` and whether the masks have `settled`
    (1 or 0) besides those of `Training`.

    Args:
        model: The network. It has the trained weights after each epoch.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        batches: The batches of an epoch, and those that are measured.
        changes: The rule, with what it needs.
        arguments: The other arguments of `Training`, by keyword.

    Raises:
        Diverged: While iterating, where a loss or a weight that the rule is to see is not finite.
        ValueError: While iterating, where the rule returns masks that it must not.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: dict[str, Tensor],
        *batches: AnyBatches,
        changes: ChangingMasks,
        **arguments: Any,
    ) -> None:
        self.changes = changes
        changes.masks, changes.input_shape = masks, arguments.get("input_shape") or ()
        self.keeps_dense_weights = changes.rule.keeps_dense_weights
        super().__init__(model, masks, *batches, **arguments)
        self._levels = replace(self._levels, count=changes.rule.levels, rewind_step=changes.rule.rewind_step)
        self._input_shape = arguments.get("input_shape")
        self._architecture = arguments.get("architecture")
        self._is_stale = False  # whether the masks have changed since the network was compacted
        self._rewinding_point: dict[str, Any] = {}

    @property
    def may_cut(self) -> bool:  # type: ignore[override]
        """Whether dead channels may be cut out: no pruned weight returns, and no decision depends on their weights."""
        rule = self.changes.rule
        return self.changes.is_settled or not (rule.may_regrow or rule.ranks_dead_weights)

    def __iter__(self) -> Iterator[dict[str, float]]:
        if self.epoch == 0 and self.changes.is_event(0):
            self._change_masks(0, {})
        for metrics in super().__iter__():
            yield {**metrics, "mask_density": self.changes.density, "settled": float(self.changes.is_settled)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a training, with the masks, the weights underneath and the rewinding point."""
        dense_weights = self._step.masked.dense_weights() if self._recipe.keeps_dense_weights else None
        return {
            **super().state_dict(),
            "changes": self.changes.state_dict(),
            "dense_weights": dense_weights,
            "rewinding_point": self._rewinding_point,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state_dict` returned this state.

        Args:
            state: The state, of a training with the same arguments.
        """
        super().load_state_dict(state)
        self.changes.load_state_dict(state["changes"])
        self._rewinding_point = state["rewinding_point"]
        masks = {name: self._compacted.shrink(name, mask) for name, mask in self.changes.masks.items()}
        if isinstance(self._step.masked, MaskedDense):
            # a training past its last change has dropped the weights underneath, as this one will
            dense_weights = state["dense_weights"] or {name: state["model"][name] for name in masks}
            self._step.masked.load_dense_weights(dense_weights, masks)
        else:
            self._step.masked.set_masks(masks)
        if self._cost:
            self._cost.set_masks(self.changes.masks)
        self._is_stale = True

    def _begin_epoch(self) -> None:
        first_step = self._levels.count_steps(self.epoch)
        if self._levels.begins_level(self.epoch):
            self._change_masks(first_step, {})
        if self._is_stale:
            self._compact_again()
        if self._levels.count > 1 and first_step <= self._levels.rewind_step:
            self._rewinding_point = {"order": self._training.state()}

    def _take_step(self, step: int, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Do step number `step` of all levels, with the change of masks that follows it; return the loss."""
        rule, levels = self.changes.rule, self._levels
        if levels.count > 1 and step - 1 == levels.rewind_step:
            self._store_rewinding_point()
        is_event = levels.count == 1 and self.changes.is_event(step)  # else the masks change where a level begins
        reads_gradients = is_event and (rule.needs_dense_gradient(step) or rule.replaces_step(step))
        self._add_cost(len(targets), self._recipe.keeps_dense_weights or reads_gradients)
        gradients: dict[str, Tensor] = {}
        if reads_gradients:
            loss = self._step.compute_gradients(inputs, targets)
            gradients = self._copy_gradients()
            if not rule.replaces_step(step):
                self._step.move(lr)
        else:
            loss = self._step(inputs, targets, lr)
        if is_event:
            self._change_masks(step, gradients)
        return loss

    def _store_rewinding_point(self) -> None:
        self._compacted.write_back()
        state = self._compacted.model.state_dict()
        self._rewinding_point["model"] = {name: tensor.clone() for name, tensor in state.items()}

    def _copy_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the prunable weights, by parameter name, in the shapes of the whole network.

        A weight that the batch did not use has the gradient 0.
        """
        parameters = dict(self._model.named_parameters())
        gradients = {}
        for name in self.changes.masks:
            weight = parameters[name]
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            gradients[name] = self._compacted.grow(name, gradient.detach().clone())
        return gradients

    def _change_masks(self, step: int, gradients: dict[str, Tensor]) -> None:
        """Ask the rule after a step, and put its masks on the network."""
        changes = self.changes
        self._compacted.write_back()
        parameters = dict(self._compacted.model.named_parameters())
        weights = {name: parameters[name].detach() for name in changes.masks}
        if self._recipe.keeps_dense_weights:  # such a network is never compacted
            weights = self._step.masked.dense_weights()
        if not all(torch.isfinite(weight).all() for weight in weights.values()):
            raise Diverged(f"the weights were not finite after step {step}")
        change = changes.change(step, self._compacted.model, weights, gradients, self._find_optimizer_state)
        if change is None:
            return
        masks = {name: self._compacted.shrink(name, mask) for name, mask in changes.masks.items()}
        self._step.masked.set_masks(masks, self._step.optimizer)
        if self._model is not self._compacted.model:  # what was cut out of it may be pruned too
            Masked(self._compacted.model, changes.masks)
        if self._average:
            self._average.mask(masks)
        if self._cost:
            self._cost.set_masks(changes.masks)
        self._is_stale = True
        if change.rewind:
            self._begin_level(change.rewind)
        elif changes.is_settled and self._recipe.keeps_dense_weights:
            self._compact_again()
            self._model.train()

    def _find_optimizer_state(self, name: str) -> dict[str, Tensor]:
        """Return the optimizer's tensors of a weight, in the shape of the whole network."""
        state = self._step.optimizer.state[dict(self._model.named_parameters())[name]]
        return {
            key: self._compacted.grow(name, value)
            for key, value in state.items()
            if isinstance(value, Tensor) and value.dim()
        }

    def _begin_level(self, rewind: str) -> None:
        """Begin a level: rewind what the rule asks for, with an optimizer and an average that begin anew."""
        changes = self.changes
        self._compacted.write_back()
        model = self._compacted.model
        if rewind == "weights":
            model.load_state_dict(self._rewinding_point["model"])
            self._training.restore(self._rewinding_point["order"])
        Masked(model, changes.masks)
        self._replace_network(CompactedNetwork(model, changes.masks, self._input_shape, is_cut=self.may_cut))
        self._average = None  # the rungs are those of the first level
        self._is_stale = False

    def _compact_again(self) -> None:
        """Cut the channels that the rule's changes have left dead, once no decision depends on their weights."""
        changes = self.changes
        if not self.may_cut:
            return
        self._is_stale = False
        self._compacted.write_back()
        compacted = CompactedNetwork(self._compacted.model, changes.masks, self._input_shape)
        # once the masks have settled, the weights underneath cannot return
        keeps_dense_weights = self._recipe.keeps_dense_weights and not changes.is_settled
        is_same = compacted.macs_fraction == self._compacted.macs_fraction  # since the masks only shrink
        if is_same and keeps_dense_weights == self._recipe.keeps_dense_weights:
            return
        optimizer_state = self._compacted.grow_optimizer(self._step.optimizer.state_dict())
        average_state = self._average.state_dict(self._compacted.grow) if self._average else None
        self._recipe = replace(self._recipe, keeps_dense_weights=keeps_dense_weights)
        self._replace_network(compacted)
        self._step.load_optimizer(compacted.shrink_optimizer(optimizer_state))
        self._step.masked.set_masks(compacted.masks, self._step.optimizer)
        if average_state:
            self._average = Average(self._model, len(self._training))
            self._average.load_state_dict(average_state, compacted.shrink)

    def _replace_network(self, compacted: CompactedNetwork) -> None:
        """Train another part of the network, with an optimizer that begins anew."""
        self._compacted = compacted
        self._step = make_step(compacted, self._recipe, self._architecture)
        self._model = compacted.network
