"""Masks: bool tensors by parameter name, True keeps."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from forcetune.errors import InputError

Masks = dict[str, Tensor]


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that may be pruned, in module order: those of every Conv2d and Linear, never biases or norms.

    A weight that two modules share is listed once. Raises InputError where there is none.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and all(module.weight is not known for known in found.values()):
            found[f"{name}.weight" if name else "weight"] = module.weight
    if not found:
        raise InputError(
            f"the model {type(model).__name__} has no prunable layer; the weights of Conv2d and Linear are pruned"
        )
    return found


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """A bool tensor that keeps exactly `count` entries of a flat tensor, the largest; ties go to the lower index."""
    if count >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    keep = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    keep[ties[: count - int(keep.sum())]] = True
    return keep


def density(masks: Masks) -> float:
    """The fraction of weights kept."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def layer_table(masks: Masks) -> list[dict[str, object]]:
    """One row a layer: its name, shape, number of weights, how many are kept, and its density."""
    return [
        {
            "layer": name,
            "shape": list(mask.shape),
            "weights": mask.numel(),
            "kept": int(mask.sum()),
            "density": int(mask.sum()) / mask.numel(),
        }
        for name, mask in masks.items()
    ]


def save_masks(path: str | Path, masks: Masks) -> None:
    """Write masks as an .npz of packed bits, one array a layer, and `shapes`, a JSON text; no pickle."""
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    bits = {name: np.packbits(mask.cpu().numpy().ravel()) for name, mask in masks.items()}
    np.savez_compressed(path, allow_pickle=False, shapes=np.array(json.dumps(shapes)), **bits)


def load_masks(path: str | Path) -> Masks:
    """Read what `save_masks` wrote, in the same order."""
    with np.load(path, allow_pickle=False) as stored:
        shapes: dict[str, list[int]] = json.loads(str(stored["shapes"]))
        return {name: _unpack(stored[name], shape) for name, shape in shapes.items()}


def _unpack(bits: np.ndarray, shape: list[int]) -> Tensor:
    flat = np.unpackbits(bits, count=int(np.prod(shape)))
    return torch.from_numpy(flat.astype(bool).reshape(shape))
