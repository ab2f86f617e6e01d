"""The content of the files that a network is exported to: ONNX, torch.export and safetensors."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import safetensors.torch
import torch
from torch import nn

from forcetune.deploy.inputs import InputFormat
from forcetune.deploy.runtimes import INPUT_NAME, OUTPUT_NAME
from forcetune.pruning import Masks

FileFormat = Literal["onnx", "torch", "safetensors"]
SUFFIXES: dict[FileFormat, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
TRACED_SAMPLES = 2  # torch.export takes a batch of 1 for a constant
METADATA_PREFIX = "forcetune."
METADATA_FILE = "forcetune.json"  # in a file of torch.export
MASK_NAME_PREFIX = "masks/"  # of a mask's name in a file of safetensors


class ExportError(ValueError):
    """The error of a network that torch cannot export."""


def make_onnx(module: nn.Module, input_format: InputFormat, metadata: Mapping[str, str]) -> bytes:
    """Export a network by `torch.onnx.export`, with a dynamic batch.

    Args:
        module: The network behind its normalization, in eval mode.
        input_format: The format of its samples.
        metadata: Texts for the file's metadata, by name.

    Returns:
        The content of the file.

    Raises:
        ExportError: torch cannot export the network.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with _exporting():
        program = torch.onnx.export(
            module,
            (input_format.make_example(TRACED_SAMPLES),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            verbose=False,
        )
        if program is None:
            raise ExportError("torch.onnx.export returned no program")
        # torch writes into each node where its code stands on this machine
        ClearMetadataAndDocStringPass()(program.model)
        for name, text in metadata.items():
            program.model.metadata_props[METADATA_PREFIX + name] = text
        content: bytes = program.model_proto.SerializeToString()
    return content


def make_torch(module: nn.Module, input_format: InputFormat, metadata: Mapping[str, str]) -> bytes:
    """Export a network by `torch.export`, with a dynamic batch.

    Args:
        module: The network behind its normalization, in eval mode.
        input_format: The format of its samples.
        metadata: Texts for the file METADATA_FILE inside the file, by name.

    Returns:
        The content of the file.

    Raises:
        ExportError: torch cannot export the network.
    """
    content = io.BytesIO()
    with _exporting():
        example = (input_format.make_example(TRACED_SAMPLES),)
        program = torch.export.export(module, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it says where the code stands on this machine
        torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(dict(metadata))})
    return content.getvalue()


def make_safetensors(network: nn.Module, masks: Masks, metadata: Mapping[str, str]) -> bytes:
    """Return the parameters and buffers of a network by their names, and its masks behind MASK_NAME_PREFIX.

    Args:
        network: The trained network at its full size; pruned weights are 0.
        masks: Its masks, by parameter name.
        metadata: Texts for the file's metadata, by name.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {f"{MASK_NAME_PREFIX}{name}": mask.cpu().clone().contiguous() for name, mask in masks.items()}
    content: bytes = safetensors.torch.save(tensors, {METADATA_PREFIX + name: text for name, text in metadata.items()})
    return content


@contextmanager
def silence_logs() -> Iterator[None]:
    """Keep log lines from being written in this block: torch and ONNX Runtime log advice on their inner workings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def _exporting() -> Iterator[None]:
    """Turn what torch raises into an ExportError, without its warnings and log lines."""
    try:
        with silence_logs(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except ExportError:
        raise
    except Exception as error:  # tracing runs the user's code, and torch raises errors of many kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
        raise ExportError(f"torch cannot export it ({type(error).__name__}: {reason[:300]})") from error
