"""The int8 version of an ONNX file, by ONNX Runtime's static quantization."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from forcetune import data
from forcetune.deploy.inputs import InputFormat, iterate_samples
from forcetune.deploy.runtimes import INPUT_NAME
from forcetune.deploy.writing import silence_logs

CALIBRATION_SAMPLES, CALIBRATION_BATCH_SIZE = 512, 32
# The layers, and what stands between two of them; the normalization of the input stays float32.
QUANTIZED_OPERATIONS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"]


def quantize(source: Path, target: Path, dataset: data.AnyDataset, split: Any, input_format: InputFormat) -> None:
    """Write the int8 version of a file: int8 weights by channel, uint8 activations.

    The ranges of the activations are those of CALIBRATION_SAMPLES training samples, without augmentation.

    Args:
        source: The ONNX file.
        target: The file to write.
        dataset: The data set, on the CPU.
        split: Its training split, whose order the trial's seed has drawn.
        input_format: The format of the samples of the file.
    """
    prepared = source.with_name(f"{source.stem}-prepared.onnx")
    with silence_logs():
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(target),
            _SampleReader(dataset, split, input_format),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPERATIONS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()


class _SampleReader(CalibrationDataReader):
    """The samples of the calibration, batch by batch."""

    def __init__(self, dataset: data.AnyDataset, split: Any, input_format: InputFormat) -> None:
        batches = iterate_samples(dataset, split, input_format, CALIBRATION_BATCH_SIZE)
        count = -(-CALIBRATION_SAMPLES // CALIBRATION_BATCH_SIZE)
        self._feeds: Iterator[dict[str, Any]] = ({INPUT_NAME: b.inputs.numpy()} for b in islice(batches, count))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the name of the input; None at the end."""
        return next(self._feeds, None)
