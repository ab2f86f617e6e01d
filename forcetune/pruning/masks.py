"""Masks: bool tensors by parameter name, in which True keeps a weight."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from forcetune.errors import InputError

Masks = dict[str, Tensor]
SAFETENSORS_SUFFIX, LAYER_ORDER_KEY = ".safetensors", "order"  # the key is of the file's metadata


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that may be pruned: those of every Conv2d and Linear, never biases or norms.

    A weight that two modules share is listed once. The weight of a Linear that is tied to an embedding may be pruned
    like any other Linear's: a pruned weight is then 0 in both. A weight that is frozen (`requires_grad` is False) is
    not listed.

    Args:
        model: The network.

    Returns:
        Parameter name to weight, in the order of the Conv2d and Linear modules. The name is that of
        `named_parameters()`, which names a shared weight after the first module that has it.

    Raises:
        InputError: The network has no such weight, or a layer computes its weight from other parameters, so that a mask
            of it would mean nothing.
    """
    weights: dict[str, Tensor] = {}
    parameter_names = {id(parameter): name for name, parameter in model.named_parameters()}
    frozen = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if "weight" not in module._parameters:
            raise InputError(
                f"the layer {name or type(model).__name__} computes its weight from other parameters (weight_norm, "
                "spectral_norm, torch.nn.utils.prune or another parametrization), and such a weight cannot have a "
                "mask; remove the parametrization first, with torch.nn.utils.parametrize.remove_parametrizations or "
                "torch.nn.utils.prune.remove"
            )
        frozen += not module.weight.requires_grad
        if module.weight.requires_grad:
            weights.setdefault(parameter_names[id(module.weight)], module.weight)
    if not weights:
        frozen_reason = f"all its {frozen} Conv2d and Linear layers are frozen"
        reason = frozen_reason if frozen else "it has no Conv2d or Linear layer"
        raise InputError(f"the model {type(model).__name__} has no prunable layer; {reason}")
    return weights


def weight_name(layer: str) -> str:
    """Return the parameter name of a layer's weight; the layer may be the whole network, whose name is empty."""
    return f"{layer}.weight" if layer else "weight"


def dense_masks(model: nn.Module) -> Masks:
    """Return masks that keep every prunable weight of a network.

    Args:
        model: The network.

    Returns:
        Parameter name to bool tensor of the parameter's shape, in module order.

    Raises:
        InputError: The network has no weight that may be pruned.
    """
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """Return a mask of a flat tensor's exactly `count` largest scores; ties go to the lower index."""
    if count >= scores.numel() or count == 0:
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = _find_threshold(scores, count)
    keep = scores >= threshold
    surplus = int(keep.count_nonzero()) - count
    if surplus:
        ties = (scores == threshold).nonzero().flatten()
        keep[ties[len(ties) - surplus :]] = False
    return keep


def keep_by_layer(scores: Mapping[str, Tensor], counts: Sequence[int]) -> Masks:
    """Return masks that keep the `counts` largest scores of each layer; ties go to the lower index.

    Args:
        scores: Parameter name to scores.
        counts: The number of weights to keep in each layer, in the order of `scores`.
    """
    return {
        name: keep_largest(score.flatten(), count).view(score.shape)
        for (name, score), count in zip(scores.items(), counts, strict=True)
    }


def unflatten(flat: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of a flat tensor as tensors with these names and shapes."""
    segments = flat.split([tensor.numel() for tensor in tensors.values()])
    return {name: segment.view(tensor.shape) for (name, tensor), segment in zip(tensors.items(), segments, strict=True)}


def _find_threshold(scores: Tensor, count: int) -> float | Tensor:
    """Return the `count`-th largest score."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        return _find_threshold_by_numpy(scores.numpy(), count)
    position = scores.numel() - count
    if scores.is_cuda:  # kthvalue would run on a single block of threads
        return scores.sort().values[position]
    return scores.kthvalue(position + 1).values


def _find_threshold_by_numpy(scores: np.ndarray, count: int) -> float:
    """Return the `count`-th largest score by numpy's introselect, which is vectorized.

    It takes ten times as long where most scores are equal, such as those of weights that earlier steps have pruned. So
    the lowest score is left out first where half of the scores or more have it.
    """
    lowest = scores.min()
    above = scores > lowest
    above_count = np.count_nonzero(above)
    if above_count < count:
        return float(lowest)
    if above_count < scores.size // 2:
        scores = scores[above]
    position = scores.size - count
    return float(np.partition(scores, position)[position])


def density(masks: Masks) -> float:
    """Return the fraction of the weights that masks keep."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def layer_densities(masks: Masks, weights: Mapping[str, Tensor]) -> list[float]:
    """Return the density of the mask of each weight.

    Args:
        masks: Parameter name to mask.
        weights: Parameter name to weight, for the weights of the network.

    Returns:
        The density of each weight's mask, in the order of `weights`.

    Raises:
        InputError: The masks belong to another network.
    """
    for name, weight in weights.items():
        if name not in masks or masks[name].shape != weight.shape:
            mismatch = f"has shape {tuple(masks[name].shape)} in" if name in masks else "is missing from"
            raise InputError(
                f"the masks given for layer densities belong to another network: {name} has shape "
                f"{tuple(weight.shape)} in this network, but {mismatch} the masks"
            )
    return [int(masks[name].sum()) / masks[name].numel() for name in weights]


def emptied_channels(mask: Tensor) -> int:
    """Return the number of output channels of a layer that keep no weight."""
    return int((~mask.flatten(1).any(1)).sum())


def shuffled(masks: Masks, seed: int) -> Masks:
    """Permute the bits of each layer within the layer, so that each layer keeps its count [2009.08576].

    Args:
        masks: Parameter name to mask.
        seed: The seed of the permutations.

    Returns:
        Parameter name to permuted mask.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: permuted(mask, generator) for name, mask in masks.items()}


