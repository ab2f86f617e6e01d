"""The channels that may be cut out of a network, and the choice among them by a score for each."""

import copy
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forcetune.errors import InputError
from forcetune.models.preserving import preserve_model
from forcetune.pruning.layers import Rule, allocate
from forcetune.pruning.masks import Masks, permuted, prunable, weight_name
from forcetune.pruning.network import Weights
from forcetune.pruning.tracing import ChannelGroup, TracedNetwork

EXAMPLE_SAMPLES = 2  # the tracing needs shapes, not values; batch norm in eval mode takes any number


class NetworkChannels:
    """The channels that may be cut out of a network, in groups that are kept or cut together.

    Channels that are added, multiplied or normalized together are one group. To cut a channel is to prune all weights
    that compute it (the rows of the layers that write its group, and the filters of depthwise convolutions that pass it
    on), and all weights that read it (columns of the layers behind it). Inputs and outputs of the network are never
    cut, nor are channels that a call which is not understood mixes or reorders. Each group keeps at least one channel.

    Channels are numbered through all groups, in the order of the network; a tensor of channels has (channels,).

    Args:
        model: The network.
        weights: Parameter name to weight, for the weights that may be pruned.
        input_shape: The shape of one sample, without the batch.

    Attributes:
        groups: The groups.
        group_indices: The index of each channel's group, an int tensor.

    Raises:
        InputError: The network cannot be traced, or has no channel that may be cut.
    """

    def __init__(self, model: nn.Module, weights: Weights, input_shape: tuple[int, ...]) -> None:
        self._weights = weights
        self._device = next(iter(weights.values())).device
        self.groups = [
            group for group in _trace_groups(model, weights, input_shape) if not group.fixed and group.readers
        ]
        if not self.groups:
            raise InputError(
                f"no channel of {type(model).__name__} can be cut: each is an input or an output of the network, or "
                "goes through a call that mixes channels; allowed: granularity `weight`"
            )
        sizes = torch.tensor([group.size for group in self.groups])
        self.group_indices = torch.arange(len(sizes)).repeat_interleave(sizes)
        self._writers = {weight_name(name): i for i, group in enumerate(self.groups) for name in group.writers}
        self._passers = {weight_name(name): i for i, group in enumerate(self.groups) for name in group.passers}
        self._readers = {
            weight_name(name): (i, inputs) for i, group in enumerate(self.groups) for name, inputs in group.readers
        }

    def count_weights(self, group_counts: Sequence[int]) -> int:
        """Return the number of weights that are left where each group keeps this number of channels."""
        total = 0
        for name, weight in self._weights.items():
            size = weight.numel()
            if (group := self._writers.get(name, self._passers.get(name))) is not None:
                size = size // len(weight) * group_counts[group]
            if name in self._readers:
                group, inputs = self._readers[name]
                size = size // weight.shape[1] * group_counts[group] * inputs
            total += size
        return total

    def make_masks(self, keep: Tensor, rows_only: bool = False) -> Masks:
        """Return the masks that prune all weights of the channels that are cut.

        Args:
            keep: A bool tensor of channels.
            rows_only: Whether the weights that read a cut channel are kept.
        """
        keep_by_group = self.split(keep.to(self._device))
        masks: Masks = {}
        for name, weight in self._weights.items():
            masks[name] = mask = torch.ones_like(weight, dtype=torch.bool)
            if (group := self._writers.get(name, self._passers.get(name))) is not None:
                mask &= _broadcast(keep_by_group[group], mask, dim=0)
            if name in self._readers and not rows_only:
                group, inputs = self._readers[name]
                mask &= _broadcast(keep_by_group[group].repeat_interleave(inputs), mask, dim=1)
        return masks

    def find_kept(self, masks: Masks) -> Tensor:
        """Return the channels that masks keep, a bool tensor: those with a weight that computes them."""
        return self.sum_rows({name: mask.double() for name, mask in masks.items()}) > 0

    def sum_rows(self, scores: Weights) -> Tensor:
        """Return the sum of the scores of the weights that compute each channel, float64 on the CPU.

        Args:
            scores: Parameter name to scores, in the shape of the weight.
        """
        rows = {name: score.detach().double().flatten(1).sum(1) for name, score in scores.items()}
        return self._sum_layers(rows, self._writers) + self._sum_layers(rows, self._passers)

    def sum_gates(self, derivatives: Weights) -> Tensor:
        """Return the derivative for a gate on each channel, float64 on the CPU.

        One gate stands on the outputs of all layers that write the channel, so its derivative is the sum of theirs.

        Args:
            derivatives: Parameter name of a layer's weight to the derivatives for gates on its outputs, (outputs,).
        """
        return self._sum_layers(derivatives, self._writers)

    def take_first(self, scores: Weights) -> Tensor:
        """Return the score of the first weight that computes each channel: one draw a channel where chance scores."""
        names = {group: name for name, group in reversed(self._writers.items())}
        return torch.cat([scores[names[i]].flatten(1)[:, 0].double().cpu() for i in range(len(self.groups))])

    def rank_in_groups(self, scores: Tensor, shares: Sequence[float]) -> Tensor:
        """Return scores by which each group keeps the same multiple of its share, its channels in the old order.

        Args:
            scores: A score for each channel.
            shares: The share of its channels that each group asks for, up to a common factor.
        """
        ranked = []
        for group_scores, share in zip(self.split(scores), shares, strict=True):
            order = group_scores.argsort(descending=True, stable=True)
            ranks = torch.empty_like(scores[: len(order)])
            ranks[order] = torch.arange(len(order), dtype=scores.dtype) + 0.5
            ranked.append(-ranks / (max(share, 1e-12) * len(order)))
        return torch.cat(ranked).masked_fill(scores == -torch.inf, -torch.inf)

    def find_shares(self, rule: Rule, count: int) -> list[float]:
        """Return the share of its channels that each group keeps where a rule divides `count` weights among layers.

        The density of a layer is about the product of the shares of its outputs and its inputs. The share of a group is
        therefore the square root of the density of the layers that write it, the mean of several.
        """
        layer_counts = allocate(rule, [tuple(weight.shape) for weight in self._weights.values()], count)
        roots = {
            name: (layer_count / weight.numel()) ** 0.5
            for (name, weight), layer_count in zip(self._weights.items(), layer_counts, strict=True)
        }
        return [sum(roots[weight_name(name)] for name in group.writers) / len(group.writers) for group in self.groups]

    def count_kept(self, keep: Tensor) -> list[int]:
        """Return the number of channels that each group keeps."""
        counts: list[int] = self.group_indices[keep.cpu()].bincount(minlength=len(self.groups)).tolist()
        return counts

    def keep_best(self, scores: Tensor, number: int) -> Tensor:
        """Return the channels with the highest scores, a bool tensor; ties go to the lower index.

        The best channel of each group comes first, so that no group is empty where `number` is at least the number of
        groups. Channels with a score of -inf are not kept.

        Args:
            scores: A score for each channel.
            number: The number of channels.
        """
        keep = torch.zeros(len(scores), dtype=torch.bool)
        keep[self._order(scores)[:number]] = True
        return keep

    def keep_within(self, scores: Tensor, count: int) -> Tensor:
        """Return as many of the best channels, a bool tensor, as leave at most `count` weights in the network.

        Args:
            scores: A score for each channel; those of -inf are not kept.
            count: The number of weights.

        Raises:
            InputError: One channel in each group leaves more weights.
        """
        order = self._order(scores)
        groups = self.group_indices[order]

        def count_left(number: int) -> int:
            return self.count_weights(groups[:number].bincount(minlength=len(self.groups)).tolist())

        candidates = range(len(self.groups), len(order) + 1)
        position = bisect_right(candidates, count, key=count_left)
        if position == 0:
            raise InputError(
                f"density {count / self.total:.2g} leaves less than one channel in a layer: one channel in each takes "
                f"{self.smallest_count} of the {self.total} prunable weights; allowed with whole channels: a density "
                f"of at least {self.smallest_density:.2g}"
            )
        return self.keep_best(scores, candidates[position - 1])

    @property
    def total(self) -> int:
        """The number of weights that may be pruned."""
        return sum(weight.numel() for weight in self._weights.values())

    @property
    def smallest_count(self) -> int:
        """The number of weights that are left where each group keeps one channel."""
        return self.count_weights([1] * len(self.groups))

    @property
    def smallest_density(self) -> float:
        """The lowest density, rounded up to two digits."""
        density = self.smallest_count / self.total
        exponent = math.floor(math.log10(density)) - 1
        digits = math.ceil(round(density / 10.0**exponent, 9))
        while int(self.total * float(f"{digits}e{exponent}")) < self.smallest_count:  # the product rounds down
            digits += 1
        return min(float(f"{digits}e{exponent}"), 1.0)

    def _order(self, scores: Tensor) -> Tensor:
        """Return the channels from the best to the worst, the best of each group before all others."""
        order = scores.cpu().argsort(descending=True, stable=True)
        order = order[scores.cpu()[order] > -torch.inf]
        groups = self.group_indices[order]
        leads = torch.zeros(len(order), dtype=torch.bool)
        for i in range(len(self.groups)):
            leads[(groups == i).nonzero()[:1]] = True
        return torch.cat([order[leads], order[~leads]])

    def split(self, channels: Tensor) -> Sequence[Tensor]:
        """Return the parts of a tensor of channels that belong to each group."""
        tensors: tuple[Tensor, ...] = channels.split([group.size for group in self.groups])
        return tensors

    def _sum_layers(self, rows: Weights, layers: dict[str, int]) -> Tensor:
        totals = [torch.zeros(group.size, dtype=torch.float64) for group in self.groups]
        for name, i in layers.items():
            totals[i] += rows[name].detach().double().cpu()
        return torch.cat(totals)


