"""Trained networks as the content of a file: exact to the bit, small, and refused where they are damaged."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import load
from torch import nn

from forcetune.errors import InputError
from forcetune.models import build
from forcetune.pruning import dense_masks
from forcetune.pruning.weights import Architecture, pack_network, read_architecture, unpack_network

CONVNET = Architecture("convnet", 4, (1, 8, 8), 3)


def make_network(architecture=CONVNET, density=0.3, seed=0):
    """Return a pruned network whose buffers have moved, and its masks."""
    network = build(
        architecture.model, architecture.input_shape, architecture.classes, architecture.width, seed=seed
    ).train()
    generator = torch.Generator().manual_seed(seed)
    network(torch.randn(16, *architecture.input_shape, generator=generator))
    masks = {name: torch.rand(mask.shape, generator=generator) < density for name, mask in dense_masks(network).items()}
    with torch.no_grad():
        for name, mask in masks.items():
            network.get_parameter(name).mul_(mask)
    return network, masks


def restore(content, architecture=CONVNET):
    network = build(architecture.model, architecture.input_shape, architecture.classes, architecture.width, seed=99)
    return network, unpack_network(content, network)


def assert_equal_bits(network, expected):
    tensors = expected.state_dict()
    assert [*network.state_dict()] == [*tensors]
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == tensors[name].dtype
        # a pruned weight may be -0.0 in training, which equals 0.0
        assert torch.equal(tensor.view(-1).add(0), tensors[name].reshape(-1).add(0)), name


def test_a_network_comes_back_with_its_weights_buffers_and_masks():
    network, masks = make_network()
    restored, restored_masks = restore(pack_network(network, masks, CONVNET))
    assert_equal_bits(restored, network)
    assert int(restored.state_dict()["1.num_batches_tracked"]) == 1
    assert [*restored_masks] == [*masks]
    assert all(torch.equal(restored_masks[name], mask) for name, mask in masks.items())


def test_the_architecture_is_in_the_file():
    assert read_architecture(pack_network(*make_network(), CONVNET)) == CONVNET


class SharedLayers(nn.Module):
    """A network with a weight that two layers share, a frozen layer, a buffer outside of the state dict, and bf16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(3, 2).requires_grad_(False).bfloat16()
        self.register_buffer("scale", torch.rand(()), persistent=False)

    def forward(self, inputs):
        return self.frozen(self.second(self.first(inputs)).bfloat16()).float() * self.scale


@settings(max_examples=40, deadline=None)
@given(seed=some.integers(0, 1000), density=some.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_any_network_and_any_masks_come_back_bit_for_bit(seed, density):
    torch.manual_seed(seed)
    network, other = SharedLayers(), SharedLayers()
    with torch.no_grad():  # every pattern of bits, infinities and NaNs too
        network.first.weight.copy_(torch.randint(-(2**31), 2**31 - 1, (3, 3), dtype=torch.int32).view(torch.float32))
    masks = {"first.weight": torch.rand(3, 3) < density}
    assert torch.equal(
        unpack_network(pack_network(network, masks, CONVNET), other)["first.weight"], masks["first.weight"]
    )
    mask = masks["first.weight"]
    bits, restored_bits = (net.first.weight.detach().view(torch.int32) for net in (network, other))
    assert torch.equal(restored_bits[mask], bits[mask])
    assert not restored_bits[~mask].any(), "what a dense training has underneath is not delivered"
    assert other.second.weight is other.first.weight
    assert torch.equal(other.frozen.weight, network.frozen.weight)
    assert torch.equal(other.scale, network.scale)


def test_zeros_take_no_space():
    architecture = Architecture("mlp", 400, (1, 28, 28), 10)
    network, masks = make_network(architecture, density=0.01)
    weights = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    biases = sum(parameter.numel() for name, parameter in network.named_parameters() if name not in masks)
    size = len(pack_network(network, masks, architecture))
    assert size < 4 * (kept + biases) + 0.02 * weights + 2000, "0.08 bits a weight say which ones are kept"


def test_another_program_can_read_the_layout_as_it_is_described():
    import zlib

    network, masks = make_network()
    content = pack_network(network, masks, CONVNET)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    stored = load(content)
    for name, shape in json.loads(metadata["masks"]).items():
        bits = np.frombuffer(zlib.decompress(stored[f"mask/{name}"].numpy().tobytes()), np.uint8)
        weight = np.zeros(np.prod(shape), np.float32)
        weight[np.unpackbits(bits, count=weight.size) == 1] = stored[f"values/{name}"]
        assert np.array_equal(weight.reshape(shape), network.get_parameter(name).detach().numpy())


def test_a_file_of_another_network_is_refused_and_changes_nothing():
    content = pack_network(*make_network(), CONVNET)
    network = build("convnet", (1, 8, 8), 4, 4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=r"belongs to another network: .* is float32 .* and float32 .* in the network"):
        unpack_network(content, network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(InputError, match=r"in the network, and 66 other tensors differ"):
        unpack_network(content, build("resnet8", (1, 8, 8), 3))


@settings(max_examples=60, deadline=None)
@given(data=some.data())
def test_a_file_that_is_cut_short_is_refused(data):
    content = pack_network(*make_network(), CONVNET)
    cut = content[: data.draw(some.integers(0, len(content) - 1))]
    with pytest.raises(InputError, match=r"is damaged, or is no network"):
        restore(cut)


def test_a_file_of_another_layout_is_refused():
    content = pack_network(*make_network(), CONVNET)
    with pytest.raises(InputError, match="has version 7 of its layout"):
        restore(content.replace(b'"version":"1"', b'"version":"7"'))


def change_tensors(content, change):
    """Return the content with other tensors, under the metadata that it had."""
    from safetensors.torch import save

    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors = load(content)
    change(tensors)
    return save(tensors, metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("values/0.weight"),
        lambda tensors: tensors.pop("mask/0.weight"),
        lambda tensors: tensors.update({"values/0.weight": tensors["values/0.weight"][1:].clone()}),
        lambda tensors: tensors.update({"mask/0.weight": torch.zeros(4, dtype=torch.uint8)}),
    ],
)
def test_masks_and_values_that_contradict_each_other_are_refused(change):
    content = change_tensors(pack_network(*make_network(), CONVNET), change)
    with pytest.raises(InputError, match=r"is damaged.*0\.weight"):
        restore(content)
