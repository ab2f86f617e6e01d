"""Cutting a pruned network down to the channels that matter: the same function, physically smaller.

A channel is cut out where it counts for no layer that reads it: all weights by which the layer reads it are pruned, or
the channel is 0 there and stays 0 in training. The latter needs more than pruned weights in front of it: every bias and
every shift of a norm on its way is 0, and no gradient reaches one of them (`_find_zeros`). Channels that are added,
normalized or multiplied together form one space and are kept or cut together.
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

SAMPLES = 8  # on which a network and what is left of it are compared
LARGEST_ERROR = 1e-4  # of the distances between the outputs for different samples; deep networks lose ten digits
ROUNDING, DEAD = 1e-13, 1e-14  # of the outputs' size: errors of float64, and distances that are nothing else
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
NOT_ZERO_AT_ZERO = (nn.Sigmoid, nn.Hardsigmoid)  # of those that pass channels on
NOT_ZERO_AT_ZERO_CALLS: set[Any] = {functional.sigmoid, torch.sigmoid}
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
    example = torch.randn((SAMPLES, *input_shape), generator=torch.Generator().manual_seed(0)).to(like)
    try:
        masked, small = _masked(model, masks).eval(), _masked(model, masks).eval()
        with torch.no_grad():
            network = _Network(small, example)
            kept = _cut(network, masks)
            found = Compaction(small, kept, network.macs() / network.dense_macs, network.draws)
            difference = _find_difference(masked, found, example)
    except Exception as error:  # copying and tracing run the user's code, which may do anything
        raise Obstacle(f"{kind} cannot be traced ({error})") from error
    if difference:
        raise Obstacle(f"{kind} {difference}")
    found.network.train(model.training)
    return found


def _find_difference(masked: nn.Module, small: Compaction, example: Tensor) -> str | None:
    """What speaks against a small network: that it has or computes something else, or that nobody can say so.

    A freshly pruned network is so close to a constant that hardly a change of a layer can be seen in its outputs. So
    they are compared with the rows of all weights scaled alike, in both networks, which changes nothing in what may be
    cut; in float64, with the norms' statistics of the samples themselves, and then with these as running statistics.
    An error is measured by how far the outputs lie apart, not by how large they are.
    """
    tensors = masked.state_dict()
    for name, tensor in small.network.state_dict().items():
        if not torch.equal(tensor, small.shrink(name, tensors[name])):
            return f"cannot be cut: what is left of {name} is not a part of it"
    scaled = {name: _scale_rows(tensors[name]) for name in _weights(masked)}
    whole = _with_weights(masked, scaled)
    part = _with_weights(small.network, {name: small.shrink(name, weight) for name, weight in scaled.items()})
    for by_samples in (True, False):
        expected, found = (_run(network, example.double(), by_samples) for network in (whole, part))
        spread, size = (expected - expected.mean(0)).abs().max(), expected.abs().max()
        if spread <= DEAD * size:
            return "is dead: what it computes does not depend on the input, so that nothing can be compared"
        if not (expected - found).abs().max() <= LARGEST_ERROR * spread + ROUNDING * size:
            return "cannot be cut: what is left of it does not compute the same"
    return None


def _weights(network: nn.Module) -> list[str]:
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [f"{name}.weight" if name else "weight" for name in layers]


def _scale_rows(weight: Tensor) -> Tensor:
    """The weights of each output scaled so that a ReLU hands on as much as comes in; none where none is kept."""
    norms = weight.double().flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))
    return weight.double() * torch.where(norms > 0, 2**0.5 / norms, 0)


def _with_weights(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    copied = copy.deepcopy(network).double()
    parameters = dict(copied.named_parameters())
    for name, weight in weights.items():
        parameters[name].data = weight
    return copied


def _run(network: nn.Module, samples: Tensor, by_samples: bool) -> Tensor:
    network.eval()
    for module in network.modules():
        if isinstance(module, NORMS):
            module.train(by_samples)
            module.momentum = 1.0
    result: Tensor = network(samples)
    return result


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

    def space_of(self, node: fx.Node) -> _Space | None:
        """The channels that a node's tensor has; None where it has none."""
        return self._of.get(node)

    def kind_of(self, node: fx.Node) -> Any:
        """The module that a node calls, or else the function or the name of the method."""
        return self.modules[str(node.target)] if node.op == "call_module" else node.target

    def _walk(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self._of]
        kind = self.kind_of(node)
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
                keep = kept[id(space)] & ~_find_dead(network, space, weight, mask)
                keep[0] |= not keep.any()  # a layer of no channels is none
                kept[id(space)] = keep
        if sum(int(keep.sum()) for keep in kept.values()) == before:
            break
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for space in spaces:
        if not kept[id(space)].all():
            _resize(network, space, kept[id(space)], found)
    return dict(found)