def shuffle_channels(model: nn.Module, masks: Masks, input_shape: tuple[int, ...], seed: int) -> Masks:
    """Permute the channels that masks keep within each group, so that each layer keeps its number of channels.

    Args:
        model: The network.
        masks: Parameter name to mask, of whole channels.
        input_shape: The shape of one sample, without the batch.
        seed: The seed of the permutations.

    Returns:
        Parameter name to mask.

    Raises:
        InputError: The network cannot be traced, or has no channel that may be cut.
    """
    channels = NetworkChannels(model, {name: weight.detach() for name, weight in prunable(model).items()}, input_shape)
    generator = torch.Generator().manual_seed(seed)
    groups = channels.split(channels.find_kept(masks))
    return channels.make_masks(torch.cat([permuted(keep, generator) for keep in groups]))


def _trace_groups(model: nn.Module, weights: Weights, input_shape: tuple[int, ...]) -> list[ChannelGroup]:
    """Return the groups of a network's channels; those of weights that cannot be cut are fixed."""
    weight = next(iter(weights.values()))
    example = torch.zeros((EXAMPLE_SAMPLES, *input_shape), dtype=weight.dtype, device=weight.device)
    try:
        with preserve_model(model), torch.no_grad():
            network = TracedNetwork(copy.deepcopy(model).eval(), example)  # a forward pass may write into its buffers
    except Exception as error:  # tracing runs the user's code, which may do anything
        raise InputError(
            f"{type(model).__name__} cannot be traced ({error}), so that no whole channels can be cut out of it; "
            "allowed: granularity `weight`"
        ) from error
    cuttable = weights.keys() - _find_shared(model) - network.attributes
    for group in network.groups:
        layers = [*group.writers, *group.passers, *(name for name, _ in group.readers)]
        group.fixed |= not group.writers or any(weight_name(name) not in cuttable for name in layers)
    return network.groups


def _find_shared(model: nn.Module) -> set[str]:
    """Return the names of the parameters that several modules share."""
    parameters = list(model.named_parameters(remove_duplicate=False))
    counts = Counter(id(parameter) for _, parameter in parameters)
    return {name for name, parameter in parameters if counts[id(parameter)] > 1}


def _broadcast(keep: Tensor, mask: Tensor, dim: int) -> Tensor:
    return keep.view([-1 if d == dim else 1 for d in range(mask.dim())])
