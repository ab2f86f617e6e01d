"""Cutting a pruned network down to the channels that matter: the same function, physically smaller.

A channel is cut out where it can never count: all weights that read it are pruned; or all that write it are, with no
bias and a BatchNorm whose beta is 0 and a ReLU straight after, so that it stays 0 in training too. Channels that are
added, normalized or multiplied together form one space and are kept or cut together.
"""

import copy
import logging
import operator
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

log = logging.getLogger(__name__)

RELUS = (nn.ReLU, nn.ReLU6)
PASSING = (
    *RELUS, nn.Identity, nn.Dropout, nn.Dropout2d, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PASSING_CALLS: set[Any] = {
    functional.relu, functional.relu6, functional.dropout, functional.max_pool2d, functional.avg_pool2d,
    functional.adaptive_avg_pool2d, functional.silu, functional.gelu, functional.sigmoid, torch.relu, torch.sigmoid,
    "relu", "relu_", "mean", torch.mean, "contiguous",
}  # fmt: skip
RELU_CALLS: set[Any] = {functional.relu, functional.relu6, torch.relu, "relu", "relu_"}
JOINING: set[Any] = {operator.add, operator.iadd, operator.mul, torch.add, torch.mul, "add", "add_", "mul"}
FLATTENING: set[Any] = {torch.flatten, "flatten", "view", "reshape", nn.Flatten}


@dataclass
class Compaction:
    """A network without its dead channels, and where each of its tensors lies in the whole network's.

    network: a copy, in the mode of the whole one; kept: by the name of a parameter or buffer the indices kept on
    each side, nothing of those that are whole; share: of the multiply-adds that are left; draws: whether it has
    dropout, which in a smaller network draws other numbers.
    """

    network: nn.Module
    kept: dict[str, dict[int, Tensor]]
    share: float
    draws: bool

    def shrink(self, name: str, whole: Tensor) -> Tensor:
        """The part of a tensor of the whole network's shape that the small one has."""
        for side, kept in self.kept.get(name, {}).items():
            whole = whole.index_select(side, kept.to(whole.device))
        return whole

    def grow(self, name: str, small: Tensor, whole: Tensor) -> None:
        """Write that part into a tensor of the whole network's shape; the rest of it stays."""
        sides = self.kept.get(name)
        if not sides:
            whole.data.copy_(small)
            return
        index = [sides.get(side, torch.arange(size)).to(whole.device) for side, size in enumerate(whole.shape[:2])]
        if len(index) == 2:
            index[0] = index[0][:, None]
        whole.data[tuple(index)] = small.to(whole.dtype)


class Obstacle(ValueError):
    """Why a network is trained whole."""


def compact(model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...]) -> nn.Module:
    """A copy of the pruned network, in eval mode, without the channels that cannot matter.

    input_shape: of one sample, without the batch. Where the network cannot be traced, or what is left of it does not
    compute the same, the copy is the masked network at its full size, and the log says so.
    """
    try:
        return find_compaction(model, masks, input_shape).network.eval()
    except Obstacle as obstacle:
        log.warning("not compacted: %s", obstacle)
        return _masked(model, masks).eval()


def find_compaction(model: nn.Module, masks: dict[str, Tensor], input_shape: tuple[int, ...]) -> Compaction:
    """Cut a pruned network's dead channels out of a copy of it; arguments as of `compact`.

    Raises Obstacle where that cannot be done so that the copy computes the same.
    """
    kind = type(model).__name__
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        raise Obstacle(f"layers of {kind} share their weights")
    like = next(model.parameters())
    example = torch.randn((2, *input_shape), generator=torch.Generator().manual_seed(0)).to(like)
    try:
        masked, small = _masked(model, masks).eval(), _masked(model, masks).eval()
        with torch.no_grad():
            network = _Network(small, example)
            kept = _cut(network, masks)
            same = torch.allclose(small(example), masked(example), rtol=1e-3, atol=1e-4)
    except Exception as error:  # copying and tracing run the user's code, which may do anything
        raise Obstacle(f"{kind} cannot be traced ({error})") from error
    if not same:
        raise Obstacle(f"what is left of {kind} does not compute the same")
    return Compaction(small.train(model.training), kept, network.macs() / network.dense_macs, network.draws)


