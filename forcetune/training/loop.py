"""The training of a pruned network, which yields one dict of metrics an epoch."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forcetune.data import AnyBatches
from forcetune.names import resolve
from forcetune.training.average import Average, find_rungs
from forcetune.training.captured import make_step
from forcetune.training.changes import ChangingMasks
from forcetune.training.cost import TrainingCost
from forcetune.training.evaluation import Metric, evaluate
from forcetune.training.levels import Levels
from forcetune.training.masked import Masked, MaskedDense
from forcetune.training.part import CompactedNetwork
from forcetune.training.step import Loss, Precision, Recipe

LRSchedule = Callable[[float], float]  # of the progress of a training, 0 to 1: a factor of the first learning rate


class Diverged(ArithmeticError):
    """The error of a training whose loss is no longer a finite number."""


def _cosine(progress: float) -> float:
    """Return half a cosine, from 1 to 0 [1608.03983]."""
    return (1 + math.cos(math.pi * progress)) / 2


def _step(progress: float) -> float:
    """Return 1 for half of the steps, then a tenth, and a hundredth after three quarters."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def _constant(progress: float) -> float:
    return 1.0


LR_SCHEDULES: dict[str, LRSchedule] = {"cosine": _cosine, "step": _step, "constant": _constant}
TRAINING_LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}


def find_loss(name: str) -> Loss:
    """Return a training loss by its name.

    Args:
        name: A row of TRAINING_LOSSES, or `package.module:function` of the user's own.

    Returns:
        A function of logits (N, classes) and classes (N,) that returns their mean loss.

    Raises:
        InputError: No such loss is found.
    """
    loss: Loss = resolve(name, TRAINING_LOSSES, "loss")
    return loss