def _find_dead(
    network: _Network, space: _Space, weight: Callable[[str], Tensor], mask: Callable[[str], Tensor]
) -> Tensor:
    """The channels that no layer reads but by pruned weights, or where they are 0 for ever."""
    unread = {name: weight(name).sum((0, 2)) == 0 for name, _ in space.readers}
    zeros = {} if space.joined else _find_zeros(network, space, unread, weight, mask)
    dead = torch.ones(space.size, dtype=torch.bool)
    for name, is_unread in unread.items():
        source = network.outlets[name].all_input_nodes[0]
        dead &= is_unread | zeros[source] if zeros else is_unread
    return dead


def _find_zeros(
    network: _Network,
    space: _Space,
    unread: dict[str, Tensor],
    weight: Callable[[str], Tensor],
    mask: Callable[[str], Tensor],
) -> dict[fx.Node, Tensor]:
    """For each node of a space without joins, the channels that are 0 behind it and stay so in training.

    A shift (the bias of a layer, the beta of a norm) that is 0 stays 0 where no gradient reaches it: all that is
    computed from it goes through a ReLU whose input is 0, or through pruned weights. So every shift that is 0 is taken
    for lasting at first; those that a gradient reaches under this assumption are not, and the rest is looked at again.
    What is left holds by induction over the steps of training: each of these shifts is 0, so that the channels are, so
    that none of these shifts gets a gradient.
    """
    nodes = [node for node in network.graph.graph.nodes if network.space_of(node) is space]
    pruned = {name: weight(name).sum((1, 2)) == 0 for name in space.writers}
    pruned |= {name: mask(name).flatten(1).sum(1) == 0 for name in space.passers}
    lasting = {node: _has_no_shift(network, node, space.size) for node in nodes}
    while True:
        zeros: dict[fx.Node, Tensor] = {}
        for node in nodes:
            zeros[node] = lasting[node] & _is_zero(network, node, zeros, pruned)
        blocked: dict[fx.Node, Tensor] = {}
        for node in reversed(nodes):
            blocked[node] = torch.ones(space.size, dtype=torch.bool)
            for user in node.users:
                blocked[node] &= _blocks(network, node, user, zeros, blocked, pruned, unread)
        reached = {node: lasting[node] & ~blocked[node] for node in nodes if _is_shifting(network, node)}
        if not any(channels.any() for channels in reached.values()):
            return zeros
        for node, channels in reached.items():
            lasting[node] = lasting[node] & ~channels


def _is_zero(
    network: _Network, node: fx.Node, zeros: dict[fx.Node, Tensor], pruned: dict[str, Tensor]
) -> Tensor | bool:
    """Which channels are 0 behind a node, but for its own shift."""
    kind = network.kind_of(node)
    before = next((zeros[source] for source in node.all_input_nodes if source in zeros), None)
    if isinstance(kind, nn.Conv2d | nn.Linear):
        without_weights = pruned[str(node.target)]
        return without_weights if before is None else without_weights | before
    if before is None or isinstance(kind, NOT_ZERO_AT_ZERO) or _in(kind, NOT_ZERO_AT_ZERO_CALLS):
        return False
    return before


def _blocks(
    network: _Network,
    node: fx.Node,
    user: fx.Node,
    zeros: dict[fx.Node, Tensor],
    blocked: dict[fx.Node, Tensor],
    pruned: dict[str, Tensor],
    unread: dict[str, Tensor],
) -> Tensor | bool:
    """For which channels no gradient comes back to a node from one that uses it."""
    name = str(user.target)
    if user not in zeros:  # of another space: a layer that reads this one, or what asks for the size of the batch
        return unread[name] if name in unread else _shape(user) is None and user.op != "output"
    if _is_relu(network, user):
        return zeros[node] | blocked[user]
    return pruned[name] | blocked[user] if name in pruned else blocked[user]


def _has_no_shift(network: _Network, node: fx.Node, size: int) -> Tensor:
    """For which channels a node adds nothing: no bias, no beta, no running mean."""
    kind = network.kind_of(node)
    nothing = torch.ones(size, dtype=torch.bool)
    for part in ("bias", "running_mean"):
        shift = getattr(kind, part, None) if isinstance(kind, (nn.Conv2d, nn.Linear, *NORMS)) else None
        if shift is not None:
            nothing &= shift.detach().cpu() == 0
    return nothing


def _is_shifting(network: _Network, node: fx.Node) -> bool:
    """Whether a node has a shift that is trained."""
    kind = network.kind_of(node)
    return isinstance(kind, (nn.Conv2d, nn.Linear, *NORMS)) and kind.bias is not None


def _is_relu(network: _Network, node: fx.Node) -> bool:
    kind = network.kind_of(node)
    return isinstance(kind, RELUS) or _in(kind, RELU_CALLS)


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
