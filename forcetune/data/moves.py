"""Random shifts and mirror images of training images: drawn for a whole pass, applied batch by batch."""

import numpy as np
import torch
from torch import Tensor


def draw_moves(count: int, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Draw the moves of the images of a pass.

    They are drawn on the CPU, so that they depend on no device, and for a whole pass, so that no batch waits for them.

    Args:
        count: The number of images.
        pad: The largest shift, in pixels.
        flip: Whether images are mirrored.
        generator: A generator on the CPU.

    Returns:
        The moves, int64 (count, 3): the first row and the first column that the moved image has of the image with `pad`
        zeros around it, 0 to 2 * pad, and 1 where it is mirrored.
    """
    bounds = (2 * pad + 1, 2 * pad + 1, 2 if flip else 1)
    return torch.stack([torch.randint(bound, (count,), generator=generator) for bound in bounds], 1)


def apply_moves(inputs: Tensor, moves: Tensor, pad: int, flip: bool) -> Tensor:
    """Shift and mirror images.

    Args:
        inputs: The images, (N, C, H, W).
        moves: The images' rows of the result of `draw_moves`.
        pad: The `pad` of `draw_moves`.
        flip: The `flip` of `draw_moves`.

    Returns:
        The moved images, (N, C, H, W).
    """
    rows, columns, mirrored = moves.unbind(1)
    if pad:
        inputs = _shift(inputs, rows, columns, pad)
    return _mirror(inputs, mirrored) if flip else inputs


def _shift(inputs: Tensor, rows: Tensor, columns: Tensor, pad: int) -> Tensor:
    """Return the window of each image that begins at this row and column of the image with `pad` zeros around it."""
    count, _, height, width = inputs.shape
    padded = torch.nn.functional.pad(inputs, (pad,) * 4)
    if inputs.device.type == "cpu":  # numpy copies rows, where torch would copy bytes
        windows = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (height, width), axis=(2, 3))
        return torch.from_numpy(windows[np.arange(count), :, rows.numpy(), columns.numpy()])
    unfolded = padded.unfold(2, height, 1).unfold(3, width, 1)
    return unfolded[torch.arange(count, device=inputs.device), :, rows, columns]


def _mirror(inputs: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images for which `mirrored` is 1, left to right."""
    if inputs.device.type != "cpu":
        # To count the mirrored images would wait for the device
        return torch.where(mirrored.bool()[:, None, None, None], inputs.flip(-1), inputs)
    mirrored_indices, count = mirrored.nonzero().flatten(), len(inputs)
    positions = torch.arange(count)
    positions[mirrored_indices] = torch.arange(count, count + len(mirrored_indices))
    flipped = inputs.index_select(0, mirrored_indices).flip(-1)
    # index_select copies whole rows, where an assignment would copy byte by byte
    return torch.cat((inputs, flipped)).index_select(0, positions)
