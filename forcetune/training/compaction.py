"""The compaction of a pruned network to the channels that matter: the same function, physically smaller.

A channel is cut out where it counts for no layer that reads it: all weights by which the layer reads it are pruned, or
the channel is 0 there and stays 0 in training. The latter needs more than pruned weights in front of the channel: every
bias and every shift of a norm on its way is 0, and no gradient reaches one of them (`_find_zeros`). Groups of channels
are kept or cut together (`forcetune.pruning.tracing`).
"""

import copy
import logging
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from forcetune.pruning.masks import weight_name
from forcetune.pruning.tracing import (
    BATCH_NORMS,
    NONZERO_AT_ZERO_CALLS,
    NONZERO_AT_ZERO_MODULES,
    RELU_CALLS,
    RELU_MODULES,
    ChannelGroup,
    TracedNetwork,
    get_shape,
    is_call,
)

log = logging.getLogger(__name__)

COMPARED_SAMPLES = 8  # on which a network and its compaction are compared
MAX_RELATIVE_ERROR = 1e-4  # of the distances between the outputs for different samples; deep networks lose ten digits
# Relative to the size of the outputs: the error of float64, and the distance below which outputs differ by it alone.
FLOAT64_ERROR, DEAD_DISTANCE = 1e-13, 1e-14
SHIFTING_MODULES = (nn.Conv2d, nn.Linear, *BATCH_NORMS)  # they may add a constant to each channel


@dataclass
class Compaction:
    """A network without its dead channels, and what its tensors are in those of the whole network.

    Attributes:
        network: A copy of the whole network without the dead channels, in the same mode.
        kept_indices: The indices that are kept in each dimension, by the name of a parameter or buffer; nothing for
            dimensions and tensors that are kept whole.
        macs_fraction: The fraction of the multiply-adds that is left, 0 to 1.
        has_dropout: Whether the network has dropout, which draws other numbers in a smaller network.
    """

    network: nn.Module
    kept_indices: dict[str, dict[int, Tensor]]
    macs_fraction: float
    has_dropout: bool

    def shrink(self, name: str, tensor: Tensor) -> Tensor:
        """Return the part of a whole network's tensor that the small network has.

        Args:
            name: The name of a parameter or buffer.
            tensor: A tensor in its shape in the whole network.

        Returns:
            The tensor in its shape in the small network.
        """
        for dim, indices in self.kept_indices.get(name, {}).items():
            tensor = tensor.index_select(dim, indices.to(tensor.device))
        return tensor

    def grow(self, name: str, small: Tensor, tensor: Tensor) -> None:
        """Write a small network's tensor into a whole network's tensor, which otherwise stays as it is.

        Args:
            name: The name of a parameter or buffer.
            small: A tensor in its shape in the small network.
            tensor: The tensor to write into, in its shape in the whole network.
        """
        indices_by_dim = self.kept_indices.get(name)
        if not indices_by_dim:
            tensor.data.copy_(small)
            return
        index = [
            indices_by_dim.get(dim, torch.arange(size)).to(tensor.device) for dim, size in enumerate(tensor.shape[:2])
        ]
        if len(index) == 2:
            index[0] = index[0][:, None]
        tensor.data[tuple(index)] = small.to(tensor.dtype)


class CompactionError(ValueError):
    """The error of a network whose dead channels cannot be cut out."""


def compact(model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...]) -> nn.Module:
    """Return a copy of a pruned network, in eval mode, without its dead channels.

    Where the network cannot be traced, or the smaller copy does not compute the same, the copy is the masked network at
    its full size, and the log says so.

    Args:
        model: The network.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        input_shape: The shape of one sample, without the batch.

    Returns:
        The copy.
    """
    try:
        return find_compaction(model, masks, input_shape).network.eval()
    except CompactionError as error:
        log.warning("the network is not compacted: %s", error)
        return _copy_masked(model, masks).eval()


