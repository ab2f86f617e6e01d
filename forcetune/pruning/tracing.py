"""The channels of a network, traced through its graph: which layers write, read, pass on and normalize them.

Channels that are added, normalized or multiplied together form one group, and are kept or cut together.
"""

import contextlib
import io
import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from forcetune.models.preserving import preserve_model
from forcetune.pruning.diagnosis import count_positions

RELU_MODULES = (nn.ReLU, nn.ReLU6)
CHANNELWISE_MODULES = (
    *RELU_MODULES, nn.Identity, nn.Dropout, nn.Dropout2d, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CHANNELWISE_CALLS: set[Any] = {
    functional.relu, functional.relu6, functional.dropout, functional.max_pool2d, functional.avg_pool2d,
    functional.adaptive_avg_pool2d, functional.silu, functional.gelu, functional.sigmoid, torch.relu, torch.sigmoid,
    "relu", "relu_", "mean", torch.mean, "contiguous",
}  # fmt: skip
NONZERO_AT_ZERO_MODULES = (nn.Sigmoid, nn.Hardsigmoid)  # of the channelwise ones: a zero does not stay 0
NONZERO_AT_ZERO_CALLS: set[Any] = {functional.sigmoid, torch.sigmoid}
RELU_CALLS: set[Any] = {functional.relu, functional.relu6, torch.relu, "relu", "relu_"}
JOINING_CALLS: set[Any] = {operator.add, operator.iadd, operator.mul, torch.add, torch.mul, "add", "add_", "mul"}
FLATTENING_CALLS: set[Any] = {torch.flatten, "flatten", "view", "reshape", nn.Flatten}


@dataclass
class ChannelGroup:
    """Channels of several tensors that are kept or cut together.

    Attributes:
        size: The number of channels.
        fixed: Whether all channels are kept.
        joined: Whether the group has a sum or a product of tensors.
        writers: The layers whose outputs are the channels.
        readers: The layers whose inputs are the channels, each with the number of its inputs that a channel has.
        passers: The depthwise convolutions, which keep each channel apart.
        norms: The batch norms of the channels.
    """

    size: int
    fixed: bool = False
    joined: bool = False
    writers: list[str] = field(default_factory=list)
    readers: list[tuple[str, int]] = field(default_factory=list)
    passers: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)

    def merge(self, other: "ChannelGroup") -> None:
        """Take the layers of another group, whose channels are kept or cut together with these."""
        self.fixed |= other.fixed or self.size != other.size
        self.joined |= other.joined
        for name in ("writers", "readers", "passers", "norms"):
            getattr(self, name).extend(getattr(other, name))


