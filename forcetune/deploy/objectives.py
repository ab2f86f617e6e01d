"""Measurements of pruned networks that a study file names under `measure:`, ready-made."""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from forcetune.deploy.files import NetworkWriter
from forcetune.deploy.inputs import InputFormat
from forcetune.deploy.measurement import TIMED_RUNS, measure_latency_ratio
from forcetune.deploy.runtimes import require_packages
from forcetune.pruning import Masks


def latency(
    model: nn.Module, example: Tensor, dense: nn.Module, network: nn.Module, masks: Masks | None
) -> dict[str, float]:
    """Return the latency of a pruned network as a ratio to that of the dense one, in ONNX Runtime on one thread.

    Both are exported as `forcetune export` does it, and run in turn at batch 1, twenty runs each, while no other
    latency is measured on this machine. A ratio travels between machines better than milliseconds do, and load beside
    the measurement slows both.

    Args:
        model: The pruned network without its dead channels. It is not used: an export keeps a few of these channels,
            with which ONNX Runtime is quicker.
        example: A batch of one sample, (1, *shape), as the network takes it.
        dense: The network before pruning, in eval mode.
        network: The pruned network at its full size.
        masks: Its masks, by parameter name; None for a network with nothing pruned.

    Returns:
        `latency_ratio` (the median over ten turns), `latency_ratio_spread` (the interquartile range over them),
        `latency_ms` and `dense_latency_ms` (medians).

    Raises:
        InputError: The packages of the extra `export` are missing, or torch cannot export the network.
    """
    require_packages("measure: forcetune.deploy:latency")
    shape = tuple(example.shape[1:])
    input_format = InputFormat(shape, "float32", "nchw" if len(shape) == 3 else None)
    with tempfile.TemporaryDirectory() as folder:
        writer = NetworkWriter(Path(folder), "onnx", input_format, {})
        path, _ = writer.write("pruned", network, masks)
        reference, _ = writer.write("dense", dense, None)
        measured = measure_latency_ratio(path, reference, input_format, TIMED_RUNS)
    return {
        "latency_ratio": measured.ratio,
        "latency_ratio_spread": measured.spread,
        "latency_ms": measured.file_ms,
        "dense_latency_ms": measured.reference_ms,
    }
