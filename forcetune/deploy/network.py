"""The network that is exported: without its dead channels, and with batch norm folded into the layers before it."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization

from forcetune.deploy.inputs import InputFormat, PixelNetwork
from forcetune.pruning import Masks
from forcetune.training import CompactionError, Masked, find_compaction
from forcetune.training.layout import restore_forwards

FOLDED_SAMPLES = 8  # on which the network with folded norms is compared with the one before
MAX_FOLDING_ERROR = 1e-4  # of the size of the outputs; float32 has seven digits, and a network loses few of them


@dataclass(frozen=True)
class DeployableNetwork:
    """A network that is ready to be exported.

    Attributes:
        module: The network behind the normalization of its input, in eval mode, float32, on the CPU.
        macs_fraction: The fraction of the dense network's multiply-adds that is left, 0 to 1.
        notes: Sentences on what could not be done.
    """

    module: PixelNetwork
    macs_fraction: float = 1.0
    notes: list[str] = field(default_factory=list)


def make_deployable(
    network: nn.Module, masks: Masks | None, input_format: InputFormat, channel_multiple: int = 1
) -> DeployableNetwork:
    """Compact a trained network, fold its batch norms and put the normalization in front.

    Args:
        network: The trained network, which stays as it is.
        masks: Its masks, by parameter name; None for a network with nothing pruned.
        input_format: The format of the samples that the result takes.
        channel_multiple: The number that divides the channels of a compacted layer, as in `find_compaction`.

    Returns:
        The network to export. Where dead channels cannot be cut out, it has its full size, with zeros for pruned
        weights, and a note says so.
    """
    notes: list[str] = []
    small, macs_fraction = _copy_masked(network, masks), 1.0
    if masks is not None:
        try:
            compaction = find_compaction(small, masks, input_format.shape, channel_multiple)
            small, macs_fraction = compaction.network, compaction.macs_fraction
        except CompactionError as error:
            notes.append(f"The network has its full size, with zeros for pruned weights: {error}.")
    folded, note = fold_batch_norm(small.eval(), input_format.shape)
    return DeployableNetwork(PixelNetwork(folded, input_format).eval(), macs_fraction, [*notes, *note])


def make_masked(network: nn.Module, masks: Masks | None, input_format: InputFormat, reason: str) -> DeployableNetwork:
    """Return a network at its full size, with zeros for pruned weights, unchanged but for the normalization in front.

    Args:
        network: The trained network, which stays as it is.
        masks: Its masks, by parameter name; None for a network with nothing pruned.
        input_format: The format of the samples that the result takes.
        reason: The reason why it is not compacted, for the note.
    """
    note = f"The network has its full size, with zeros for pruned weights: {reason}."
    return DeployableNetwork(PixelNetwork(_copy_masked(network, masks), input_format).eval(), 1.0, [note])


def fold_batch_norm(network: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, list[str]]:
    """Fold each batch norm into the layer before it, by torch's own function.

    Args:
        network: The network, in eval mode; it stays as it is.
        shape: The shape of one sample, without the batch.

    Returns:
        The network without these norms, and no note; or the network itself, and a note with the reason.
    """
    example = torch.randn((FOLDED_SAMPLES, *shape), generator=torch.Generator().manual_seed(0))
    try:
        folded = optimization.fuse(network).eval()
        difference = _compare(network, folded, example)
    except Exception as error:  # tracing runs the user's code, which may do anything
        reason = str(error).partition("\n")[0]
        return network, [f"Batch norm stays as layers of the network, which cannot be traced ({reason})."]
    if not difference <= MAX_FOLDING_ERROR:
        return network, ["Batch norm stays as layers of the network: folded, it computes other outputs."]
    return folded, []


@torch.no_grad()
def _compare(network: nn.Module, folded: nn.Module, example: Tensor) -> float:
    expected, outputs = network(example), folded(example)
    return float((expected - outputs).abs().max() / expected.abs().max().clamp_min(1e-30))


def _copy_masked(network: nn.Module, masks: Masks | None) -> nn.Module:
    """Return a copy of a network with its pruned weights at 0, float32, on the CPU.

    Its weights are in torch's default memory order. From channels last, in which networks are trained, torch exports a
    flattening as nine operations, which cost a tenth of a small network's time.
    """
    copied = copy.deepcopy(network).float().cpu().eval()
    restore_forwards(copied)
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()
    if masks is not None:
        Masked(copied, {name: mask.cpu() for name, mask in masks.items()})
    return copied
