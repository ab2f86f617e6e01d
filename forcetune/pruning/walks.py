"""Random walks through a network's weights, from input to output and back: PHEW [2010.11354]."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from forcetune.errors import InputError
from forcetune.pruning.additive import additive_pass, hooked
from forcetune.pruning.network import Network, Weights

FRUITLESS = 1000  # walks in a row without a new weight, after which the largest of the others fill the count
INPUT = ""  # the layer whose units are what the first layers read

Unit = tuple[str, int]  # a layer and one of its output channels, or one of its input channels
Weight = tuple[str, int]  # a layer and an index into its flat weights


def biased_walks(net: Network) -> Weights:
    """The sooner a walk takes a weight, the higher its score; walks go on until `net.count` weights are taken.

    Walks start in turn at each input unit and, backwards, at each output unit; at a unit they take one of its
    weights with a probability in proportion to |theta0|. A unit is a channel of a convolution or a row of a
    linear layer. Raises InputError where a layer is used twice, or what lies between two does more than pass
    channels on.
    """
    graph = _Graph(net)
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=net.generator)))
    found: dict[Weight, None] = {}  # in the order of discovery
    turn = fruitless = 0
    while len(found) < net.count and fruitless < FRUITLESS:
        before = len(found)
        forward = turn % 2 == 0
        starts = graph.inputs if forward else graph.outputs
        for weight in graph.walk(starts[turn // 2 % len(starts)], forward, numbers):
            found.setdefault(weight)
        turn += 1
        fruitless = 0 if len(found) > before else fruitless + 1
    # on the CPU: a GPU takes a launch for each weight
    scores = {name: weight.abs().double().cpu() for name, weight in net.weights.items()}
    highest = max(float(score.max()) for score in scores.values())
    for place, (name, index) in enumerate(found):
        scores[name].view(-1)[index] = highest + len(found) - place
    return {name: score.to(net.weights[name].device) for name, score in scores.items()}


class _Graph:
    """Which units feed which inputs of which layers, and the weights that a walk may take from each."""

    def __init__(self, net: Network) -> None:
        self._sizes = {n: w.abs().cpu().numpy() for n, w in net.weights.items()}
        self._indices: dict[str, np.ndarray] = {
            n: np.arange(w.size, dtype=np.int32).reshape(w.shape) for n, w in self._sizes.items()
        }
        self._feeds: dict[Unit, list[Unit]] = defaultdict(list)  # a unit to the inputs that read it
        self._fed: dict[Unit, list[Unit]] = defaultdict(list)  # an input to the units that it reads
        self._widths: dict[str, int] = {}  # input channels of each layer
        for source in (INPUT, *net.weights):
            for layer, units in _read_by(net, source).items():
                self._widths[layer] = len(units)
                for place, unit in enumerate(units):
                    if unit >= 0:
                        self._feeds[source, unit].append((layer, place))
                        self._fed[layer, place].append((source, unit))
        self.inputs = [unit for unit in self._feeds if unit[0] == INPUT]
        read = {layer for layer, _ in self._feeds}
        self.outputs = [(n, i) for n, w in self._sizes.items() if n not in read for i in range(len(w))]
        if not self.inputs:
            raise InputError("method 'phew' found no prunable layer that reads the network's input")

    def walk(self, start: Unit, forward: bool, numbers: np.random.Generator) -> Iterator[Weight]:
        """The weights along one walk."""
        units = [start]
        while edges := [edge for unit in units for edge in (self._after(unit) if forward else self._before(unit))]:
            layer, index = self._choose(edges, numbers)
            yield layer, index
            row, column = self._ends(layer, index)
            units = [(layer, row)] if forward else self._fed[layer, column]

    def _after(self, unit: Unit) -> list[tuple[str, np.ndarray]]:
        """The weights that read a unit, as flat indices by layer."""
        return [(layer, self._column(layer, place)) for layer, place in self._feeds.get(unit, [])]

    def _before(self, unit: Unit) -> list[tuple[str, np.ndarray]]:
        layer, row = unit
        return [] if layer == INPUT else [(layer, self._indices[layer][row].ravel())]

    def _column(self, layer: str, place: int) -> np.ndarray:
        """The weights of one input channel; in a grouped convolution, of its group's rows."""
        indices = self._indices[layer]
        group, column = divmod(place, indices.shape[1])
        rows = len(indices) * indices.shape[1] // self._widths[layer]
        return indices[group * rows : (group + 1) * rows, column].ravel()

    def _choose(self, edges: list[tuple[str, np.ndarray]], numbers: np.random.Generator) -> Weight:
        heights = np.cumsum(np.concatenate([self._sizes[layer].ravel()[at] for layer, at in edges], dtype=np.float64))
        if heights[-1] == 0:  # nothing to prefer
            heights = np.arange(1.0, len(heights) + 1)
        chosen = int(np.searchsorted(heights, numbers.random() * heights[-1], side="right"))
        for layer, at in edges:
            if chosen < len(at):
                return layer, int(at[chosen])
            chosen -= len(at)
        raise AssertionError("a number below 1 lies below the last height")

    def _ends(self, layer: str, index: int) -> tuple[int, int]:
        """The output and the input channel of a weight."""
        shape = self._indices[layer].shape
        row, rest = divmod(index, int(np.prod(shape[1:])))
        group = row // (len(self._indices[layer]) * shape[1] // self._widths[layer])
        return row, group * shape[1] + rest // int(np.prod(shape[2:]))


def _read_by(net: Network, source: str) -> dict[str, list[int]]:
    """By layer, the unit of `source` that each of its input channels reads, -1 for none.

    One additive pass in which the units of `source` give their own number and all other layers nothing.
    """
    shape = (1, *net.sample_shape())
    device = next(iter(net.weights.values())).device
    units = len(net.weights[source]) if source else int(np.prod(shape))
    numbers = torch.arange(1, units + 1, dtype=torch.float64, device=device) / 2 ** units.bit_length()  # below 1
    read: dict[str, Tensor] = {}

    def number(name: str, module: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
        if name in read:
            raise InputError(f"method 'phew' cannot walk through {name}, which the network uses in several places")
        channels = 1 if isinstance(module, nn.Conv2d) else -1
        read[name] = inputs.movedim(channels, 0).flatten(1)
        given = torch.zeros_like(outputs).movedim(channels, -1)
        return (given + numbers if name == source else given).movedim(-1, channels)

    inputs = torch.zeros(shape, dtype=torch.float64, device=device) if source else numbers.view(shape)
    weights = {n: w.double() for n, w in net.weights.items()}
    with torch.no_grad(), hooked(net.model, net.weights, number):
        additive_pass(net.model, weights, inputs)
    found = {name: values.amax(1) * 2 ** units.bit_length() for name, values in read.items()}
    for name, values in found.items():
        if (values - values.round()).abs().max() > 1e-6 or values.max() > units + 0.5:
            raise InputError(
                f"method 'phew' walks from channel to channel, and what lies between {source or 'the input'} and "
                f"{name} mixes or gates them, or adds values of its own; allowed there: ReLU, norms, pooling, sums, "
                "concatenation, flattening"
            )
    return {name: (values.round().long() - 1).tolist() for name, values in found.items()}