def permuted(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor of the same shape with the values in random order."""
    order = torch.randperm(values.numel(), generator=generator).to(values.device)
    return values.flatten()[order].view(values.shape)


def layer_table(masks: Masks) -> list[dict[str, Any]]:
    """Return one row for each layer of a mask.

    Args:
        masks: Parameter name to mask.

    Returns:
        The rows, with the layer's name (`layer`), its `shape`, its `weights`, the number of `kept` weights, its
        `density`, its output `channels` and its emptied channels (`channels_emptied`).
    """
    return [
        {
            "layer": name,
            "shape": list(mask.shape),
            "weights": mask.numel(),
            "kept": int(mask.sum()),
            "density": int(mask.sum()) / mask.numel(),
            "channels": len(mask),
            "channels_emptied": emptied_channels(mask),
        }
        for name, mask in masks.items()
    ]


def pack_masks(masks: Masks) -> bytes:
    """Pack masks into the content of an .npz file without pickles.

    Args:
        masks: Parameter name to mask.

    Returns:
        The content: one array of packed bits for each layer, and `shapes`, a JSON text.
    """
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    bits = {name: pack_bits(mask) for name, mask in masks.items()}
    packed = BytesIO()
    np.savez_compressed(packed, allow_pickle=False, shapes=np.array(json.dumps(shapes)), **bits)
    return packed.getvalue()


def save_masks(path: str | Path, masks: Masks) -> None:
    """Write masks to a file.

    Args:
        path: The file. It holds bool tensors where its name ends in .safetensors, else an .npz as `pack_masks` packs
            it.
        masks: Parameter name to mask.

    Raises:
        InputError: The file cannot be written.
    """
    content = _pack_safetensors(masks) if Path(path).suffix == SAFETENSORS_SUFFIX else pack_masks(masks)
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def load_masks(path: str | Path) -> Masks:
    """Read masks that `save_masks` wrote, or any .safetensors file with one bool tensor for each parameter.

    Args:
        path: The file.

    Returns:
        Parameter name to bool tensor of the parameter's shape, in the order of the network's modules; for a
        .safetensors file of another program, in the order of the file.

    Raises:
        InputError: The file holds no such masks.
    """
    if Path(path).suffix == SAFETENSORS_SUFFIX:
        return _load_safetensors(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            shapes: dict[str, list[int]] = json.loads(str(stored["shapes"]))
            return {name: unpack_bits(stored[name], shape) for name, shape in shapes.items()}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, BadZipFile) as error:
        raise InputError(
            f"{path} is not a readable mask file ({error}); `forcetune prune` and trials write such files"
        ) from error


def _pack_safetensors(masks: Masks) -> bytes:
    contiguous_masks = {name: mask.cpu().contiguous() for name, mask in masks.items()}
    content: bytes = safetensors.torch.save(contiguous_masks, {LAYER_ORDER_KEY: json.dumps(list(masks))})
    return content


def _load_safetensors(path: str | Path) -> Masks:
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            order = (stored.metadata() or {}).get(LAYER_ORDER_KEY)
            masks: Masks = {name: stored.get_tensor(name) for name in (json.loads(order) if order else stored.keys())}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is not a readable mask file ({error})") from error
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise InputError(f"{path}: {name} is {mask.dtype}; a mask must be bool, True where a weight is kept")
    return masks


def pack_bits(mask: Tensor) -> np.ndarray:
    """Return the bits of a mask in row-major order, uint8."""
    return np.packbits(mask.cpu().numpy().ravel())


def unpack_bits(bits: np.ndarray, shape: list[int]) -> Tensor:
    """Return the mask of this shape whose bits `pack_bits` packed, on the CPU."""
    flat = np.unpackbits(bits, count=int(np.prod(shape)))
    return torch.from_numpy(flat.astype(bool).reshape(shape))
