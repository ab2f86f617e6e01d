"""Masks: bool tensors by parameter name, True keeps."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from forcetune.errors import InputError

Masks = dict[str, Tensor]
SAFETENSORS, ORDER = ".safetensors", "order"  # the end of a file's name, and where it keeps the order of the layers


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that may be pruned, in module order: those of every Conv2d and Linear, never biases or norms.

    A weight that two modules share is listed once, and one that is frozen (`requires_grad` is False) not at all.

    Raises:
        InputError: There is none, or a layer computes its weight from other parameters, of which a mask means nothing.
    """
    found: dict[str, Tensor] = {}
    frozen = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if "weight" not in module._parameters:
            raise InputError(
                f"the layer {name or type(model).__name__} computes its weight from other parameters (weight_norm, "
                "spectral_norm, torch.nn.utils.prune or another parametrization), and such a weight has no mask of "
                "its own; remove that first: torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.prune.remove"
            )
        frozen += not module.weight.requires_grad
        if module.weight.requires_grad and all(module.weight is not known for known in found.values()):
            found[f"{name}.weight" if name else "weight"] = module.weight
    if not found:
        why = f"its {frozen} layers are frozen" if frozen else "the weights of Conv2d and Linear are pruned"
        raise InputError(f"the model {type(model).__name__} has no prunable layer; {why}")
    return found


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """A bool tensor that keeps exactly `count` entries of a flat tensor, the largest; ties go to the lower index."""
    if count >= scores.numel() or count == 0:
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = _largest(scores, count)
    keep = scores >= threshold
    surplus = int(keep.count_nonzero()) - count
    if surplus:
        ties = (scores == threshold).nonzero().flatten()
        keep[ties[len(ties) - surplus :]] = False
    return keep


def _largest(scores: Tensor, count: int) -> float | Tensor:
    """The `count`-th largest score, selected without sorting."""
    place = scores.numel() - count
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        found: float = np.partition(scores.numpy(), place)[place].item()  # an introselect in vector instructions
        return found
    if scores.is_cuda:  # kthvalue runs on a single block of threads there
        return scores.sort().values[place]
    return scores.kthvalue(place + 1).values


def density(masks: Masks) -> float:
    """The fraction of weights kept."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def layer_densities(masks: Masks, weights: Mapping[str, Tensor]) -> list[float]:
    """The density of each of these weights' masks. Raises InputError where the masks are of another network."""
    for name, weight in weights.items():
        if name not in masks or masks[name].shape != weight.shape:
            found = f"with shape {tuple(masks[name].shape)}" if name in masks else "not at all"
            raise InputError(
                f"the masks whose layer densities are copied are of another network: {name} has shape "
                f"{tuple(weight.shape)} in this one, and stands in those {found}"
            )
    return [int(masks[name].sum()) / masks[name].numel() for name in weights]


def emptied_channels(mask: Tensor) -> int:
    """Output channels of a layer without a weight."""
    return int((~mask.flatten(1).any(1)).sum())


def shuffled(masks: Masks, seed: int) -> Masks:
    """The bits of each layer in random places of the same layer: the layers keep their counts [2009.08576]."""
    generator = torch.Generator().manual_seed(seed)
    return {name: permuted(mask, generator) for name, mask in masks.items()}


def permuted(values: Tensor, generator: torch.Generator) -> Tensor:
    """The same values in random places."""
    order = torch.randperm(values.numel(), generator=generator).to(values.device)
    return values.flatten()[order].view(values.shape)


def layer_table(masks: Masks) -> list[dict[str, Any]]:
    """One row a layer: its name, shape, weights, how many are kept, its density, channels and emptied channels."""
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
    """Masks as the content of an .npz of packed bits, one array a layer, and `shapes`, a JSON text; no pickle."""
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    bits = {name: np.packbits(mask.cpu().numpy().ravel()) for name, mask in masks.items()}
    packed = BytesIO()
    np.savez_compressed(packed, allow_pickle=False, shapes=np.array(json.dumps(shapes)), **bits)
    return packed.getvalue()


def save_masks(path: str | Path, masks: Masks) -> None:
    """Write masks to a file: an .npz as `pack_masks` packs it, or bool tensors where its name ends in .safetensors.

    Raises:
        InputError: The file cannot be written, or the package safetensors is missing.
    """
    content = _save_safetensors(path, masks) if Path(path).suffix == SAFETENSORS else pack_masks(masks)
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def load_masks(path: str | Path) -> Masks:
    """Return the masks of a file that `save_masks` wrote, or of any .safetensors with one bool tensor a parameter.

    Returns:
        Parameter name to bool tensor of the parameter's shape, in the order of the network's modules; of a .safetensors
        of another program, in the order of the file.

    Raises:
        InputError: It is no such file, or the package safetensors is missing.
    """
    if Path(path).suffix == SAFETENSORS:
        return _load_safetensors(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            shapes: dict[str, list[int]] = json.loads(str(stored["shapes"]))
            return {name: _unpack(stored[name], shape) for name, shape in shapes.items()}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, BadZipFile) as error:
        raise InputError(
            f"{path} is no readable file of masks ({error}); `forcetune prune` and trials write them"
        ) from error


def _save_safetensors(path: str | Path, masks: Masks) -> bytes:
    safetensors = _safetensors(path)
    kept = {name: mask.cpu().contiguous() for name, mask in masks.items()}
    content: bytes = safetensors.torch.save(kept, {ORDER: json.dumps(list(masks))})
    return content


def _load_safetensors(path: str | Path) -> Masks:
    safetensors = _safetensors(path)
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            order = (stored.metadata() or {}).get(ORDER)
            masks: Masks = {name: stored.get_tensor(name) for name in (json.loads(order) if order else stored.keys())}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is no readable file of masks ({error})") from error
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise InputError(f"{path}: {name} is {mask.dtype}; a mask is bool, True where a weight is kept")
    return masks


def _safetensors(path: str | Path) -> ModuleType:
    try:
        import safetensors.torch
    except ImportError:
        raise InputError(f"{path}: this takes the package safetensors: `pip install safetensors`") from None
    return safetensors


def _unpack(bits: np.ndarray, shape: list[int]) -> Tensor:
    flat = np.unpackbits(bits, count=int(np.prod(shape)))
    return torch.from_numpy(flat.astype(bool).reshape(shape))
