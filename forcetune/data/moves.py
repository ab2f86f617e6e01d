"""Random shifts and mirror images of training images: drawn for a whole pass, made batch by batch."""

import numpy as np
import torch
from torch import Tensor


def draw(count: int, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """(count, 3) on the CPU: by how many pixels an image moves down and right, 0 to 2 pad, and whether it is mirrored.

    On the CPU, so that it hangs on no device; for a whole pass, so that no batch waits for it.
    """
    bounds = (2 * pad + 1, 2 * pad + 1, 2 if flip else 1)
    return torch.stack([torch.randint(bound, (count,), generator=generator) for bound in bounds], 1)


def move(inputs: Tensor, moves: Tensor, pad: int, flip: bool) -> Tensor:
    """Images (N, C, H, W) as `moves`, the rows of what `draw` returned with these `pad` and `flip`, says of each."""
    rows, columns, mirrored = moves.unbind(1)
    if pad:
        inputs = _shifted(inputs, rows, columns, pad)
    return _mirrored(inputs, mirrored) if flip else inputs


def _shifted(inputs: Tensor, rows: Tensor, columns: Tensor, pad: int) -> Tensor:
    """The window of each image that begins at these places once it has `pad` zeros beyond each edge."""
    count, _, height, width = inputs.shape
    padded = torch.nn.functional.pad(inputs, (pad,) * 4)
    if inputs.device.type == "cpu":  # numpy copies rows where torch copies bytes
        windows = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (height, width), axis=(2, 3))
        return torch.from_numpy(windows[np.arange(count), :, rows.numpy(), columns.numpy()])
    unfolded = padded.unfold(2, height, 1).unfold(3, width, 1)
    return unfolded[torch.arange(count, device=inputs.device), :, rows, columns]


def _mirrored(inputs: Tensor, mirrored: Tensor) -> Tensor:
    """Those for which it is 1, left to right."""
    if inputs.device.type != "cpu":
        return torch.where(mirrored.bool()[:, None, None, None], inputs.flip(-1), inputs)  # no device counts unasked
    chosen, count = mirrored.nonzero().flatten(), len(inputs)
    places = torch.arange(count)
    places[chosen] = torch.arange(count, count + len(chosen))
    flipped = inputs.index_select(0, chosen).flip(-1)
    return torch.cat((inputs, flipped)).index_select(0, places)  # rows are copied, where an assignment goes by bytes