def find_compaction(
    model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...], channel_multiple: int = 1
) -> Compaction:
    """Cut the dead channels out of a copy of a pruned network.

    Args:
        model: The network.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        input_shape: The shape of one sample, without the batch.
        channel_multiple: The number of channels that a layer keeps is a multiple of this, or all of them. As few dead
            channels as possible stay for it. Runtimes have fast paths for such numbers.

    Returns:
        The smaller copy, with the indices of its tensors in those of `model`.

    Raises:
        CompactionError: The network cannot be traced, or the smaller copy does not compute the same.
    """
    model_name = type(model).__name__
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise CompactionError(f"layers of {model_name} share their weights")
    parameter = next(model.parameters())
    example = torch.randn((COMPARED_SAMPLES, *input_shape), generator=torch.Generator().manual_seed(0)).to(parameter)
    try:
        masked, small = _copy_masked(model, masks).eval(), _copy_masked(model, masks).eval()
        with torch.no_grad():
            network = TracedNetwork(small, example)
            kept_indices = _cut_dead_channels(network, masks, channel_multiple)
            compaction = Compaction(small, kept_indices, network.count_macs() / network.dense_macs, network.has_dropout)
            difference = _find_difference(masked, compaction, example)
    except Exception as error:  # copying and tracing run the user's code, which may do anything
        raise CompactionError(f"{model_name} cannot be traced ({error})") from error
    if difference:
        raise CompactionError(f"{model_name} {difference}")
    compaction.network.train(model.training)
    return compaction


def _find_difference(masked: nn.Module, small: Compaction, example: Tensor) -> str | None:
    """Return how a small network differs from the masked one, or why they cannot be compared; None where they agree.

    A freshly pruned network is so close to a constant that its outputs hardly show the change of a layer. The networks
    are therefore compared with the rows of all weights scaled, equally in both, which does not change what may be cut.
    They are compared in float64: first with the statistics of the samples in the norms, then with these as running
    statistics. An error is relative to the distances between the outputs for different samples, not to their size.
    """
    tensors = masked.state_dict()
    for name, tensor in small.network.state_dict().items():
        if not torch.equal(tensor, small.shrink(name, tensors[name])):
            return f"cannot be compacted: the compacted {name} is not a part of the original"
    scaled = {name: _scale_rows(tensors[name]) for name in _list_weight_names(masked)}
    scaled_masked = _copy_with_weights(masked, scaled)
    scaled_small = _copy_with_weights(
        small.network, {name: small.shrink(name, weight) for name, weight in scaled.items()}
    )
    for use_sample_statistics in (True, False):
        expected, outputs = (
            _compute_outputs(network, example.double(), use_sample_statistics)
            for network in (scaled_masked, scaled_small)
        )
        spread, size = (expected - expected.mean(0)).abs().max(), expected.abs().max()
        if spread <= DEAD_DISTANCE * size:
            return "is dead: its outputs do not depend on the input"
        if not (expected - outputs).abs().max() <= MAX_RELATIVE_ERROR * spread + FLOAT64_ERROR * size:
            return "cannot be compacted: the smaller network computes other outputs"
    return None


def _list_weight_names(network: nn.Module) -> list[str]:
    return [weight_name(name) for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _scale_rows(weight: Tensor) -> Tensor:
    """Scale the weights of each output so that a ReLU preserves the size of its inputs; 0 where no weight is kept."""
    norms = weight.double().flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))
    return weight.double() * torch.where(norms > 0, 2**0.5 / norms, 0)