class Training:
    """The training of the weights that `masks` keep; pruned weights are exactly 0 after every step.

    Iterating yields, after each epoch that is left, `epoch` (from 1), `train_loss` (the mean over the epoch's steps)
    and what `evaluate` measures. At the rungs (`find_rungs`) it adds what `evaluate` measures of the averaged weights,
    with `ema_` before each name. Where `input_shape` is given it adds the floating-point operations so far
    (`TrainingCost`), and where a rule changes the masks, `mask_density` and whether it has `settled` (1 or 0). Between
    two epochs `state_dict` is all that the later epochs depend on: a training that loads it continues as if it had
    never stopped.

    Args:
        model: The network. It has the trained weights after each epoch.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        training: The batches of an epoch.
        validation: The batches that `evaluate` measures.
        epochs: The number of epochs.
        lr: The learning rate of the first step.
        lr_schedule: A row of LR_SCHEDULES, which sets the learning rate step by step.
        optimizer: A row of OPTIMIZERS.
        momentum: The momentum of SGD, or the first beta of AdamW.
        weight_decay: The weight decay of the optimizer.
        clip_norm: The bound on the 2-norm of the gradient; None for no bound.
        loss: A function of logits (N, classes) and classes (N,) that returns their mean loss.
        metrics: Functions that `evaluate` calls, by name.
        input_shape: The shape of one sample, without the batch. Where it is given, weights are put in the memory order
            that is quicker, and the network is trained without its dead channels where that saves enough.
        precision: `bf16` (torch's autocast) or `float32`; None takes bf16 on a GPU and float32 elsewhere.
        compiled: Whether torch.compile compiles the network. The first epoch's metrics then have `compile_seconds`.
        architecture: A value that is equal for models that compute the same from the same weights. On a GPU their
            trainings share one captured step, so one training must end before the next begins.
        changes: The rule that changes the masks, with what it needs; None where they stay as they are. `masks` are then
            the masks at the start.

    Raises:
        Diverged: While iterating, where the training loss of an epoch is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: dict[str, Tensor],
        training: AnyBatches,
        validation: AnyBatches,
        *,
        epochs: int,
        lr: float,
        lr_schedule: str = "cosine",
        optimizer: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        clip_norm: float | None = None,
        loss: Loss = functional.cross_entropy,
        metrics: Mapping[str, Metric] | None = None,
        input_shape: tuple[int, ...] | None = None,
        precision: Precision | None = None,
        compiled: bool = False,
        architecture: Hashable = None,
        changes: ChangingMasks | None = None,
    ) -> None:
        self._changes = changes
        self._input_shape = input_shape
        self._architecture = architecture
        self._is_stale = False  # whether the masks have changed since the network was compacted
        keeps_dense_weights = changes is not None and changes.rule.keeps_dense_weights
        if changes:
            changes.masks = masks
        if not keeps_dense_weights:
            Masked(model, masks)
        self._compacted = CompactedNetwork(model, masks, input_shape, is_cut=self._may_cut)
        precision = precision or ("bf16" if next(model.parameters()).is_cuda else "float32")
        self._recipe = Recipe(
            optimizer, momentum, weight_decay, clip_norm, loss, precision, compiled, keeps_dense_weights
        )
        self._step = make_step(self._compacted, self._recipe, architecture)
        self._model = self._compacted.network
        self._cost = TrainingCost(model, masks, input_shape) if input_shape else None
        self._training = training
        self._validation = validation
        rule = changes.rule if changes else None
        self._levels = Levels(epochs, len(training), *((rule.levels, rule.rewind_step) if rule else ()))
        self._rewinding_point: dict[str, Any] = {}
        self._lr = lr
        self._lr_factor = LR_SCHEDULES[lr_schedule]
        self._loss = loss
        self._metrics = metrics or {}
        self._rungs = find_rungs(epochs, lr_schedule)
        self._average = Average(self._model, len(training)) if self._rungs else None
        self.epoch = 0  # the last complete epoch

    def __iter__(self) -> Iterator[dict[str, float]]:
        if self.epoch == 0 and self._changes and self._changes.is_event(0):
            self._change_masks(0, {})
        while self.epoch < self.total_epochs:
            train_loss = self._train_epoch()
            if not math.isfinite(train_loss):
                raise Diverged(f"the training loss became {train_loss} in epoch {self.epoch + 1}")
            measured = self._evaluate()
            if self._step.compile_seconds:  # the network was compiled in this epoch
                measured["compile_seconds"] = self._step.compile_seconds
                self._step.compile_seconds = 0.0
            self.epoch += 1
            averaged = self._evaluate_average() if self.epoch in self._rungs else {}
            self._compacted.write_back()
            yield {
                "epoch": self.epoch,
                "train_loss": train_loss,
                **measured,
                **averaged,
                **(self._cost.metrics() if self._cost else {}),
                **self._describe_masks(),
            }

    def accuracy(self, batches: AnyBatches) -> float:
        """Return the fraction of the images in these batches that the network puts in their class, 0 to 1."""
        return evaluate(self._model, batches, self._loss, autocast=self._step.autocast)["val_accuracy"]

    @property
    def macs_fraction(self) -> float:
        """The fraction of the network's multiply-adds that is trained, 0 to 1."""
        return self._compacted.macs_fraction

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the model, the optimizer, the average, the order of the data and torch's generators."""
        return {
            "epoch": self.epoch,
            "model": self._compacted.model.state_dict(),
            "optimizer": self._compacted.grow_optimizer(self._step.optimizer.state_dict()),
            "average": self._average.state_dict(self._compacted.grow) if self._average else None,
            "order": self._training.state(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            **({"cost": (self._cost.executed, self._cost.sparse)} if self._cost else {}),
            **(self._list_changes() if self._changes else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the epoch at which `state_dict` returned this state.

        Args:
            state: The state, of a training with the same arguments.
        """
        self._compacted.load(state["model"])
        if self._changes:
            self._load_changes(state)
        if self._cost and "cost" in state:
            self._cost.executed, self._cost.sparse = state["cost"]
        self._step.load_optimizer(self._compacted.shrink_optimizer(state["optimizer"]))
        if state["average"] is None:  # the training is past its last rung
            self._average = None
        elif self._average:
            self._average.load_state_dict(state["average"], self._compacted.shrink)
        self._training.restore(state["order"])
        cpu, *cuda = state["generators"]
        torch.set_rng_state(cpu)
        if len(cuda) == torch.cuda.device_count():  # else the state is from another machine
            torch.cuda.set_rng_state_all(cuda)
        self.epoch = state["epoch"]

    @property
    def changes(self) -> ChangingMasks | None:
        """The masks that a rule changes; None where they stay as they are."""
        return self._changes

    @property
    def _may_cut(self) -> bool:
        """Whether dead channels may be cut out: no pruned weight returns, and no decision depends on their weights."""
        if self._changes is None or self._changes.is_settled:
            return True
        return not (self._changes.rule.may_regrow or self._changes.rule.ranks_dead_weights)

    @property
    def total_epochs(self) -> int:
        """The number of epochs, those of all levels included."""
        return self._levels.total_epochs

    def _train_epoch(self) -> float:
        """Train for one epoch and return its mean loss."""
        levels = self._levels
        if levels.begins_level(self.epoch):
            self._change_masks(levels.count_steps(self.epoch), {})
        if self._is_stale:
            self._compact_again()
        position, skipped = levels.locate(self.epoch)
        first_step = levels.count_steps(self.epoch)
        if levels.count > 1 and first_step <= levels.rewind_step:
            self._rewinding_point = {"order": self._training.state()}
        self._model.train()
        losses = []
        for index, (inputs, targets) in enumerate(islice(self._training, skipped, None)):
            if levels.count > 1 and first_step + index == levels.rewind_step:
                self._store_rewinding_point()
            lr = self._lr * self._lr_factor((position + index) / levels.steps)
            losses.append(self._take_step(first_step + index + 1, inputs, targets, lr))
            if self._average:
                self._average.update()
        return float(torch.stack(losses).mean())

    def _store_rewinding_point(self) -> None:
        self._compacted.write_back()
        state = self._compacted.model.state_dict()
        self._rewinding_point["model"] = {name: tensor.clone() for name, tensor in state.items()}

    def _take_step(self, step: int, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Do step number `step`, with the change of masks that a rule makes after it; return the loss."""
        is_event = self._changes is not None and self._changes.is_event(step) and self._levels.count == 1
        rule = self._changes.rule if self._changes and is_event else None
        reads_gradients = rule is not None and (rule.needs_dense_gradient(step) or rule.replaces_step(step))
        if self._cost:
            has_dense_gradient = self._recipe.keeps_dense_weights or reads_gradients
            self._cost.add_step(len(targets), self._compacted.macs_fraction, has_dense_gradient)
        if not reads_gradients:
            loss = self._step(inputs, targets, lr)
            if rule:
                self._change_masks(step, {})
            return loss
        assert rule
        loss = self._step.compute_gradients(inputs, targets)
        gradients = self._copy_gradients()
        if not rule.replaces_step(step):
            self._step.move(lr)
        self._change_masks(step, gradients)
        return loss

    def _copy_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the prunable weights, by parameter name, in the shapes of the whole network."""
        assert self._changes
        parameters = dict(self._model.named_parameters())
        return {
            name: self._compacted.grow(name, gradient.detach().clone())
            for name in self._changes.masks
            if (gradient := parameters[name].grad) is not None
        }

    def _change_masks(self, step: int, gradients: dict[str, Tensor]) -> None:
        """Ask the rule after a step, and put its masks on the network."""
        changes = self._changes
        assert changes
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
        changes = self._changes
        assert changes
        self._compacted.write_back()
        model = self._compacted.model
        if rewind == "weights":
            model.load_state_dict(self._rewinding_point["model"])
            self._training.restore(self._rewinding_point["order"])
        Masked(model, changes.masks)
        self._replace_network(CompactedNetwork(model, changes.masks, self._input_shape, is_cut=self._may_cut))
        self._average = None  # the rungs are those of the first level
        self._is_stale = False

    def _compact_again(self) -> None:
        """Cut the channels that the rule's changes have left dead, once no decision depends on their weights."""
        changes = self._changes
        assert changes
        if not self._may_cut:
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

    def _describe_masks(self) -> dict[str, float]:
        """Return the density of masks that a rule changes, and whether they stay as they are from now on."""
        if not self._changes:
            return {}
        return {"mask_density": self._changes.density, "settled": float(self._changes.is_settled)}

    def _list_changes(self) -> dict[str, Any]:
        """Return the part of the state that a rule needs; the weights underneath are there until they are dropped."""
        assert self._changes
        dense_weights = self._step.masked.dense_weights() if self._recipe.keeps_dense_weights else None
        return {
            "changes": self._changes.state_dict(),
            "dense_weights": dense_weights,
            "rewinding_point": self._rewinding_point,
        }

    def _load_changes(self, state: dict[str, Any]) -> None:
        assert self._changes
        self._changes.load_state_dict(state["changes"])
        self._rewinding_point = state["rewinding_point"]
        masks = {name: self._compacted.shrink(name, mask) for name, mask in self._changes.masks.items()}
        if isinstance(self._step.masked, MaskedDense):
            # a training past its last change has dropped the weights underneath, as this one will
            dense_weights = state["dense_weights"] or {name: state["model"][name] for name in masks}
            self._step.masked.load_dense_weights(dense_weights, masks)
        else:
            self._step.masked.set_masks(masks)
        if self._cost:
            self._cost.set_masks(self._changes.masks)
        self._is_stale = True

    def _evaluate(self) -> dict[str, float]:
        return evaluate(self._model, self._validation, self._loss, self._metrics, self._step.autocast)

    def _evaluate_average(self) -> dict[str, float]:
        assert self._average is not None
        with self._average.swap_in():
            measured = {f"ema_{name}": value for name, value in self._evaluate().items()}
        if self.epoch == max(self._rungs):
            self._average = None  # no later epoch is a rung
        return measured