class TracedNetwork:
    """The channel groups of a network, found in one pass over its graph.

    Args:
        model: The network, in eval mode.
        example: A batch of inputs, of more than one sample.

    Attributes:
        modules: The modules of the network, by name.
        graph: The graph of the network.
        module_nodes: The node that calls a module, by the module's name; the last one where there are several.
        has_dropout: Whether the network has dropout.
        dense_macs: The multiply-adds of one sample, before anything is cut.

    Raises:
        Exception: The network cannot be traced, or calls other layers in training than in eval mode. It runs the user's
            code, which may raise anything.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.modules = dict(model.named_modules())
        self.graph = fx.symbolic_trace(model)
        self._check_modes(model)
        self._find_shapes(example)
        self._samples = len(example)
        self._groups: dict[fx.Node, ChannelGroup] = {}
        self._features: dict[fx.Node, int] = {}  # of one channel: more than one behind a flattening
        self.module_nodes: dict[str, fx.Node] = {}
        self.has_dropout = False
        call_counts = Counter(str(node.target) for node in self.graph.graph.nodes if node.op == "call_module")
        self._shared_modules = {name for name, count in call_counts.items() if count > 1}
        for node in self.graph.graph.nodes:
            self._add_node(node)
        self.dense_macs = self.count_macs()

    def count_macs(self) -> int:
        """Return the multiply-adds of one sample in the layers as they are now."""
        total = 0
        for name, node in self.module_nodes.items():
            layer, shape = self.modules[name], get_shape(node)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                positions = count_positions(layer, shape) // self._samples if shape else 1
                total += positions * layer.weight.numel()
        return total

    @property
    def attributes(self) -> set[str]:
        """The names of the parameters and buffers that the network reads outside their layers."""
        return {str(node.target) for node in self.graph.graph.nodes if node.op == "get_attr"}

    @property
    def groups(self) -> list[ChannelGroup]:
        """The groups of channels, in the order of the graph."""
        return list({id(group): group for group in self._groups.values()}.values())

    def find_group(self, node: fx.Node) -> ChannelGroup | None:
        """Return the group of the channels of a node's tensor; None where it has no channels."""
        return self._groups.get(node)

    def find_operation(self, node: fx.Node) -> Any:
        """Return the module that a node calls, or else the function or the name of the method."""
        return self.modules[str(node.target)] if node.op == "call_module" else node.target

    def _check_modes(self, model: nn.Module) -> None:
        """Raise ValueError where the network calls other layers in training than in eval mode."""
        with preserve_model(model):
            trained = fx.symbolic_trace(model.train())
        calls, trained_calls = (self._list_layers(graph) for graph in (self.graph, trained))
        if calls != trained_calls:
            raise ValueError("it calls other layers in training than in eval mode")

    def _list_layers(self, graph: fx.GraphModule) -> list[str]:
        """Return the names of the layers with parameters, and of the parameters outside them, in the graph's order."""
        return [
            str(node.target)
            for node in graph.graph.nodes
            if node.op == "get_attr" or (node.op == "call_module" and [*self.find_operation(node).parameters()])
        ]

    def _find_shapes(self, example: Tensor) -> None:
        """Note the shape of each node's tensor; an error is that of the layer which fails."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # torch prints a traceback before it raises
                ShapeProp(self.graph).propagate(example)
        except RuntimeError as error:
            raise error.__cause__ or error from None

    def _add_node(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self._groups]
        operation = self.find_operation(node)
        if node.op == "call_module":
            self.module_nodes[str(node.target)] = node
        self.has_dropout |= operation is functional.dropout or (isinstance(operation, _DropoutNd) and operation.p > 0)
        if node.op == "output":
            self._fix(sources)
        elif _reads_other_size(node):
            pass
        elif get_shape(node) is None:
            self._fix(sources)
        elif isinstance(operation, nn.Module) and str(node.target) in self._shared_modules and operation.state_dict():
            self._fix([*sources, node])
        elif isinstance(operation, nn.Conv2d | nn.Linear) and len(sources) == 1:
            self._add_layer(node, operation, sources[0])
        elif isinstance(operation, BATCH_NORMS) and len(sources) == 1 and self._features[sources[0]] == 1:
            self._continue_group(node, sources[0])
            self._groups[node].norms.append(str(node.target))
        elif (
            (isinstance(operation, CHANNELWISE_MODULES) or is_call(operation, CHANNELWISE_CALLS))
            and len(sources) == 1
            and _has_same_channels(node, sources[0])
        ):
            self._continue_group(node, sources[0])
        elif (
            (isinstance(operation, nn.Flatten) or is_call(operation, FLATTENING_CALLS))
            and len(sources) == 1
            and _is_flattened(node, sources[0])
        ):
            self._continue_group(node, sources[0])
            self._features[node] *= get_shape(node)[1] // get_shape(sources[0])[1]  # type: ignore[index]
        elif (
            is_call(operation, JOINING_CALLS)
            and len(sources) == 2
            and _count_channels(sources[0]) == _count_channels(sources[1])
        ):
            self._join_groups(node, *sources)
        else:
            self._fix([*sources, node])

    def _add_layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear, source: fx.Node) -> None:
        name, group = str(node.target), self._groups[source]
        if isinstance(module, nn.Linear) and len(get_shape(node) or ()) != 2:
            self._fix([source, node])
        elif isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1:
            self._continue_group(node, source)
            group.passers.append(name)
        else:
            group.readers.append((name, self._features[source]))
            self._start_group(node)
            self._groups[node].writers.append(name)
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                self._fix([source, node])

    def _start_group(self, node: fx.Node) -> None:
        self._groups[node], self._features[node] = ChannelGroup(_count_channels(node)), 1

    def _continue_group(self, node: fx.Node, source: fx.Node) -> None:
        self._groups[node], self._features[node] = self._groups[source], self._features[source]

    def _join_groups(self, node: fx.Node, first: fx.Node, second: fx.Node) -> None:
        joined, absorbed = self._groups[first], self._groups[second]
        if absorbed is not joined:
            joined.merge(absorbed)
            self._groups = {n: joined if group is absorbed else group for n, group in self._groups.items()}
        joined.joined = True
        joined.fixed |= self._features[first] != self._features[second]
        self._continue_group(node, first)

    def _fix(self, nodes: list[fx.Node]) -> None:
        """Keep all channels of the nodes."""
        for node in nodes:
            if node not in self._groups and get_shape(node) is not None:
                self._start_group(node)
            if node in self._groups:
                self._groups[node].fixed = True


def get_shape(node: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of a node's tensor, with the batch; None where the node has no tensor."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None


def _count_channels(node: fx.Node) -> int:
    shape = get_shape(node) or ()
    return shape[1] if len(shape) > 1 else 0


def _has_same_channels(node: fx.Node, source: fx.Node) -> bool:
    """Return whether the channels stay in dimension 1; a mean may take the positions away."""
    return _count_channels(node) == _count_channels(source) and len(get_shape(node) or ()) in (2, 4)


def _is_flattened(node: fx.Node, source: fx.Node) -> bool:
    """Return whether (N, C, ...) has become (N, C * ...), by a call that does the same for fewer channels."""
    before, after = get_shape(source) or (), get_shape(node) or ()
    if node.op == "call_method" and node.target in ("view", "reshape"):
        sizes = node.args[1:] if len(node.args) > 2 else node.args[1]
        if isinstance(sizes, tuple | list) and isinstance(sizes[-1], int) and sizes[-1] != -1:
            return False  # the number of features is written into the call
    return len(after) == 2 and before[0] == after[0] and torch.Size(before).numel() == torch.Size(after).numel()


def _reads_other_size(node: fx.Node) -> bool:
    """Return whether a node reads the size of another dimension than that of the channels, as `x.shape[0]` does."""
    if node.op == "call_method" and node.target == "size" and len(node.args) > 1:
        return _is_other_dim(node.args[1])
    is_shape = (node.op == "call_method" and node.target == "size") or (
        node.target is getattr and str(node.args[1]) == "shape"
    )
    return is_shape and all(user.target is operator.getitem and _is_other_dim(user.args[1]) for user in node.users)


def _is_other_dim(dim: Any) -> bool:
    return isinstance(dim, int) and (dim == 0 or dim > 1)


def is_call(operation: Any, calls: set[Any]) -> bool:
    """Return whether a node's operation is one of these functions and methods."""
    return not isinstance(operation, nn.Module) and operation in calls
