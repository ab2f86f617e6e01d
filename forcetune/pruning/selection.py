"""The choice of what a pruning step keeps by its scores: single weights, or whole channels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from forcetune.errors import InputError
from forcetune.pruning.channels import NetworkChannels
from forcetune.pruning.layers import Rule, allocate
from forcetune.pruning.masks import Masks, keep_by_layer, keep_largest, layer_densities, unflatten
from forcetune.pruning.network import Network, Weights


class Selection(ABC):
    """The choice of what each step keeps.

    Args:
        net: The network, whose masks are those of the steps so far.
        layers: The rule for the number of weights of each layer; None where all layers are ranked together.
        invert: Whether the lowest scores are kept.
        resurrect: Whether what was pruned may return.
    """

    def __init__(self, net: Network, layers: Rule | None, invert: bool, resurrect: bool) -> None:
        self._net = net
        self._layers = layers
        self._invert = invert
        self._resurrect = resurrect

    @property
    def scoring_masks(self) -> Masks:
        """The masks of the network that is scored."""
        return self._net.masks

    @abstractmethod
    def flatten(self, scores: Weights, context: str) -> Tensor:
        """Return the scores of all that may be kept, as a flat tensor.

        Args:
            scores: The scores that the saliency returned.
            context: The method and the step, for an error.

        Raises:
            InputError: Scores have other shapes, or are not finite.
        """

    @abstractmethod
    def keep(self, scores: Tensor) -> Masks:
        """Return the masks that keep the highest scores, at most `net.count` weights.

        Args:
            scores: The scores, flat.

        Raises:
            InputError: So few weights cannot be kept, or the channels of the network cannot be traced.
        """


class WeightSelection(Selection):
    """The choice of exactly `net.count` weights."""

    def flatten(self, scores: Weights, context: str) -> Tensor:
        """Return the scores of all weights; `Selection.flatten` describes the arguments."""
        return flatten_scores(scores, find_shapes(self._net.weights), context)

    def keep(self, scores: Tensor) -> Masks:
        """Return the masks with the highest scores; `Selection.keep` describes the arguments."""
        net = self._net
        if self._invert:
            scores = -scores
        if not self._resurrect:
            scores = scores.masked_fill(~torch.cat([mask.flatten() for mask in net.masks.values()]), -torch.inf)
        if self._layers is None:
            return unflatten(keep_largest(scores, net.count), net.weights)
        capacities = None if self._resurrect else [int(mask.sum()) for mask in net.masks.values()]
        counts = allocate(self._layers, list(find_shapes(net.weights).values()), net.count, capacities)
        return keep_by_layer(unflatten(scores, net.weights), counts)


class ChannelSelection(Selection):
    """The choice of whole channels, as many as leave at most `net.count` weights.

    The score of a channel is the sum of the scores of the weights that compute it. Chance draws one number a channel,
    because a sum of many draws would favour some layers. Of gates, it is the absolute value of their derivative.

    Where a channel may return, the network is scored with the weights that read the channel: without them, no gradient
    would reach those that compute it. Where biases and shifts are 0, a ReLU behind the channel still lets no gradient
    pass, because its derivative at 0 is 0.

    Args:
        net: The network.
        layers: The rule for the number of weights of each layer; None where all channels are ranked together.
        invert: Whether the lowest scores are kept.
        resurrect: Whether a channel may return.
        layer_masks: Masks whose number of channels each group copies, in place of a rule; None for none.
        scores_gates: Whether the saliency returns derivatives of gates in place of scores of weights.
        is_random: Whether the saliency draws its scores.
    """

    def __init__(
        self,
        net: Network,
        layers: Rule | None,
        invert: bool,
        resurrect: bool,
        *,
        layer_masks: Masks | None,
        scores_gates: bool,
        is_random: bool,
    ) -> None:
        super().__init__(net, layers, invert, resurrect)
        self._scores_gates = scores_gates
        self._is_random = is_random
        self._layer_masks = layer_masks

    @cached_property
    def _channels(self) -> NetworkChannels:
        """The channels; they are traced once the network has an input shape."""
        return NetworkChannels(self._net.model, self._net.weights, self._net.sample_shape())

    @property
    def scoring_masks(self) -> Masks:
        """The masks of the network that is scored."""
        if not self._resurrect:
            return self._net.masks
        return self._channels.make_masks(self._channels.find_kept(self._net.masks), rows_only=True)

    def flatten(self, scores: Weights, context: str) -> Tensor:
        """Return the scores of all channels; `Selection.flatten` describes the arguments."""
        if self._scores_gates:
            flatten_scores(scores, {name: (len(weight),) for name, weight in self._net.weights.items()}, context)
            return self._channels.sum_gates(scores).abs()
        flatten_scores(scores, find_shapes(self._net.weights), context)
        return self._channels.take_first(scores) if self._is_random else self._channels.sum_rows(scores)

    def keep(self, scores: Tensor) -> Masks:
        """Return the masks of the channels with the highest scores; `Selection.keep` describes the arguments."""
        channels, count = self._channels, self._net.count
        scores = -scores.cpu() if self._invert else scores.cpu()
        if not self._resurrect:
            scores = scores.masked_fill(~channels.find_kept(self._net.masks), -torch.inf)
        if self._layer_masks is not None:
            layer_densities(self._layer_masks, self._net.weights)  # the masks of another network are refused
            copied_counts = [max(k, 1) for k in channels.count_kept(channels.find_kept(self._layer_masks))]
            return channels.make_masks(self._keep_as_copied(scores, copied_counts))
        if self._layers is not None:
            scores = channels.rank_in_groups(scores, channels.find_shares(self._layers, count))
        return channels.make_masks(channels.keep_within(scores, count))

    def _keep_as_copied(self, scores: Tensor, counts: list[int]) -> Tensor:
        """Keep as many channels in each group as the copied masks do; scaled, where the density is another one."""
        channels = self._channels
        sizes = [group.size for group in channels.groups]
        scores = channels.rank_in_groups(scores, [k / size for k, size in zip(counts, sizes, strict=True)])
        next_counts = [min(k + 1, size) for k, size in zip(counts, sizes, strict=True)]
        if channels.count_weights(counts) <= self._net.count < channels.count_weights(next_counts):
            return channels.keep_best(scores, sum(counts))
        return channels.keep_within(scores, self._net.count)


def find_shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def flatten_scores(scores: Weights, shapes: Mapping[str, tuple[int, ...]], context: str) -> Tensor:
    """Return scores as a flat tensor of floats.

    Args:
        scores: Parameter name to scores.
        shapes: Parameter name to the shape that its scores must have.
        context: The method and the step, for an error.

    Raises:
        InputError: Scores have other shapes, or are not finite.
    """
    for name, shape in shapes.items():
        if name not in scores or tuple(scores[name].shape) != shape:
            raise InputError(f"{context}: the score of {name!r} must have the shape {shape}")
    flat = torch.cat([scores[name].detach().flatten() for name in shapes])
    # One sum is quicker than a check of each layer, but finite scores may overflow in it
    if not torch.isfinite(flat.sum()):
        for name in shapes:
            if not torch.isfinite(scores[name]).all():
                raise InputError(f"{context}: the scores of {name!r} are not finite")
    return flat if flat.is_floating_point() else flat.double()  # integers have no -inf, the score of what is pruned