def _copy_with_weights(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    copied = copy.deepcopy(network).double()
    parameters = dict(copied.named_parameters())
    for name, weight in weights.items():
        parameters[name].data = weight
    return copied


def _compute_outputs(network: nn.Module, samples: Tensor, use_sample_statistics: bool) -> Tensor:
    network.eval()
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.train(use_sample_statistics)
            module.momentum = 1.0
    outputs: Tensor = network(samples)
    return outputs


def _copy_masked(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return copied


def _cut_dead_channels(
    network: TracedNetwork, masks: dict[str, Tensor], channel_multiple: int
) -> dict[str, dict[int, Tensor]]:
    """Cut the dead channels out of the network's layers, and return the indices that are kept, as in `Compaction`."""
    groups = network.groups
    kept = {id(group): torch.ones(group.size, dtype=torch.bool) for group in groups}
    read_groups = {name: (group, inputs) for group in groups for name, inputs in group.readers}
    written_groups = {name: group for group in groups for name in group.writers}

    def find_mask(name: str) -> Tensor:
        weight: Tensor = network.modules[name].weight
        mask = masks.get(weight_name(name))
        return torch.ones(weight.shape) if mask is None else mask.cpu().float()

    def find_connections(name: str) -> Tensor:
        """Return (channels written, channels read, weights between them): 1 for a kept weight between kept channels."""
        group, inputs = read_groups[name]
        connections = find_mask(name)
        connections = connections.reshape(connections.shape[0], -1, inputs * connections[0, 0].numel()).clone()
        connections[:, ~kept[id(group)]] = 0
        connections[~kept[id(written_groups[name])]] = 0
        return connections

    def find_pruned(group: ChannelGroup) -> dict[str, Tensor]:
        """Return, by the layer that computes a group, the channels for which it has pruned all weights."""
        pruned = {name: find_connections(name).sum((1, 2)) == 0 for name in group.writers}
        return pruned | {name: find_mask(name).flatten(1).sum(1) == 0 for name in group.passers}

    while True:
        kept_count = sum(int(keep.sum()) for keep in kept.values())
        for group in groups:
            if not group.fixed:
                unread = {name: find_connections(name).sum((0, 2)) == 0 for name, _ in group.readers}
                zeros = {} if group.joined else _find_zeros(network, group, unread, find_pruned(group))
                keep = kept[id(group)] & ~_find_dead(network, group, unread, zeros)
                keep[0] |= not keep.any()  # a layer needs at least one channel
                kept[id(group)] = keep
        if sum(int(keep.sum()) for keep in kept.values()) == kept_count:
            break
    kept_indices: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for group in groups:
        kept[id(group)] = _round_up(kept[id(group)], channel_multiple)
        if not kept[id(group)].all():
            _resize(network, group, kept[id(group)], kept_indices)
    return dict(kept_indices)


def _round_up(keep: Tensor, multiple: int) -> Tensor:
    """Keep as many dead channels as make the number of kept channels a multiple; all where there are too few.

    The network computes the same with any of its dead channels. Take them in the order in which they were found: a
    channel that is 0 has weights only from earlier ones that are 0, and a channel that no layer reads is read only by
    earlier ones. So none of them reaches a channel that counts.
    """
    missing = -int(keep.sum()) % multiple
    return keep | (~keep & ((~keep).cumsum(0) <= missing))


def _find_dead(
    network: TracedNetwork, group: ChannelGroup, unread: dict[str, Tensor], zeros: dict[fx.Node, Tensor]
) -> Tensor:
    """Return the channels of which each reader has pruned all weights, or gets only zeros, now and in training.

    Args:
        network: The network.
        group: The group of the channels.
        unread: Name of a layer that reads the group to the channels of which it has pruned all weights.
        zeros: The result of `_find_zeros`; empty for a group with joins.
    """
    dead = torch.ones(group.size, dtype=torch.bool)
    for name, is_unread in unread.items():
        source = network.module_nodes[name].all_input_nodes[0]
        dead &= is_unread | zeros[source] if zeros else is_unread
    return dead


def _find_zeros(
    network: TracedNetwork, group: ChannelGroup, unread: dict[str, Tensor], pruned: dict[str, Tensor]
) -> dict[fx.Node, Tensor]:
    """Return, for each node of a group without joins, the channels of its output that are 0 and stay 0 in training.

    A shift (the bias of a layer, the beta of a norm) that is 0 stays 0 where no gradient reaches it: all that is
    computed from it goes through a ReLU whose input is 0, or through pruned weights. At first every shift that is 0 is
    assumed to stay 0. Those that a gradient reaches under this assumption are taken out, and the others are examined
    again. The result holds by induction over the steps of training: each of these shifts is 0, so the channels are 0,
    so none of these shifts gets a gradient.
    """
    nodes = [node for node in network.graph.graph.nodes if network.find_group(node) is group]
    unshifted = {node: _find_unshifted(network, node, group.size) for node in nodes}
    while True:
        zeros: dict[fx.Node, Tensor] = {}
        for node in nodes:
            zeros[node] = unshifted[node] & _find_zeros_before_shift(network, node, zeros, pruned)
        blocked: dict[fx.Node, Tensor] = {}
        for node in reversed(nodes):
            blocked[node] = torch.ones(group.size, dtype=torch.bool)
            for user in node.users:
                blocked[node] &= _find_blocked(network, node, user, zeros, blocked, pruned, unread)
        reached = {node: unshifted[node] & ~blocked[node] for node in nodes if _has_trained_shift(network, node)}
        if not any(channels.any() for channels in reached.values()):
            return zeros
        for node, channels in reached.items():
            unshifted[node] = unshifted[node] & ~channels


def _find_zeros_before_shift(
    network: TracedNetwork, node: fx.Node, zeros: dict[fx.Node, Tensor], pruned: dict[str, Tensor]
) -> Tensor | bool:
    """Return the channels of a node's output that are 0 where its own shift is 0."""
    operation = network.find_operation(node)
    input_zeros = next((zeros[source] for source in node.all_input_nodes if source in zeros), None)
    if isinstance(operation, nn.Conv2d | nn.Linear):
        without_weights = pruned[str(node.target)]
        return without_weights if input_zeros is None else without_weights | input_zeros
    if (
        input_zeros is None
        or isinstance(operation, NONZERO_AT_ZERO_MODULES)
        or is_call(operation, NONZERO_AT_ZERO_CALLS)
    ):
        return False
    return input_zeros


def _find_blocked(
    network: TracedNetwork,
    node: fx.Node,
    user: fx.Node,
    zeros: dict[fx.Node, Tensor],
    blocked: dict[fx.Node, Tensor],
    pruned: dict[str, Tensor],
    unread: dict[str, Tensor],
) -> Tensor | bool:
    """Return the channels for which a node gets no gradient from one that uses it."""
    name = str(user.target)
    if user not in zeros:  # in another group: a layer that reads this one, or a call that returns the batch size
        return unread[name] if name in unread else get_shape(user) is None and user.op != "output"
    if _is_relu(network, user):
        return zeros[node] | blocked[user]
    return pruned[name] | blocked[user] if name in pruned else blocked[user]


def _find_unshifted(network: TracedNetwork, node: fx.Node, size: int) -> Tensor:
    """Return the channels to which a node adds nothing: bias, beta and running mean are 0."""
    operation = network.find_operation(node)
    unshifted = torch.ones(size, dtype=torch.bool)
    if isinstance(operation, SHIFTING_MODULES):
        for shift in (operation.bias, getattr(operation, "running_mean", None)):
            if shift is not None:
                unshifted &= shift.detach().cpu() == 0
    return unshifted


def _has_trained_shift(network: TracedNetwork, node: fx.Node) -> bool:
    operation = network.find_operation(node)
    return isinstance(operation, SHIFTING_MODULES) and operation.bias is not None


def _is_relu(network: TracedNetwork, node: fx.Node) -> bool:
    operation = network.find_operation(node)
    return isinstance(operation, RELU_MODULES) or is_call(operation, RELU_CALLS)


def _resize(
    network: TracedNetwork, group: ChannelGroup, keep: Tensor, kept_indices: dict[str, dict[int, Tensor]]
) -> None:
    """Cut a group down in all layers that use it, and note the indices that are kept."""

    def shrink(name: str, attribute: str, dim: int, keep: Tensor = keep) -> None:
        module = network.modules[name]
        tensor = getattr(module, attribute, None)
        if tensor is not None:
            indices = keep.nonzero().flatten()
            kept_indices[f"{name}.{attribute}"][dim] = indices
            data = tensor.data.index_select(dim, indices.to(tensor.device))
            setattr(
                module,
                attribute,
                nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data,
            )

    size = int(keep.sum())
    for name in (*group.writers, *group.passers, *group.norms):
        for attribute in ("weight", "bias", "running_mean", "running_var"):
            shrink(name, attribute, 0)
    for name in group.writers:
        unit = "channels" if isinstance(network.modules[name], nn.Conv2d) else "features"
        setattr(network.modules[name], f"out_{unit}", size)
    for name, inputs in group.readers:
        module = network.modules[name]
        if isinstance(module, nn.Linear):
            shrink(name, "weight", 1, keep.repeat_interleave(inputs))
            module.in_features = size * inputs
        elif module.groups == 1:  # a grouped convolution keeps all channels
            shrink(name, "weight", 1)
            module.in_channels = size
    for name in group.passers:
        module = network.modules[name]
        module.groups = module.in_channels = module.out_channels = size
    for name in group.norms:
        network.modules[name].num_features = size
