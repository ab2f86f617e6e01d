"""The comparison of an exported file with the trained network, on the whole validation split."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forcetune.deploy.inputs import SampleBatch
from forcetune.errors import InputError

MAX_OUTPUT_DIFFERENCE = 1e-4  # of the range of the logits, float32
# Of the validation samples: another machine rounds in another way, and a GPU may have measured the run in bf16.
MAX_ACCURACY_CHANGE, MAX_CHANGED_SAMPLES = 0.005, 2


@dataclass(frozen=True)
class Verification:
    """The outputs of a file beside those of the trained network.

    Attributes:
        samples: The number of validation samples.
        largest_difference: The largest difference between two logits.
        relative_difference: The same as a share of the range of the network's logits.
        agreement: The share of the samples that have the same class, 0 to 1.
        accuracy: The accuracy of the file in its runtime, 0 to 1.
        network_accuracy: The accuracy of the trained network in torch, 0 to 1.
    """

    samples: int
    largest_difference: float
    relative_difference: float
    agreement: float
    accuracy: float
    network_accuracy: float


@torch.no_grad()
def compare_outputs(
    run: Callable[[Tensor], Tensor], network: nn.Module, batches: Iterable[SampleBatch]
) -> Verification:
    """Compare a file with the trained network.

    Args:
        run: A function of the samples in the format of the file that returns the logits (N, classes).
        network: The trained network, in eval mode, on the CPU.
        batches: The validation samples.

    Returns:
        The comparison.
    """
    pairs = [(run(batch.inputs).float(), network(batch.normalized).float(), batch.targets) for batch in batches]
    outputs, expected, targets = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    difference = float((outputs - expected).abs().max())
    classes, expected_classes = outputs.argmax(1), expected.argmax(1)
    return Verification(
        samples=len(targets),
        largest_difference=difference,
        relative_difference=difference / max(float(expected.max() - expected.min()), 1e-30),
        agreement=float((classes == expected_classes).double().mean()),
        accuracy=float((classes == targets).double().mean()),
        network_accuracy=float((expected_classes == targets).double().mean()),
    )


def check_outputs(verification: Verification) -> None:
    """Check that a float32 file computes what the trained network computes.

    Raises:
        InputError: Its outputs differ.
    """
    if not verification.relative_difference <= MAX_OUTPUT_DIFFERENCE:
        raise InputError(
            f"the exported file disagrees with the trained network: over {verification.samples} validation samples "
            f"their logits differ by up to {verification.relative_difference:.2g} of their range (allowed: "
            f"{MAX_OUTPUT_DIFFERENCE:g}), and {verification.agreement:.2%} of the classes agree; no file is written"
        )


def check_accuracy(verification: Verification, run_id: str, run_accuracy: float | None) -> None:
    """Check that the trained network has the accuracy that its run logged.

    Args:
        verification: The comparison.
        run_id: The id of the run.
        run_accuracy: The run's `val_accuracy`; None where it has none.

    Raises:
        InputError: The accuracies differ by more than rounding can change.
    """
    if run_accuracy is None:
        return
    if not is_same_accuracy(verification.accuracy, run_accuracy, verification.samples):
        raise InputError(
            f"the exported file has the accuracy {verification.accuracy:.4f} on {verification.samples} validation "
            f"samples, but the run {run_id} logged val_accuracy {run_accuracy:.4f}: the data set, its code or the "
            "weights are not those of the run; no file is written"
        )


def is_same_accuracy(accuracy: float, other_accuracy: float, samples: int) -> bool:
    """Return whether two accuracies on the same samples differ by no more than rounding can change.

    Args:
        accuracy: An accuracy, 0 to 1.
        other_accuracy: Another one.
        samples: The number of samples.
    """
    changed = abs(accuracy - other_accuracy) * samples
    return changed <= max(MAX_CHANGED_SAMPLES, MAX_ACCURACY_CHANGE * samples) + 1e-6


@torch.no_grad()
def measure_accuracy(run: Callable[[Tensor], Tensor], batches: Iterable[SampleBatch]) -> tuple[float, int]:
    """Return the accuracy of a file, and the number of samples.

    Args:
        run: A function of the samples in the format of the file that returns the logits (N, classes).
        batches: The samples.
    """
    hits = [run(batch.inputs).argmax(1) == batch.targets for batch in batches]
    correct = torch.cat(hits)
    return float(correct.double().mean()), len(correct)
