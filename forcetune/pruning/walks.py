"""PHEW [2010.11354]: random walks through a network's weights, from input to output and back."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from forcetune.errors import InputError
from forcetune.pruning.additive import additive_pass, forward_hooks
from forcetune.pruning.network import Network, Weights

MAX_FRUITLESS_WALKS = 1000  # in a row without a new weight; then the largest other weights fill the count
NETWORK_INPUT = ""  # stands for a layer whose units the first layers read

Unit = tuple[str, int]  # a layer, and one of its output channels or of its input channels
Weight = tuple[str, int]  # a layer and an index into its flat weights


def biased_walks(net: Network) -> Weights:
    """Score each weight by how early a walk takes it; walks go on until they have taken `net.count` weights.

    Walks start in turn at each input unit and, backwards, at each output unit. At a unit they take one of its weights
    with a probability in proportion to |theta0|. A unit is a channel of a convolution or a row of a linear layer.

    Raises:
        InputError: A layer is used twice, or the operations between two layers do more than pass channels on.
    """
    graph = _ChannelGraph(net)
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=net.generator)))
    taken: dict[Weight, None] = {}  # in the order of discovery
    turn = fruitless = 0
    while len(taken) < net.count and fruitless < MAX_FRUITLESS_WALKS:
        before = len(taken)
        forward = turn % 2 == 0
        starts = graph.inputs if forward else graph.outputs
        for weight in graph.walk(starts[turn // 2 % len(starts)], forward, rng):
            taken.setdefault(weight)
        turn += 1
        fruitless = 0 if len(taken) > before else fruitless + 1
    # On a GPU, each weight would take a kernel launch
    scores = {name: weight.abs().double().cpu() for name, weight in net.weights.items()}
    highest = max(float(score.max()) for score in scores.values())
    for rank, (name, index) in enumerate(taken):
        scores[name].view(-1)[index] = highest + len(taken) - rank
    return {name: score.to(net.weights[name].device) for name, score in scores.items()}


class _ChannelGraph:
    """The units that feed each input of each layer, and the weights that a walk may take from a unit."""

    def __init__(self, net: Network) -> None:
        self._magnitudes = {n: w.abs().cpu().numpy() for n, w in net.weights.items()}
        self._indices: dict[str, np.ndarray] = {
            n: np.arange(w.size, dtype=np.int32).reshape(w.shape) for n, w in self._magnitudes.items()
        }
        self._readers: dict[Unit, list[Unit]] = defaultdict(list)  # a unit to the inputs that read it
        self._sources: dict[Unit, list[Unit]] = defaultdict(list)  # an input to the units that it reads
        self._input_channels: dict[str, int] = {}  # the number of input channels of each layer
        for source in (NETWORK_INPUT, *net.weights):
            for layer, units in _find_readers(net, source).items():
                self._input_channels[layer] = len(units)
                for channel, unit in enumerate(units):
                    if unit >= 0:
                        self._readers[source, unit].append((layer, channel))
                        self._sources[layer, channel].append((source, unit))
        self.inputs = [unit for unit in self._readers if unit[0] == NETWORK_INPUT]
        read_layers = {layer for layer, _ in self._readers}
        self.outputs = [(n, i) for n, w in self._magnitudes.items() if n not in read_layers for i in range(len(w))]
        if not self.inputs:
            raise InputError("method 'phew' found no prunable layer that reads the network's input")

    def walk(self, start: Unit, forward: bool, rng: np.random.Generator) -> Iterator[Weight]:
        """Yield the weights along one walk."""
        units = [start]
        while edges := [edge for unit in units for edge in (self._after(unit) if forward else self._before(unit))]:
            layer, index = self._choose(edges, rng)
            yield layer, index
            row, column = self._ends(layer, index)
            units = [(layer, row)] if forward else self._sources[layer, column]

    def _after(self, unit: Unit) -> list[tuple[str, np.ndarray]]:
        """Return the weights that read a unit, as flat indices by layer."""
        return [(layer, self._column(layer, channel)) for layer, channel in self._readers.get(unit, [])]

    def _before(self, unit: Unit) -> list[tuple[str, np.ndarray]]:
        """Return the weights that a unit reads with, as flat indices by layer."""
        layer, row = unit
        return [] if layer == NETWORK_INPUT else [(layer, self._indices[layer][row].ravel())]

    def _column(self, layer: str, channel: int) -> np.ndarray:
        """Return the weights of one input channel; in a grouped convolution, of the rows of its group."""
        indices = self._indices[layer]
        group, column = divmod(channel, indices.shape[1])
        rows = len(indices) * indices.shape[1] // self._input_channels[layer]
        return indices[group * rows : (group + 1) * rows, column].ravel()

    def _choose(self, edges: list[tuple[str, np.ndarray]], rng: np.random.Generator) -> Weight:
        cumulative = np.cumsum(
            np.concatenate([self._magnitudes[layer].ravel()[indices] for layer, indices in edges], dtype=np.float64)
        )
        if cumulative[-1] == 0:  # all weights are 0, so none is preferred
            cumulative = np.arange(1.0, len(cumulative) + 1)
        position = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        for layer, indices in edges:
            if position < len(indices):
                return layer, int(indices[position])
            position -= len(indices)
        raise AssertionError("a number below 1 lies below the last height")

    def _ends(self, layer: str, index: int) -> tuple[int, int]:
        """Return the output channel and the input channel of a weight."""
        shape = self._indices[layer].shape
        row, offset = divmod(index, int(np.prod(shape[1:])))
        group = row // (len(self._indices[layer]) * shape[1] // self._input_channels[layer])
        return row, group * shape[1] + offset // int(np.prod(shape[2:]))


def _find_readers(net: Network, source: str) -> dict[str, list[int]]:
    """Return, by layer, the unit of `source` that each of its input channels reads; -1 for none.

    In one additive pass, each unit of `source` outputs its own number and all other layers output 0.
    """
    shape = (1, *net.sample_shape())
    device = next(iter(net.weights.values())).device
    units = len(net.weights[source]) if source else int(np.prod(shape))
    numbers = torch.arange(1, units + 1, dtype=torch.float64, device=device) / 2 ** units.bit_length()  # all below 1
    layer_inputs: dict[str, Tensor] = {}

    def number_outputs(name: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
        if name in layer_inputs:
            raise InputError(f"method 'phew' does not support {name}, because the network uses it more than once")
        channel_axis = 1 if isinstance(module, nn.Conv2d) else -1
        layer_inputs[name] = inputs.movedim(channel_axis, 0).flatten(1)
        zeros = torch.zeros_like(outputs).movedim(channel_axis, -1)
        return (zeros + numbers if name == source else zeros).movedim(-1, channel_axis)

    inputs = torch.zeros(shape, dtype=torch.float64, device=device) if source else numbers.view(shape)
    weights = {n: w.double() for n, w in net.weights.items()}
    with torch.no_grad(), forward_hooks(net.model, net.weights, number_outputs):
        additive_pass(net.model, weights, inputs)
    unit_numbers = {name: values.amax(1) * 2 ** units.bit_length() for name, values in layer_inputs.items()}
    for name, values in unit_numbers.items():
        if (values - values.round()).abs().max() > 1e-6 or values.max() > units + 0.5:
            raise InputError(
                f"method 'phew' cannot follow the operations between {source or 'the input'} and {name}: they mix or "
                "gate channels, or add values; allowed: ReLU, norms, pooling, sums, concatenation, flattening"
            )
    return {name: (values.round().long() - 1).tolist() for name, values in unit_numbers.items()}
