"""The data-parallel training of a pruned network: several processes share each batch, and all take the same step.

The gradients are summed here, and not by torch's DistributedDataParallel, for three reasons. The gradients of pruned
weights are not sent at all. The network that is trained stays the module that it is, which compaction, masks and
checkpoints name the parameters of. And a batch need not divide into equal shares.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forcetune.data import AnyBatches
from forcetune.training.loop import Training
from forcetune.training.processes import LostProcessError, ProcessGroup
from forcetune.training.shared_norm import Share, share_norms
from forcetune.training.step import Recipe, Step


class ParallelTraining(Training):
    """A training by several processes, of which each computes its share of every batch.

    The losses and the weights are those of one process with the whole batches, to rounding, but for dropout, which
    each process draws by itself. The first process measures the network; the others yield their epochs with the
    training loss alone.

    Args:
        model: The network. It has the trained weights after each epoch.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        batches: The shares of the batches of an epoch, and the batches that are measured.
        group: The processes.
        seed: The seed of dropout in the processes after the first.
        shares_norms: Whether batch norm takes the statistics of the whole batch, and not those of each share.
        arguments: The other arguments of `Training`, by keyword.

    Raises:
        Diverged: While iterating, in all processes, where the training loss of an epoch is not finite.
        LostProcessError: While iterating, where another process has ended or does not answer.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: dict[str, Tensor],
        *batches: AnyBatches,
        group: ProcessGroup,
        seed: int,
        shares_norms: bool,
        **arguments: Any,
    ) -> None:
        self._group = group
        self._seed = seed
        self._share = Share()
        self._shares_norms = shares_norms
        super().__init__(model, masks, *batches, **arguments)
        if group.rank:
            self._rungs, self._average = {}, None

    def _make_step(self, architecture: Hashable) -> Step:
        network = self._compacted.network
        if self._shares_norms:
            share_norms(network, self._group, self._share)
        return ParallelStep(network, self._compacted.masks, self._recipe, self._group, self._share)

    def _begin_epoch(self) -> None:
        """Give all processes the weights of the first one, and each process a dropout of its own.

        The weights are the same already where all processes run on the same kind of device.
        """
        tensors = [*self._model.parameters(), *self._model.buffers()]
        count = torch.tensor([sum(tensor.numel() for tensor in tensors)], device=tensors[0].device)
        counts = self._group.gather(count).flatten().tolist()
        if len(set(counts)) > 1:
            raise LostProcessError(f"the processes of the trial would train networks of {counts} numbers")
        self._group.broadcast(tensors)
        if self._group.rank:
            words = np.random.SeedSequence((self._seed, self._group.rank, self.epoch)).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))

    def _take_step(self, step: int, inputs: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Do step number `step`, counted from 1; return the loss of the whole batch."""
        samples = self._training.count_samples((step - 1) % len(self._training))
        self._add_cost(samples)
        self._share.fraction = len(targets) / samples
        try:
            return self._step(inputs, targets, lr)
        finally:
            self._share.fraction = 1.0  # whoever runs the network next has all samples

    def _evaluate(self) -> dict[str, float]:
        return {} if self._group.rank else super()._evaluate()


class ParallelStep(Step):
    """A training step of several processes: each computes the gradients of its share, and all move by their sum.

    The loss of a batch is the mean over its samples, so a share counts by its fraction of them. A batch that is not
    split needs no exchange, since each process computes all of it.

    Args:
        network: The network that is trained.
        masks: Its masks, by parameter name.
        recipe: The settings of the training.
        group: The processes.
        share: The share that this process has of the current batch.
    """

    def __init__(
        self, network: nn.Module, masks: dict[str, Tensor], recipe: Recipe, group: ProcessGroup, share: Share
    ) -> None:
        super().__init__(network, masks, recipe)
        self._group = group
        self._share = share
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._weights = list(trained.values())
        self._kept = [_find_kept(weight, masks.get(name)) for name, weight in trained.items()]
        self._dtype = torch.float32
        for weight in self._weights:
            self._dtype = torch.promote_types(self._dtype, weight.dtype)

    def _compute_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self.autocast():
            loss = self._recipe.loss(self.network(inputs), targets) * self._share.fraction
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return self._sum_gradients(loss.detach()) if self._share.is_split else loss.detach()

    def _sum_gradients(self, loss: Tensor) -> Tensor:
        """Sum the loss and the gradients over the processes, in one exchange; return the loss of the batch.

        A pruned weight keeps the gradient of this process's share, which its mask sets to 0 next.
        """
        is_present = [weight.grad is not None for weight in self._weights]
        gradients = [self._select_gradient(*pair) for pair in zip(self._weights, self._kept, strict=True)]
        flat = torch.cat([loss.view(1).to(self._dtype), loss.new_tensor(is_present, dtype=self._dtype), *gradients])
        self._group.sum(flat)
        total_loss, present_counts, *sums = flat.split([1, len(is_present), *map(len, gradients)])
        for index, (weight, kept, total) in enumerate(zip(self._weights, self._kept, sums, strict=True)):
            if weight.grad is None:
                if not present_counts[index]:  # no process uses this weight
                    continue
                weight.grad = torch.zeros_like(weight)
            if kept is None:
                _flatten(weight.grad).copy_(total)
            else:
                _flatten(weight.grad).index_copy_(0, kept, total.to(weight.dtype))
        batch_loss: Tensor = total_loss[0]
        return batch_loss

    def _select_gradient(self, weight: Tensor, kept: Tensor | None) -> Tensor:
        """Return the gradient of a weight as it is sent: flat, and without the pruned weights."""
        if weight.grad is None:
            return weight.new_zeros(weight.numel() if kept is None else len(kept), dtype=self._dtype)
        if weight.grad.stride() != weight.stride():
            weight.grad = torch.empty_like(weight.detach()).copy_(weight.grad)
        gradient: Tensor = _flatten(weight.grad)
        return (gradient if kept is None else gradient.index_select(0, kept)).to(self._dtype)


def _find_kept(weight: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the positions of the kept weights in the memory order of a weight; None where nothing is pruned."""
    if mask is None or bool(mask.all()):
        return None
    ordered = torch.empty_like(weight.detach(), dtype=torch.bool).copy_(mask)
    return _flatten(ordered).nonzero().flatten()


def _flatten(tensor: Tensor) -> Tensor:
    """Return a flat view of a tensor without gaps, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))
