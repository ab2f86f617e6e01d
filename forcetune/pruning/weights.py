"""A trained network as the content of a file: the kept weights, the packed masks, and all other tensors."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from forcetune.errors import InputError
from forcetune.models.preserving import list_tensors
from forcetune.names import NETWORK_FILE
from forcetune.pruning.masks import Masks, pack_bits, unpack_bits

NETWORK_FILE_VERSION = "1"  # another one where files that are there could no longer be read
VALUES_PREFIX, MASK_PREFIX, TENSOR_PREFIX = "values/", "mask/", "tensor/"  # of the names in the file


@dataclass(frozen=True)
class Architecture:
    """The arguments of a network's builder; networks of equal arguments have tensors of equal names and shapes.

    Attributes:
        model: The name of the network's builder, as `models.build` takes it.
        width: The width that the builder was given; None for its default.
        input_shape: The shape of one sample, without the batch.
        classes: The number of classes.
    """

    model: str
    width: int | None
    input_shape: tuple[int, ...]
    classes: int


def pack_network(network: nn.Module, masks: Masks, architecture: Architecture) -> bytes:
    """Pack a pruned network into the content of a .safetensors file, from which `unpack_network` restores it.

    The file has the tensors `values/NAME`, the kept weights of a masked parameter in row-major order; `mask/NAME`, the
    bits of its mask (`numpy.packbits` of the flattened mask) compressed by zlib; and `tensor/NAME`, any other parameter
    or buffer. A tensor that two modules share is there once. The metadata have the version of this layout, the
    architecture, and the shapes of the masks.

    Args:
        network: The network. What its weights are where the masks prune them does not matter.
        masks: A bool tensor for each masked parameter, by its name; True keeps.
        architecture: The arguments of the network's builder.

    Returns:
        The content.
    """
    content: dict[str, Tensor] = {}
    for name, tensor in list_tensors(network).items():
        if name in masks:
            packed_bits = zlib.compress(pack_bits(masks[name]).tobytes())
            content[VALUES_PREFIX + name] = tensor.cpu()[masks[name].cpu()]
            content[MASK_PREFIX + name] = torch.frombuffer(bytearray(packed_bits), dtype=torch.uint8)
        else:
            content[TENSOR_PREFIX + name] = tensor.cpu().contiguous()
    metadata = {
        "version": NETWORK_FILE_VERSION,
        "architecture": json.dumps(asdict(architecture)),
        "masks": json.dumps({name: list(mask.shape) for name, mask in masks.items()}),
    }
    packed: bytes = safetensors.torch.save(content, metadata)
    return packed


def read_architecture(content: bytes) -> Architecture:
    """Return the arguments of the builder of the network in a file.

    Args:
        content: The content of the file, as `pack_network` returns it.

    Raises:
        InputError: The content is damaged, or not that of a network.
    """
    values: dict[str, Any] = _read_metadata(content)["architecture"]
    if values.keys() != {field.name for field in fields(Architecture)}:
        raise _damaged(f"its architecture has the entries {', '.join(values)}")
    return Architecture(**{**values, "input_shape": tuple(values["input_shape"])})


def unpack_masks(content: bytes) -> Masks:
    """Return the masks in a file, parameter name to bool tensor, on the CPU.

    Args:
        content: The content of the file, as `pack_network` returns it.

    Raises:
        InputError: The content is damaged, or not that of a network.
    """
    shapes: dict[str, list[int]] = _read_metadata(content)["masks"]
    stored = _read_tensors(content)
    return {name: _unpack_mask(stored, name, shape) for name, shape in shapes.items()}


def unpack_network(content: bytes, network: nn.Module) -> Masks:
    """Put the weights of a file into a network, exactly as they were; pruned weights become 0.

    Args:
        content: The content of the file, as `pack_network` returns it.
        network: A network of the same architecture; it is changed only where all of the file fits it.

    Returns:
        The masks, parameter name to bool tensor, on the CPU.

    Raises:
        InputError: The content is damaged, not that of a network, or that of another network.
    """
    masks, stored = unpack_masks(content), _read_tensors(content)
    restored = {
        name.removeprefix(TENSOR_PREFIX): tensor for name, tensor in stored.items() if name.startswith(TENSOR_PREFIX)
    }
    restored |= {name: _spread(stored, name, mask) for name, mask in masks.items()}
    tensors = list_tensors(network)
    _check_fit(restored, tensors)
    for name, tensor in restored.items():
        tensors[name].copy_(tensor)
    return masks


def _read_metadata(content: bytes) -> dict[str, Any]:
    """Return the entries of a file's metadata, parsed."""
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        version = metadata["version"]
        entries = {name: dict(json.loads(metadata[name])) for name in ("architecture", "masks")}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(error) from error
    if version != NETWORK_FILE_VERSION:
        raise InputError(
            f"{NETWORK_FILE} has version {version} of its layout, but this forcetune reads version "
            f"{NETWORK_FILE_VERSION}; read it with the version of forcetune that has written it"
        )
    return entries


def _read_tensors(content: bytes) -> dict[str, Tensor]:
    try:
        stored: dict[str, Tensor] = safetensors.torch.load(content)
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise _damaged(error) from error
    return stored


def _unpack_mask(stored: Mapping[str, Tensor], name: str, shape: list[int]) -> Tensor:
    try:
        packed_bits = zlib.decompress(stored[MASK_PREFIX + name].numpy().tobytes())
        return unpack_bits(np.frombuffer(packed_bits, np.uint8), shape)
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise _damaged(f"the mask of {name}: {error}") from error


def _spread(stored: Mapping[str, Tensor], name: str, mask: Tensor) -> Tensor:
    """Return the kept weights of a parameter in its shape, with 0 where the mask prunes."""
    values = stored.get(VALUES_PREFIX + name)
    if values is None or values.shape != (int(mask.sum()),):
        count = "no" if values is None else values.numel()
        raise _damaged(f"{name} has {count} values, but its mask keeps {int(mask.sum())}")
    weight = torch.zeros(mask.shape, dtype=values.dtype)
    weight[mask] = values
    return weight


def _check_fit(restored: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError where a file has other tensors than a network."""
    differences = [
        f"{name} is {_describe(restored.get(name))} in the file and {_describe(tensors.get(name))} in the network"
        for name in dict.fromkeys([*tensors, *restored])
        if _describe(restored.get(name)) != _describe(tensors.get(name))
    ]
    if differences:
        more = f", and {len(differences) - 1} other tensors differ" if len(differences) > 1 else ""
        raise InputError(f"{NETWORK_FILE} belongs to another network: {differences[0]}{more}")


def _describe(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _damaged(reason: object) -> InputError:
    return InputError(f"{NETWORK_FILE} is damaged, or is no network that forcetune has written: {reason}")
