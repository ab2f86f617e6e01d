"""The runtimes that execute an exported file, on one thread."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from forcetune.errors import InputError

EXPORT_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "zstandard")  # of the extra forcetune[export]
INPUT_NAME, OUTPUT_NAME = "input", "logits"


class Runtime(Protocol):
    """A loaded file that computes logits."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, classes), float32, of samples in the format of the file."""

    def prepare(self, inputs: Tensor) -> Callable[[], object]:
        """Return a function that computes the logits of these samples and does nothing else, to be timed."""


class OnnxRuntime:
    """An ONNX file in ONNX Runtime, on one thread of the CPU.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, classes), float32, of samples in the format of the file."""
        return torch.from_numpy(self._run(self._make_feed(inputs)))

    def prepare(self, inputs: Tensor) -> Callable[[], object]:
        """Return a function that computes the logits of these samples and does nothing else, to be timed."""
        feed = self._make_feed(inputs)
        return lambda: self._run(feed)

    def _make_feed(self, inputs: Tensor) -> dict[str, Any]:
        return {INPUT_NAME: inputs.numpy()}

    def _run(self, feed: dict[str, Any]) -> Any:
        return self._session.run([OUTPUT_NAME], feed)[0]


class TorchRuntime:
    """A file of torch.export in torch.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._module = torch.export.load(path).module()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, classes), float32, of samples in the format of the file."""
        with torch.no_grad():
            logits: Tensor = self._module(inputs)
        return logits

    def prepare(self, inputs: Tensor) -> Callable[[], object]:
        """Return a function that computes the logits of these samples and does nothing else, to be timed."""
        return lambda: self(inputs)


RUNTIMES: dict[str, Callable[[Path], Runtime]] = {".onnx": OnnxRuntime, ".pt2": TorchRuntime}


def require_packages(purpose: str, alternative: str = "") -> None:
    """Check that the packages of the extra `export` are installed.

    Args:
        purpose: The subject of the message: what needs them.
        alternative: The end of the message: what can be done without them.

    Raises:
        InputError: One of them is missing.
    """
    missing = [name for name in EXPORT_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{purpose} needs {', '.join(missing)}, which this Python lacks; install forcetune with its extra: "
            f"`pip install 'forcetune[export]'`{alternative}"
        )


@contextmanager
def limit_threads() -> Iterator[None]:
    """Let torch use one thread in this block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