def _masked(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy with the masks in force."""
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return copied


@dataclass
class _Space:
    """Channels that live and die together: who writes them, who reads them, who passes them on one by one."""

    size: int
    fixed: bool = False
    joined: bool = False  # by a sum or a product
    writers: list[str] = field(default_factory=list)
    readers: list[tuple[str, int]] = field(default_factory=list)  # and how many inputs a channel has in it
    passers: list[str] = field(default_factory=list)  # depthwise convolutions
    norms: list[str] = field(default_factory=list)

    def take(self, other: "_Space") -> None:
        self.fixed |= other.fixed or self.size != other.size
        self.joined |= other.joined
        for name in ("writers", "readers", "passers", "norms"):
            getattr(self, name).extend(getattr(other, name))


class _Network:
    """The spaces of a network, found by walking through its graph once."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.modules = dict(model.named_modules())
        self.graph = fx.symbolic_trace(model)
        ShapeProp(self.graph).propagate(example)
        self._of: dict[fx.Node, _Space] = {}
        self._inputs: dict[fx.Node, int] = {}  # features that one channel has become
        self.outlets: dict[str, fx.Node] = {}  # the node of each module
        self.draws = False
        calls = Counter(str(node.target) for node in self.graph.graph.nodes if node.op == "call_module")
        self._shared = {name for name, count in calls.items() if count > 1}
        for node in self.graph.graph.nodes:
            self._walk(node)
        self.dense_macs = self.macs()

    def macs(self) -> int:
        """Multiply-adds of one sample in the layers as they are now."""
        total = 0
        for name, node in self.outlets.items():
            if isinstance(self.modules[name], nn.Conv2d | nn.Linear):
                positions = torch.Size((_shape(node) or ())[2:]).numel()
                total += positions * self.modules[name].weight.numel()
        return total

    @property
    def spaces(self) -> list[_Space]:
        return list({id(space): space for space in self._of.values()}.values())

    def _walk(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self._of]
        kind = self.modules[str(node.target)] if node.op == "call_module" else node.target
        if node.op == "call_module":
            self.outlets[str(node.target)] = node
        self.draws |= kind is functional.dropout or (isinstance(kind, _DropoutNd) and kind.p > 0)
        if node.op == "output":
            self._fix(sources)
        elif node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
            pass
        elif _shape(node) is None:
            self._fix(sources)
        elif isinstance(kind, nn.Module) and str(node.target) in self._shared and kind.state_dict():
            self._fix([*sources, node])
        elif isinstance(kind, nn.Conv2d | nn.Linear) and len(sources) == 1:
            self._layer(node, kind, sources[0])
        elif isinstance(kind, NORMS) and len(sources) == 1 and self._inputs[sources[0]] == 1:
            self._follow(node, sources[0])
            self._of[node].norms.append(str(node.target))
        elif (isinstance(kind, PASSING) or _in(kind, PASSING_CALLS)) and len(sources) == 1 and _keeps(node, sources[0]):
            self._follow(node, sources[0])
        elif (isinstance(kind, nn.Flatten) or _in(kind, FLATTENING)) and len(sources) == 1 and _flat(node, sources[0]):
            self._follow(node, sources[0])
            self._inputs[node] *= _shape(node)[1] // _shape(sources[0])[1]  # type: ignore[index]
        elif _in(kind, JOINING) and len(sources) == 2 and _channels(sources[0]) == _channels(sources[1]):
            self._join(node, *sources)
        else:
            self._fix([*sources, node])

    def _layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear, source: fx.Node) -> None:
        name, space = str(node.target), self._of[source]
        if isinstance(module, nn.Linear) and len(_shape(node) or ()) != 2:
            self._fix([source, node])
        elif isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1:
            self._follow(node, source)
            space.passers.append(name)
        else:
            space.readers.append((name, self._inputs[source]))
            self._new(node)
            self._of[node].writers.append(name)
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                self._fix([source, node])

    def _new(self, node: fx.Node) -> None:
        self._of[node], self._inputs[node] = _Space(_channels(node)), 1

    def _follow(self, node: fx.Node, source: fx.Node) -> None:
        self._of[node], self._inputs[node] = self._of[source], self._inputs[source]

    def _join(self, node: fx.Node, one: fx.Node, other: fx.Node) -> None:
        kept, gone = self._of[one], self._of[other]
        if gone is not kept:
            kept.take(gone)
            self._of = {n: kept if space is gone else space for n, space in self._of.items()}
        kept.joined = True
        kept.fixed |= self._inputs[one] != self._inputs[other]
        self._follow(node, one)

    def _fix(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            if node not in self._of and _shape(node) is not None:
                self._new(node)
            if node in self._of:
                self._of[node].fixed = True


def _cut(network: "_Network", masks: dict[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    """Take the dead channels out of the network's layers; the indices that are kept, as `Compaction` has them."""
    spaces = network.spaces
    kept = {id(space): torch.ones(space.size, dtype=torch.bool) for space in spaces}
    reads = {name: (space, inputs) for space in spaces for name, inputs in space.readers}
    writes = {name: space for space in spaces for name in space.writers}

    def mask(name: str) -> Tensor:
        whole: Tensor = network.modules[name].weight
        found = masks.get(f"{name}.weight")
        return torch.ones(whole.shape) if found is None else found.cpu().float()

    def weight(name: str) -> Tensor:
        """(channels written, channels read, weights between them), 1 where one is kept; 0 for channels cut."""
        space, inputs = reads[name]
        found = mask(name)
        found = found.reshape(found.shape[0], -1, inputs * found[0, 0].numel()).clone()
        found[:, ~kept[id(space)]] = 0
        found[~kept[id(writes[name])]] = 0
        return found

    while True:
        before = sum(int(keep.sum()) for keep in kept.values())
        for space in spaces:
            if not space.fixed:
                read = sum(weight(name).sum((0, 2)) for name, _ in space.readers)
                dead = torch.as_tensor(read == 0).expand(space.size) | _never_written(network, space, weight, mask)
                keep = kept[id(space)] & ~dead
                keep[0] |= not keep.any()  # a layer of no channels is none
                kept[id(space)] = keep
        if sum(int(keep.sum()) for keep in kept.values()) == before:
            break
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for space in spaces:
        if not kept[id(space)].all():
            _resize(network, space, kept[id(space)], found)
    return dict(found)


def _never_written(
    network: _Network, space: _Space, weight: Callable[[str], Tensor], mask: Callable[[str], Tensor]
) -> Tensor:
    """The channels of a chain that are 0 somewhere on their way, and stay so."""
    dead = torch.zeros(space.size, dtype=torch.bool)
    if space.joined:
        return dead
    for name in [*space.writers, *space.passers]:
        own = weight(name).sum((1, 2)) if name in space.writers else mask(name).flatten(1).sum(1)
        dead |= (own == 0) & _stays_zero(network, network.outlets[name], space.size)
    return dead


def _stays_zero(network: _Network, node: fx.Node, size: int) -> Tensor:
    """Which channels after this layer are 0 if its weights are: no bias, no shift of a norm, a ReLU straight after."""
    zero = torch.ones(size, dtype=torch.bool)
    module = network.modules[str(node.target)]
    if module.bias is not None:
        zero &= module.bias.detach().cpu() == 0
    after = next(iter(node.users))
    norm = network.modules.get(str(after.target)) if after.op == "call_module" else None
    if isinstance(norm, NORMS) and len(node.users) == 1:
        if norm.bias is None or norm.running_mean is None:
            return torch.zeros(size, dtype=torch.bool)
        zero &= (norm.bias.detach().cpu() == 0) & (norm.running_mean.cpu() == 0)
        node = after
    return zero & all(_is_relu(network, user) for user in node.users)


def _is_relu(network: _Network, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.modules[str(node.target)], RELUS)
    return node.op != "output" and _in(node.target, RELU_CALLS)


def _resize(network: _Network, space: _Space, keep: Tensor, found: dict[str, dict[int, Tensor]]) -> None:
    """Cut a space down in all layers that touch it, and note the indices that are kept."""

    def shrink(name: str, part: str, side: int, keep: Tensor = keep) -> None:
        module = network.modules[name]
        whole = getattr(module, part)
        if whole is not None:
            indices = keep.nonzero().flatten()
            found[f"{name}.{part}" if name else part][side] = indices
            data = whole.data.index_select(side, indices.to(whole.device))
            setattr(module, part, nn.Parameter(data, whole.requires_grad) if isinstance(whole, nn.Parameter) else data)

    size = int(keep.sum())
    for name in space.writers:
        shrink(name, "weight", 0)
        shrink(name, "bias", 0)
        kind = "channels" if isinstance(network.modules[name], nn.Conv2d) else "features"
        setattr(network.modules[name], f"out_{kind}", size)
    for name, inputs in space.readers:
        module = network.modules[name]
        if isinstance(module, nn.Linear):
            shrink(name, "weight", 1, keep.repeat_interleave(inputs))
            module.in_features = size * inputs
        elif module.groups == 1:  # else its spaces are kept whole
            shrink(name, "weight", 1)
            module.in_channels = size
    for name in space.passers:
        shrink(name, "weight", 0)
        shrink(name, "bias", 0)
        module = network.modules[name]
        module.groups = module.in_channels = module.out_channels = size
    for name in space.norms:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shrink(name, part, 0)
        network.modules[name].num_features = size


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None


def _channels(node: fx.Node) -> int:
    shape = _shape(node) or ()
    return shape[1] if len(shape) > 1 else 0


def _keeps(node: fx.Node, source: fx.Node) -> bool:
    """Whether the channels are where they were; a mean may take the positions away."""
    return _channels(node) == _channels(source) and len(_shape(node) or ()) in (2, 4)


def _flat(node: fx.Node, source: fx.Node) -> bool:
    """Whether (N, C, ...) has become (N, C * ...)."""
    before, after = _shape(source) or (), _shape(node) or ()
    return len(after) == 2 and before[0] == after[0] and torch.Size(before).numel() == torch.Size(after).numel()


def _in(kind: Any, known: set[Any]) -> bool:
    return not isinstance(kind, nn.Module) and kind in known
